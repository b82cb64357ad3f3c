from typing import Any

import numpy as np
import pytest

from deemo_jax.data import example, record, tfds

FEATURES: dict[str, Any] = {
    "text": [b"so it goes"],
    "bytes": [b"", b"\x00\xff" * 300, b"a"],
    "empty": [],
    "floats": np.array([0.5, -1e30, 3.0]),
    "no floats": np.array([]),
    "many": np.arange(100.0),
}


def test_what_is_written_is_read():
    expected = {
        key: value if isinstance(value, list) else value.astype(np.float32).tolist()
        for key, value in FEATURES.items()
    }
    assert example.parse(example.serialize(FEATURES)) == expected


def test_what_is_empty_has_its_kind():
    """Feature { bytes_list } is field 1, Feature { float_list } field 2."""
    assert example.serialize({"a": []})[-2:] == b"\x0a\x00"
    assert example.serialize({"a": np.array([])})[-2:] == b"\x12\x00"


def test_equal_features_give_equal_bytes_in_any_order():
    backwards = dict(reversed(FEATURES.items()))
    assert example.serialize(backwards) == example.serialize(FEATURES)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_lengths_at_the_edges_of_a_varint(length):
    features = {"a": [b"x" * length]}
    assert example.parse(example.serialize(features)) == features


def test_tensorflow_datasets_reads_what_is_written(rows):
    kinds = tfds.features()
    for row in rows[:8]:
        found = kinds.deserialize_example_np(record.to_bytes(row))
        assert found["clip_id"] == row.clip_id.encode()
        assert found["audio"] == (row.audio or b"")
        assert found["transcript"] == (row.transcript or "").encode()
        assert len(found["frames"]) == len(row.frames)
        assert all(frame.shape == (16, 20, 3) for frame in found["frames"])
        np.testing.assert_allclose(found["frame_times"], row.frame_times)
        np.testing.assert_allclose(
            found["nfbl"]["end"], [i.end for i in row.nfbl or ()]
        )


def test_what_tensorflow_datasets_writes_is_read(rows):
    kinds, row = tfds.features(), rows[0]
    written = kinds.serialize_example(
        kinds.encode_example(
            {
                "clip_id": row.clip_id,
                "subject": row.subject,
                "duration": row.duration,
                "frames": list(row.frames),
                "frame_times": list(row.frame_times),
                "audio": row.audio,
                "transcript": row.transcript,
                "emotion": row.emotion,
                "reasoning": row.reasoning,
                "nfbl": [
                    {"label": i.label, "start": i.start, "end": i.end} for i in row.nfbl
                ],
                "nfbl_annotated": "yes",
                "verdict": row.verdict,
                "deidentification": row.deidentification,
            }
        )
    )
    assert record.from_bytes(written) == row


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_what_is_cut_short_is_refused(cut):
    with pytest.raises(ValueError, match="ends too early"):
        example.parse(example.serialize(FEATURES)[:-cut])


def test_integers_are_refused():
    integers = b"\x1a\x03\x0a\x01\x05"  # Feature { int64_list { value: 5 } }
    entry = b"\x0a\x01n\x12" + bytes([len(integers)]) + integers
    feature = b"\x0a" + bytes([len(entry)]) + entry
    with pytest.raises(ValueError, match="'n' holds integers"):
        example.parse(b"\x0a" + bytes([len(feature)]) + feature)
