"""One record: what is packed of a de-identified clip, and its bytes."""

from collections.abc import Iterable
import dataclasses
import functools
import hashlib
import hmac
import io
import math
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
import numpy as np

from deemo_jax import media
from deemo_jax.annotation import Interval
from deemo_jax.clip import DeidentifiedClip, file_digest
from deemo_jax.data import example
from deemo_jax.data.windows import Window, sound_of
from deemo_jax.refusals import Refusal


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """Which frames of a clip are kept, and how.

    `fps` frames a second, but at least `min_frames` and at most `max_frames` of a
    clip, evenly spread; their shortest side is at most `size` pixels (never enlarged);
    JPEG of `quality`.
    """

    fps: float = 4.0
    min_frames: int = 16
    max_frames: int = 64
    size: int = 384
    quality: int = 92


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A clip as it is trained on. What the clip lacks is None, media may be empty.

    Attributes:
        clip_id, subject: pseudonyms; see `pseudonym`.
        duration: seconds.
        frames: JPEG files; of an encoded record, what the vision tower made of each.
        frame_times: seconds of each frame from the clip's start.
        audio: a FLAC file, 16 kHz mono; of an encoded record, what the audio tower
            made of it.
        nfbl: intervals of body language, seconds from the clip's start; () where it
            shows none, None where nobody looked.
        verdict: the audit's.
        deidentification: methods and version.
        encoded: the dtype of the frozen towers' features that it holds; it has no media
            then. Empty: it has media.
    """

    clip_id: str
    subject: str
    duration: float
    frames: tuple[bytes, ...]
    frame_times: tuple[float, ...]
    audio: bytes | None
    transcript: str | None
    emotion: str | None
    reasoning: str | None
    nfbl: tuple[Interval, ...] | None
    verdict: str
    deidentification: str
    encoded: str = ""


def pseudonym(salt: bytes, kind: str, name: str) -> str:
    """32 hexadecimal digits of HMAC-SHA256; not to be undone without the salt."""
    return hmac.digest(salt, f"{kind}:{name}".encode(), hashlib.sha256).hex()[:32]


def from_clip(
    clip: DeidentifiedClip, salt: bytes, sampling: FrameSampling | None = None
) -> Record:
    """Reads a de-identified clip's files, or a window of them, into a record.

    Raises:
        TypeError: `clip` is no `DeidentifiedClip`.
        Refusal: its media cannot be read or are no longer those that were listed, or
            its length is not known.
    """
    if not isinstance(clip, DeidentifiedClip):
        raise TypeError(
            f"{type(clip).__name__} is not de-identified; only a DeidentifiedClip "
            "can be packed: run `deemo deidentify` first"
        )
    annotation = clip.annotation
    if annotation.end is None:
        raise Refusal("its length is not stated", "run `deemo deidentify` again")
    frames, times = [], []
    within = annotation.start, annotation.end
    duration = annotation.end - annotation.start
    if clip.video is not None:
        shown = media.iter_frames(
            clip.video, *(within if isinstance(clip, Window) else ())
        )
        kept = sample_frames(shown, duration, sampling or FrameSampling())
        for time, pixels in kept:
            frames.append(encode_jpeg(pixels, sampling or FrameSampling()))
            times.append(time)
    sound = sound_of(clip)
    for part, path in (("video", clip.video), ("audio", clip.audio)):
        if path is not None and _digest_now(path) != clip.sha256[part]:
            raise Refusal(
                f"{path.name} was changed while it was packed", "pack it again"
            )
    return Record(
        clip_id=pseudonym(salt, "clip", annotation.clip_id),
        subject=pseudonym(salt, "subject", annotation.subject),
        duration=duration,
        frames=tuple(frames),
        frame_times=tuple(times),
        audio=sound,
        transcript=annotation.transcript,
        emotion=annotation.emotion,
        reasoning=annotation.reasoning,
        nfbl=annotation.nfbl,
        verdict=clip.verdict,
        deidentification=clip.deidentification,
    )


def _digest_now(path: Path) -> str:
    """SHA-256 of a file: hours may lie between its first check and its reading."""
    about = path.stat()
    return _digest_of(path, about.st_ino, about.st_size, about.st_ctime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, *identity: int) -> str:
    """Not once for each window of a long file, unless that was written to."""
    return file_digest(path)


def sample_frames(
    frames: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]],
    duration: float,
    sampling: FrameSampling,
) -> Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """Those (seconds, pixels) that show at the middles of equal parts of the clip.

    One frame is held at a time; of a clip with fewer frames than parts, all come.

        frames       a  b  c  d  e  f  g  h    from 0, 1, … 7 of 8 seconds on
        in 3 parts   .  b  .  .  e  .  g  .    what shows at 1.33, 4 and 6.67
    """
    wanted = math.ceil(duration * sampling.fps)
    parts = min(max(wanted, sampling.min_frames), sampling.max_frames)
    part, shown = 0, None
    for time, pixels in frames:
        due = part
        while part < parts and (part + 0.5) * duration / parts < time:
            part += 1
        if part > due and shown is not None:
            yield shown
        shown = (time, pixels)
    if part < parts and shown is not None:
        yield shown


def encode_jpeg(pixels: UInt8[np.ndarray, "H W 3"], sampling: FrameSampling) -> bytes:
    """A JPEG file, made smaller where the shortest side exceeds `sampling.size`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    scale = sampling.size / min(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=sampling.quality)
    return file.getvalue()


def to_bytes(record: Record) -> bytes:
    """The `tf.train.Example` that `features.json` describes.

    What is absent is written empty: TFDS has no optional features.
    """
    intervals = record.nfbl or ()
    text = {
        key: [(getattr(record, key) or "").encode()]
        for key in (
            "clip_id", "subject", "transcript", "emotion", "reasoning", "verdict",
            "deidentification",
        )
    }  # fmt: skip
    return example.serialize(
        {
            **text,
            "duration": np.array([record.duration]),
            "frames": list(record.frames),
            "frame_times": np.array(record.frame_times),
            "audio": [record.audio or b""],
            "nfbl/label": [interval.label.encode() for interval in intervals],
            "nfbl/start": np.array([interval.start for interval in intervals]),
            "nfbl/end": np.array([interval.end for interval in intervals]),
            "nfbl_annotated": [b"" if record.nfbl is None else b"yes"],
            **({"encoded": [record.encoded.encode()]} if record.encoded else {}),
        }
    )


def from_bytes(data: bytes) -> Record:
    """The inverse of `to_bytes`; seconds come back rounded to float32."""
    fields = example.parse(data)
    intervals = tuple(
        Interval(label=label.decode(), start=start, end=end)
        for label, start, end in zip(
            fields["nfbl/label"], fields["nfbl/start"], fields["nfbl/end"], strict=True
        )
    )
    # Records of before this field had none alike for "no" and for "nobody looked".
    annotated = _text(fields, "nfbl_annotated") if "nfbl_annotated" in fields else ""
    return Record(
        clip_id=_text(fields, "clip_id"),
        subject=_text(fields, "subject"),
        duration=fields["duration"][0],
        frames=tuple(fields["frames"]),
        frame_times=tuple(fields["frame_times"]),
        audio=fields["audio"][0] or None,
        transcript=_text(fields, "transcript") or None,
        emotion=_text(fields, "emotion") or None,
        reasoning=_text(fields, "reasoning") or None,
        nfbl=intervals if annotated or intervals else None,
        verdict=_text(fields, "verdict"),
        deidentification=_text(fields, "deidentification"),
        encoded=_text(fields, "encoded") if "encoded" in fields else "",
    )


def _text(fields: dict[str, list[Any]], key: str) -> str:
    return fields[key][0].decode()
