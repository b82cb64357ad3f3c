"""Features in place of media: as they were made, masked, and known by their folder."""

import json

import ml_dtypes
import numpy as np
import pytest

from deemo_jax.config_data import MODALITIES
from deemo_jax.data import encoded, integrity, record
from deemo_jax.data.encoded import Encoding, fit, read_encoding, to_bytes
from deemo_jax.data.reader import fit_media
from deemo_jax.data.shards import read_index
from deemo_jax.data.source import ShardSource

PATCHES, SOUNDS = (4, 5), (37, 6)
KINDS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


def encoding(dtype="bfloat16"):
    return Encoding(
        dtype=dtype,
        patches=PATCHES,
        sounds=SOUNDS,
        computed_in="float32",
        settings={"data.num_frames": 3},
        digests={"vision_tower": "a", "audio_tower": "b"},
    )


def features(seed=0, frames=2, sounds=30):
    draw = np.random.default_rng(seed)
    seen = draw.normal(size=(frames, *PATCHES)).astype(np.float32)
    return seen, draw.normal(size=(sounds, SOUNDS[1])).astype(np.float32)


@pytest.fixture
def make_encoded(make_record):
    def make(i=0, dtype="bfloat16", **changes):
        seen, heard = features(i)
        fields = {
            "frames": tuple(to_bytes(frame, dtype) for frame in seen),
            "frame_times": (0.5, 1.5),
            "audio": to_bytes(heard, dtype),
            "encoded": dtype,
        }
        return make_record(i, **fields | changes)

    return make


@pytest.fixture
def packed(tmp_path, pack_records, make_encoded):
    encoded.write_encoding(tmp_path, encoding())
    return pack_records(tmp_path, [make_encoded(i) for i in range(4)])


@pytest.mark.parametrize("dtype", KINDS)
def test_they_come_back_to_the_bit_and_what_is_not_there_is_masked(
    make_encoded, config, dtype
):
    row = fit(make_encoded(dtype=dtype), MODALITIES, config, encoding(dtype))
    seen, heard = (part.astype(KINDS[dtype]) for part in features())
    assert row["video_features"].dtype == row["audio_features"].dtype == KINDS[dtype]
    np.testing.assert_array_equal(row["video_features"][:2], seen)
    np.testing.assert_array_equal(row["audio_features"][:30], heard)
    assert not row["video_features"][2:].any()
    assert not row["audio_features"][30:].any()
    assert row["frame_mask"].tolist() == [True, True, False]
    assert row["audio_length"] == 30
    assert row["frames"].size == row["audio"].size == 0


def test_a_modality_that_is_left_out_or_not_there_leaves_nothing(make_encoded, config):
    unseen = fit(make_encoded(), ("audio", "text"), config, encoding())
    assert not unseen["video_features"].any()
    assert not unseen["frame_mask"].any()
    assert unseen["audio_length"] == 30
    for row in (
        fit(make_encoded(audio=None), MODALITIES, config, encoding()),
        fit(make_encoded(), ("video",), config, encoding()),
    ):
        assert row["frame_mask"].any()
        assert not row["audio_features"].any()
        assert row["audio_length"] == 0
    nothing = fit(None, (), config, encoding())
    shapes = {name: np.shape(value) for name, value in nothing.items()}
    assert shapes == {name: np.shape(value) for name, value in unseen.items()}
    assert not any(np.any(value) for value in nothing.values())


def test_a_record_says_that_it_holds_no_media(make_encoded, make_record):
    one = make_encoded()
    assert record.from_bytes(record.to_bytes(one)) == one
    assert record.from_bytes(record.to_bytes(make_record(0))).encoded == ""
    assert b"encoded" not in record.to_bytes(make_record(0))


def test_a_folder_is_known_by_its_towers(packed, folder):
    assert ShardSource(folder, "train").encoding is None
    source = ShardSource(packed, "train")
    assert source.encoding == encoding()
    assert source[1].encoded == "bfloat16"
    assert "no media" in (packed / "features.json").read_text()
    assert "JPEG" not in (packed / "features.json").read_text().upper()


def test_it_is_looked_after_as_any_other(packed):
    assert integrity.check(packed) == []
    [shard, _] = sorted(packed.glob("*.tfrecord-*-of-00002"))
    before = read_index(shard)
    assert integrity.reindex(packed) == 4
    assert read_index(shard) == before


def test_what_its_description_says_is_compared_with_its_records(packed):
    path = packed / encoded.MANIFEST
    text = path.read_text()
    path.write_text(text[:-9])
    assert integrity.check(packed) == [f"{path} is damaged: copy it again"]
    path.write_text(text.replace("bfloat16", "float16"))
    first, second = integrity.check(packed)
    assert "2 records hold bfloat16, towers.json says float16: copy" in first
    assert first.split(": ")[1:] == second.split(": ")[1:]
    path.unlink()
    first, _ = integrity.check(packed)
    assert "2 records hold bfloat16, towers.json is missing: copy it again" in first


def test_records_and_towers_that_contradict_are_refused(
    make_record, make_encoded, config
):
    with pytest.raises(ValueError, match=r"clip000 holds media, .* says bfloat16"):
        fit(make_record(0), MODALITIES, config, encoding())
    with pytest.raises(ValueError, match=r"clip000 holds float32, .* says bfloat16"):
        fit(make_encoded(dtype="float32"), MODALITIES, config, encoding())
    with pytest.raises(ValueError, match=r"clip000 holds features .* towers.json"):
        fit_media(make_encoded(), MODALITIES, config)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[:-9], "is damaged: copy it again"),
        (lambda text: text.replace('"patches"', '"pieces"'), "is damaged"),
        (lambda text: text.replace("features/1", "features/0"), "another version"),
        (lambda text: text.replace("bfloat16", "int8"), "another version"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, harm, message):
    encoded.write_encoding(tmp_path, encoding())
    path = tmp_path / encoded.MANIFEST
    assert "personal data" in json.loads(path.read_text())["about"]
    path.write_text(harm(path.read_text()))
    with pytest.raises(ValueError, match=message):
        read_encoding(tmp_path)
