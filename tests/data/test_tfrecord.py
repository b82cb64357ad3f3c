from deemo_jax.data import tfrecord
from deemo_jax.data.shards import read_index, shard_name


def test_the_framing_is_tensorflows(folder):
    import grain

    path = folder / shard_name("tiny", "train", 0, 2)
    entries = read_index(path).entries
    read = list(grain.experimental.TFRecordIterDataset(str(path)))
    assert [len(data) for data in read] == [entry.length for entry in entries]
    data = path.read_bytes()
    for entry, found in zip(entries, read, strict=True):
        assert tfrecord.crc32c(found) == entry.crc32c
        header = data[entry.offset : entry.offset + 12]
        footer = data[entry.offset + 12 + entry.length :][:4]
        for checked, stored in ((header[:8], header[8:]), (found, footer)):
            crc = tfrecord.crc32c(checked)
            rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
            masked = (rotated + 0xA282EAD8) % 2**32
            assert int.from_bytes(stored, "little") == masked


def test_what_follows_a_damaged_length_is_not_read(tmp_path):
    path = tmp_path / "x.tfrecord-00000-of-00001"
    with tfrecord.writing(path) as write:
        offsets = [write(data) for data in (b"one", b"two", b"three")]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    problems = [(o, problem) for o, _, problem in tfrecord.scan(path)]
    assert problems == [(0, ""), (offsets[1], ""), (offsets[2], "is cut short")]
    path.write_bytes(whole[: offsets[1] + 3] + b"\1" + whole[offsets[1] + 4 :])
    [(_, data, _), (offset, _, problem)] = tfrecord.scan(path)
    assert (data, offset) == (b"one", offsets[1])
    assert problem == "has a damaged length, what follows is not read"


def test_crc32c_is_the_published_one():
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4's CRC
