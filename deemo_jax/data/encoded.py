"""What a folder of encoded records says of its towers, and how its records are read."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from jaxtyping import Float
import ml_dtypes
import numpy as np

from deemo_jax.config_data import DataConfig
from deemo_jax.data.record import Record
from deemo_jax.storage import AnyPath, write_whole

MANIFEST = "towers.json"
FORMAT = "deemo-features/1"
DTYPES = ("bfloat16", "float16", "float32")
ABOUT = (
    "The records hold what frozen towers made of frames and sound, which are not in "
    "them. Features are personal data as the media are."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """What stands in place of media in a packed folder, and what it was made with.

    Attributes:
        dtype: of the features, one of `DTYPES`.
        patches: of a frame, (patches, width).
        sounds: of a clip's sound, (features, width), at most.
        computed_in: the dtype in which the towers computed.
        settings: the keys of `config` that the features follow from, and their values.
        digests: of each tower's parameters, see `train.frozen.digest`.
    """

    dtype: str
    patches: tuple[int, int]
    sounds: tuple[int, int]
    computed_in: str
    settings: dict[str, Any]
    digests: dict[str, str]


def write_encoding(folder: AnyPath, encoding: Encoding) -> None:
    """Writes `towers.json`, by which a folder is known to hold no media."""
    stated = {"format": FORMAT, "about": ABOUT, **dataclasses.asdict(encoding)}
    write_whole(folder / MANIFEST, json.dumps(stated, indent=1) + "\n")


def read_encoding(folder: AnyPath) -> Encoding | None:
    """What a packed folder says of its towers; None where its records hold media.

    Raises:
        ValueError: the file that says it is damaged, or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        stated = json.loads(path.read_bytes())
        known = stated.pop("format") == FORMAT
        del stated["about"]
        for name in ("patches", "sounds"):
            first, second = map(int, stated[name])
            stated[name] = (first, second)
        found = Encoding(**stated)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: copy it again") from error
    if not known or found.dtype not in DTYPES:
        raise ValueError(f"{path} is of another version: pack the features again")
    return found


def to_bytes(values: Float[np.ndarray, "..."], dtype: str) -> bytes:
    """Features as a record holds them, little-endian, the last axis the closest."""
    return np.ascontiguousarray(values, dtype=_dtype(dtype)).tobytes()


def fit(
    record: Record | None,
    modalities: Sequence[str],
    config: DataConfig,
    encoding: Encoding,
) -> dict[str, Any]:
    """The media's fields of a row, of a record that holds features in place of them.

    Raises:
        ValueError: it holds something else.
    """
    if record and record.encoded != encoding.dtype:
        raise ValueError(
            f"clip {record.clip_id} holds {record.encoded or 'media'}, and {MANIFEST} "
            f"of its folder says {encoding.dtype}: pack the features again"
        )
    dtype = _dtype(encoding.dtype)
    video = np.zeros((config.num_frames, *encoding.patches), dtype)
    seen = (
        record.frames if record and config.num_frames and "video" in modalities else ()
    )
    for place, data in enumerate(seen):
        video[place] = np.frombuffer(data, dtype).reshape(encoding.patches)
    longest, width = encoding.sounds
    audio = np.zeros((longest if config.num_samples else 0, width), dtype)
    heard = (
        record.audio
        if record and config.num_samples and "audio" in modalities
        else None
    )
    sound = np.frombuffer(heard or b"", dtype).reshape(-1, width)
    audio[: len(sound)] = sound
    return {
        "frames": np.zeros((config.num_frames, 0, 0, 3), np.uint8),
        "frame_mask": np.arange(config.num_frames) < len(seen),
        "audio": np.zeros(0, np.float32),
        "audio_length": np.int32(len(sound)),
        "video_features": video,
        "audio_features": audio,
    }


def _dtype(name: str) -> np.dtype:
    """numpy's dtype of that name; it has no bfloat16 of its own."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
