"""The bytes of a `tf.train.Example`, written and read without TensorFlow.

Only what a record needs: lists of bytes and of float32. Keys are written in sorted
order, so equal features give equal bytes, which protobuf's own serializer does not
promise for a map. The wire format is that of https://protobuf.dev/programming-guides/
encoding; the messages are

    Example  { Features features = 1; }
    Features { map<string, Feature> feature = 1; }   an entry: key = 1, value = 2
    Feature  { BytesList bytes_list = 1; FloatList float_list = 2; ... }
    BytesList { repeated bytes value = 1; }
    FloatList { repeated float value = 1 [packed]; }
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Tags of length-delimited fields: (field number << 3) | 2.
FIRST, SECOND = b"\x0a", b"\x12"


def serialize(features: Mapping[str, list[bytes] | np.ndarray]) -> bytes:
    """The bytes of an Example: a list holds bytes, an array becomes float32.

    An empty one has its kind all the same: TensorFlow refuses another.
    """
    entries = []
    for key in sorted(features):
        values = features[key]
        if isinstance(values, np.ndarray):
            packed = values.astype("<f4").tobytes()
            feature = _field(SECOND, _field(FIRST, packed) if packed else b"")
        else:
            feature = _field(FIRST, b"".join(_field(FIRST, v) for v in values))
        entry = _field(FIRST, key.encode()) + _field(SECOND, feature)
        entries.append(_field(FIRST, entry))
    return _field(FIRST, b"".join(entries))


def parse(data: bytes) -> dict[str, list[Any]]:
    """The features of an Example: the inverse of `serialize`.

    Raises:
        ValueError: the bytes are no Example, or hold a list of integers.
    """
    features: dict[str, list[Any]] = {}
    for _, message in _fields(memoryview(data)):
        for _, entry in _fields(message):
            key, feature = "", memoryview(b"")
            for tag, value in _fields(entry):
                if tag == FIRST:
                    key = bytes(value).decode()
                else:
                    feature = value
            features[key] = _values(key, feature)
    return features


def _values(key: str, feature: memoryview) -> list[Any]:
    for kind, values in _fields(feature):
        if kind == FIRST:
            return [bytes(value) for _, value in _fields(values)]
        if kind == SECOND:
            return [
                number
                for _, packed in _fields(values)
                for number in np.frombuffer(packed, "<f4").tolist()
            ]
        raise ValueError(f"feature {key!r} holds integers: pack the data set again")
    return []


def _field(tag: bytes, value: bytes) -> bytes:
    """A length-delimited field."""
    length, varint = len(value), bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    varint.append(length)
    return tag + bytes(varint) + value


def _fields(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(tag, value) of each length-delimited field; frames are copied by no level."""
    at = 0
    while at < len(data):
        tag, at = bytes(data[at : at + 1]), at + 1
        if tag[0] & 7 != 2:
            raise ValueError(f"wire type {tag[0] & 7} is none that a record has")
        length = shift = 0
        while True:
            byte = data[at] if at < len(data) else 0
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if at + length > len(data):
            raise ValueError("an Example that ends too early")
        yield tag, data[at : at + length]
        at += length
