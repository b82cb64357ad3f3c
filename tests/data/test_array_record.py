"""What `array_record` writes is read by its place alone, wherever blocks cut it."""

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import HealthCheck, example, given, settings, strategies
import pytest

from deemo_jax.data import array_record

BLOCK = 1 << 16
AT_BLOCK = 65_427  # bytes of a record that the next block follows
AROUND = strategies.integers(BLOCK - 200, BLOCK + 50)  # where the next block begins
LENGTHS = strategies.one_of(
    strategies.integers(0, 300), AROUND, strategies.integers(0, 4 * BLOCK)
)


def write(path, lengths):
    records = [
        bytes([n % 251]) + b"0123456789" * (k // 10) for n, k in enumerate(lengths)
    ]
    records = [(data * 2)[:k] for data, k in zip(records, lengths, strict=True)]
    with array_record.writing(path) as write:
        offsets = [write(data) for data in records]
    return records, offsets


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(strategies.lists(LENGTHS, max_size=6))
@example([])
@example([AT_BLOCK, 5])
@example([2 * BLOCK, 127, 128, 16383, 16384])
def test_any_record_is_read_by_its_place(tmp_path, lengths):
    path = tmp_path / "x.array_record-00000-of-00001"
    records, offsets = write(path, lengths)
    data = path.read_bytes()

    def read(start, end):
        return data[start:end]

    for record, offset in zip(records, offsets, strict=True):
        assert array_record.record(read, offset, len(record)) == record
    found = [(o, record, "") for o, record in zip(offsets, records, strict=True)]
    assert list(array_record.scan(path)) == found
    if records:
        assert ArrayRecordReader(str(path)).read_all() == records


def test_it_is_in_groups_of_one_as_grain_wants_it(tmp_path, caplog):
    path = tmp_path / "x.array_record-00000-of-00001"
    records, _ = write(path, [10, 20_000, 300, 0])
    source = ArrayRecordDataSource([str(path)])
    assert [source[i] for i in (3, 0, 2, 1)] == [records[i] for i in (3, 0, 2, 1)]
    assert not caplog.records  # it says so of larger groups


LENGTHS_OF = [10, 70_000, 65_536, 30_000, 7], [AT_BLOCK, 5]


@pytest.mark.parametrize(
    ("lengths", "number"), [(each, n) for each in LENGTHS_OF for n in range(len(each))]
)
def test_offsets_are_those_that_the_library_has(tmp_path, lengths, number):
    path = tmp_path / "x.array_record-00000-of-00001"
    _, offsets = write(path, lengths)
    data = bytearray(path.read_bytes())
    data[offsets[number] + 30] ^= 1
    path.write_bytes(data)
    found = list(array_record.scan(path))
    assert [offset for offset, _, _ in found] == offsets
    wrong = [n for n, (_, _, problem) in enumerate(found) if problem]
    assert wrong == [number]
    assert f"chunk at {offsets[number]}" in found[number][2]


@pytest.mark.parametrize("cut", [1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK])
def test_without_its_own_index_nothing_is_found(tmp_path, cut):
    path = tmp_path / "x.array_record-00000-of-00001"
    write(path, [10, 20])
    path.write_bytes(path.read_bytes()[:-cut])
    [(offset, _, problem)] = array_record.scan(path)
    assert offset == 64
    assert problem.startswith("and what follows is ")


def test_what_stands_otherwise_is_said(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "x.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")  # compressed
    writer.write(b"0" * 1000)
    writer.close()
    [(_, _, problem)] = array_record.scan(path)
    assert "does not stand where group_size:1,uncompressed puts it" in problem


def test_a_full_disk_is_an_error(tmp_path):
    path = tmp_path / "x.array_record-00000-of-00001"
    path.symlink_to("/dev/full")
    with (
        pytest.raises(RuntimeError, match="No space left"),
        array_record.writing(path) as write,
    ):
        write(b"0" * 5_000_000)
