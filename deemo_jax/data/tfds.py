"""The two files by which TensorFlow Datasets knows a packed folder."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

from deemo_jax.data.encoded import Encoding, read_encoding
from deemo_jax.data.shards import shard_name

VERSION = "1.0.0"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
SEEN, HEARD, SAID = ({key: key} for key in ("frames", "audio", "transcript"))
SUPERVISED = {
    "deemo_mer": (SEEN | HEARD | SAID, "emotion"),
    "deemo_nfbl": (SEEN | HEARD, "nfbl"),
}
CITATION = """@inproceedings{li2025deemo,
  title = {{DEEMO}: De-identity Multimodal Emotion Recognition and Reasoning},
  author = {Li, D. and Xing, B. and Liu, X. and Xia, B. and Wen, B. and
            K{\\"a}lvi{\\"a}inen, H.},
  booktitle = {ACM Multimedia}, year = {2025}, note = {arXiv:2504.19549}
}"""  # of the subsets' form; whose data it is, their description says


def features(encoding: Encoding | None = None) -> Any:
    """The features of a record, as `tfds.features.FeaturesDict`.

    What a clip lacks is an empty text, an empty list, or empty bytes. With an
    `encoding`, there is what towers made in place of media.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    kinds = tfds.features
    image: Any = kinds.Image(shape=(None, None, 3), encoding_format="jpeg")
    sound, more = kinds.Scalar(np.object_, doc="a FLAC file, 16 kHz mono"), {}
    if encoding is not None:
        shapes = {"frames": encoding.patches, "audio": (-1, encoding.sounds[1])}
        image, sound = (
            kinds.Scalar(np.object_, doc=f"{encoding.dtype} of shape {shapes[name]}")
            for name in ("frames", "audio")
        )
        more = {"encoded": kinds.Text(doc="dtype of frames and audio: no media")}
    return kinds.FeaturesDict(
        {
            "clip_id": kinds.Text(doc="pseudonym"),
            "subject": kinds.Text(doc="pseudonym"),
            "duration": kinds.Scalar(np.float32, doc="seconds"),
            "frames": kinds.Sequence(image),
            "frame_times": kinds.Sequence(np.float32),
            "audio": sound,
            "transcript": kinds.Text(),
            "emotion": kinds.Text(),
            "reasoning": kinds.Text(),
            "nfbl": kinds.Sequence(
                {"label": kinds.Text(), "start": np.float32, "end": np.float32}
            ),
            "nfbl_annotated": kinds.Text(doc="yes, or empty where nobody looked"),
            "verdict": kinds.Text(doc="of the de-identification's audit"),
            "deidentification": kinds.Text(doc="methods and their version"),
            **more,
        }
    )


def write_metadata(
    folder: Path,
    name: str,
    shard_lengths: Mapping[str, Sequence[int]],
    num_bytes: Mapping[str, int],
    description: str,
    *,
    format: str = "tfrecord",
    records_kept: bool = False,
) -> None:
    """Writes `features.json`, then `dataset_info.json`, each whole or not at all.

    Of records that are those of before, `features.json` stays as it is, too.

    `shard_lengths` are the records of each shard of each split; the shards have the
    names that `shard_name` gives.
    """
    import tensorflow_datasets as tfds

    for left in folder.glob(".metadata*"):  # of a call that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".metadata") as beside:
        template = tfds.core.ShardedFileTemplate(
            data_dir=beside,  # pyright: ignore[reportArgumentType]  it converts
            dataset_name=name,
            template=TEMPLATE,
            filetype_suffix=format,
        )
        splits = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(lengths),
                num_bytes=num_bytes[split],
                filename_template=template,
            )
            for split, lengths in shard_lengths.items()
        ]
        # TFDS derives names of data set and splits from the files that it finds.
        for split, lengths in shard_lengths.items():
            first = shard_name(name, split, 0, len(lengths), format)
            (Path(beside) / first).touch()
        tfds.folder_dataset.write_metadata(
            data_dir=beside,
            features=features(read_encoding(folder)),
            split_infos=splits,
            version=VERSION,
            check_data=False,
            description=description,
            supervised_keys=SUPERVISED.get(name),
            citation=CITATION if name in SUPERVISED else None,
        )
        files = ("features.json", "dataset_info.json")
        for file in files[records_kept:]:
            (Path(beside) / file).replace(folder / file)


def dataset_name(folder: Path) -> str | None:
    """The name of the data set that a folder holds, or None if it holds none."""
    try:
        return str(json.loads((folder / "dataset_info.json").read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
