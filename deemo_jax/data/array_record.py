"""How records stand in an ArrayRecord shard: each a chunk of a Riegeli file.

Such a file is a stream of chunks, which a header interrupts at every 64 KiB of the
file (google/riegeli, doc/riegeli_records_file_format.md). In groups of one record and
uncompressed (JPEG and FLAC do not get smaller), where a record stands follows from its
length, and it is read by its place alone, here as in a bucket:

    file      block header 24 | 64 KiB - 24 of the stream | block header 24 | …
    stream    signature 40 | chunk | chunk | … | ArrayRecord's own index
    chunk     chunk header 40 | no compression 1 | size of what follows 1
              | record's length, 1 to 9 | record

Shards are written and looked through by `array_record`, which checks all hashes.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
from typing import Any

OPTIONS = "group_size:1,uncompressed"  # the first is TFDS's, too
BLOCK, BLOCK_HEADER = 1 << 16, 24
SIGNATURE, CHUNK_HEADER = 40, 40

Read = Callable[[int, int], bytes]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], int]]:
    """Writes a shard: gives what takes a record's bytes and says where they stand."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(os.fspath(path), OPTIONS)
    at = SIGNATURE

    def write(data: bytes) -> int:
        nonlocal at
        writer.write(data)
        offset = _offset(at)
        at += _before(len(data)) + len(data)
        return offset

    try:
        yield write
    finally:
        writer.close()
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def record(read: Read, offset: int, length: int) -> bytes:
    """The bytes of a record, unchecked; `read` gives those of the shard, from, to."""
    chunk = offset // BLOCK * (BLOCK - BLOCK_HEADER)
    chunk += max(0, offset % BLOCK - BLOCK_HEADER)
    return _stream(read, chunk + _before(length), length)


def scan(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """Where each record begins, its bytes, and what is wrong with it, if so.

    Where the file's own index is damaged, no record can be found.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    size, at = path.stat().st_size, SIGNATURE
    options = "readahead_buffer_size:0,max_parallelism:0"  # for any order
    reader = ArrayRecordReader(os.fspath(path), options)
    with open(path, "rb") as file:

        def read(start: int, end: int) -> bytes:
            file.seek(min(start, size))
            return file.read(end - start)

        try:
            if not reader.ok():  # why, it tells only who reads from it, if at all
                why = _read(reader, 0)[1] or "is not found: the file has no index"
                yield _offset(at), b"", f"and what follows {why}"
            for number in range(reader.num_records()):
                offset = _offset(at)
                data, problem = _read(reader, number)
                if not problem and record(read, offset, len(data)) != data:
                    problem = f"does not stand where {OPTIONS} puts it"
                yield offset, data, problem
                if problem:
                    stated = _stream(read, at, CHUNK_HEADER)[8:16]
                    at += CHUNK_HEADER + int.from_bytes(stated, "little")
                else:
                    at += _before(len(data)) + len(data)
        finally:
            with contextlib.suppress(RuntimeError):  # what was wrong is said
                reader.close()


def _read(reader: Any, number: int) -> tuple[bytes, str]:
    """A record and what is wrong with it, by the hashes in the file."""
    try:
        [data] = reader.read([number])
        return data, ""
    except RuntimeError as error:
        return b"", f"is damaged: {error}"


def _before(length: int) -> int:
    """Bytes of a chunk that come before its record of so many."""
    return CHUNK_HEADER + 2 + max(1, -(-length.bit_length() // 7))


def _offset(at: int) -> int:
    """Where in the file a chunk begins: with the block's header, if there is one."""
    block, rest = divmod(at, BLOCK - BLOCK_HEADER)
    return block * BLOCK + (BLOCK_HEADER + rest if rest else 0)


def _stream(read: Read, at: int, count: int) -> bytes:
    """So many bytes of the stream, without the headers of blocks."""
    block, rest = divmod(at, BLOCK - BLOCK_HEADER)
    start = block * BLOCK + BLOCK_HEADER + rest
    block, rest = divmod(at + count, BLOCK - BLOCK_HEADER)
    found = read(start, block * BLOCK + BLOCK_HEADER + rest)
    edges = range(BLOCK - start % BLOCK, len(found), BLOCK)
    parts = [found[edge + BLOCK_HEADER : edge + BLOCK] for edge in edges]
    return b"".join([found[: BLOCK - start % BLOCK], *parts])
