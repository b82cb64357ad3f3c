"""A small packed folder without media files: records are made directly."""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from PIL import Image
import pytest
import soundfile

from deemo_jax.annotation import (
    Annotation,
    Interval,
    load_taxonomy,
    write_annotations,
)
from deemo_jax.clip import DeidentifiedClip, append_deidentified, file_digest
from deemo_jax.config_data import DataConfig, SyntheticConfig
from deemo_jax.data import prompt, tfds
from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.record import Record
from deemo_jax.data.shards import FORMATS, shard_name, write_shard
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.data.turns import Asker
from deemo_jax.media import write_video


def _jpeg(rng, width=20, height=16):
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _flac(rng, samples=8000):
    file = io.BytesIO()
    sound = rng.uniform(-0.5, 0.5, samples)
    soundfile.write(file, sound, 16_000, "PCM_16", format="FLAC")
    return file.getvalue()


def _make_record(i, **changes):
    """Clip `i`: all parts, unless `changes` leave one out."""
    rng = np.random.default_rng(i)
    emotion = ("negative", "positive")[i % 2]
    fields = {
        "clip_id": f"clip{i:03}",
        "subject": f"subject{i % 3}",
        "duration": 2.0,
        "frames": tuple(_jpeg(rng) for _ in range(5)),
        "frame_times": tuple(0.5 * k for k in range(5)),
        "audio": _flac(rng),
        "transcript": f"Number {i} was {('bad', 'good')[i % 2]}.",
        "emotion": emotion,
        "reasoning": f"The arms are {('low', 'high')[i % 2]}, so it is {emotion}.",
        "nfbl": (Interval(label="crossing fingers", start=0.5, end=1.25),),
        "verdict": "generated",
        "deidentification": "generated/1",
    }
    return Record(**fields | changes)


def _pack(folder, rows, *, split="train", shards=2, name="tiny", format="tfrecord"):
    """Writes records into a packed folder of one split, without media or salt."""
    cuts = [len(rows) * k // shards for k in range(shards + 1)]
    counts = [
        len(
            write_shard(
                folder / shard_name(name, split, k, shards, format),
                rows[cuts[k] : cuts[k + 1]],
            )
        )
        for k in range(shards)
    ]
    (folder / "taxonomy.json").write_text(json.dumps(load_taxonomy().to_json()))
    write_withdrawn(folder, frozenset())
    tfds.write_metadata(
        folder, name, {split: counts}, {split: 1}, "made by a test", format=format
    )
    return folder


@pytest.fixture(params=list(FORMATS))
def format(request):
    return request.param


@pytest.fixture(scope="session")
def jpeg():
    return _jpeg


@pytest.fixture(scope="session")
def flac():
    return _flac


@pytest.fixture(scope="session")
def make_record():
    return _make_record


@pytest.fixture(scope="session")
def pack_records():
    return _pack


@pytest.fixture(scope="session")
def rows():
    missing = {3: {"frames": (), "frame_times": ()}, 4: {"audio": None}}
    missing |= {5: {"transcript": None}, 6: {"reasoning": None}, 7: {"nfbl": None}}
    missing |= {8: {"nfbl": ()}}  # not missing: none is shown
    return [_make_record(i, **missing.get(i, {})) for i in range(13)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, rows):
    return _pack(tmp_path_factory.mktemp("packed"), rows)


@pytest.fixture(scope="session")
def source(tmp_path_factory, rows):
    # A folder of its own: the loader keeps token lengths beside the shards.
    return ShardSource(_pack(tmp_path_factory.mktemp("read"), rows), "train")


@pytest.fixture(scope="session")
def asker(config):
    """Asks both tasks in their first words."""
    classes = {"crossing fingers": 12}
    return Asker(config=config, emotions=("negative", "positive"), classes=classes)


@pytest.fixture(scope="session")
def tokenizer(rows, asker):
    return train_tokenizer(prompt.corpus_texts(rows, asker), 400)


@pytest.fixture(scope="session")
def config():
    return DataConfig(
        path="",
        name="tiny",
        tokenizer="",
        folds=0,
        fold=0,
        synthetic=SyntheticConfig(
            train_clips=1, test_clips=1, train_subjects=1, test_subjects=1
        ),
        tasks=("recognition", "reasoning"),
        task_weights=(),
        phrasings=1,
        nfbl_never=0.5,
        nfbl_cues=False,
        num_frames=3,
        image_size=16,
        audio_seconds=0.75,
        max_length=96,
        clips_per_row=1,
        modality_dropout=0.3,
        augment=True,
        workers=0,
        prefetch=2,
        features="",
    )


def clip(
    clip_id, subject="anna", split=None, consent="granted", emotion="positive", **fields
):
    annotation = Annotation(
        clip_id=clip_id, media=f"media/{clip_id}.flac", subject=subject, end=0.5,
        split=split, consent=consent, emotion=emotion,
    )  # fmt: skip
    rest: dict[str, Any] = {"video": None, "audio": None, "sha256": {}, "faces": {}}
    rest |= {"deidentification": "generated/1", "verdict": "generated"}
    return DeidentifiedClip(annotation=annotation, **rest | fields)


@pytest.fixture
def input(tmp_path, flac):
    """A de-identified folder: 12 clips of 4 subjects, two with pictures."""
    folder = tmp_path / "deidentified"
    (folder / "media").mkdir(parents=True)
    clips = []
    for i in range(12):
        one = clip(f"clip{i}", f"subject{i % 4}", ("train", "test")[i % 4 == 3])
        sound = folder / one.annotation.media
        sound.write_bytes(flac(np.random.default_rng(i)))
        files = {"audio": sound}
        if i < 2:
            files["video"] = folder / "media" / f"clip{i}.mp4"
            pixels = np.full((16, 16, 3), 20 * i, np.uint8)
            write_video(files["video"], ((k / 10, pixels) for k in range(5)))
        digests = {part: file_digest(path) for part, path in files.items()}
        clips.append(dataclasses.replace(one, sha256=digests, **files))
        append_deidentified(folder, clips[-1])
    write_annotations(folder / "annotations.jsonl", [c.annotation for c in clips])
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
