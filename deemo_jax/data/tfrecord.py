"""How records stand in a TFRecord shard: framed one by one, each with two checksums.

length 8 | masked CRC32C of it 4 | record | masked CRC32C of it 4     little-endian
"""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path

HEADER, FOOTER = 12, 4  # bytes of the framing around each record


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], int]]:
    """Writes a shard: gives what takes a record's bytes and says where they stand."""
    with open(path, "wb") as file:

        def write(data: bytes) -> int:
            offset, length = file.tell(), len(data).to_bytes(8, "little")
            file.write(length + masked(crc32c(length)))
            file.write(data)
            file.write(masked(crc32c(data)))
            return offset

        yield write
        file.flush()
        os.fsync(file.fileno())


def record(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    """The bytes of a record, unchecked; `read` gives those of the shard, from, to."""
    return read(offset + HEADER, offset + HEADER + length)


def scan(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """Where each record begins, its bytes, and what is wrong with it, if so.

    What follows a damaged length cannot be found: it is the last then.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        while (offset := file.tell()) < size:
            header = file.read(HEADER)
            if len(header) < HEADER or header[8:] != masked(crc32c(header[:8])):
                yield offset, b"", "has a damaged length, what follows is not read"
                return
            length = int.from_bytes(header[:8], "little")
            data, footer = file.read(length), file.read(FOOTER)
            if len(data) < length or len(footer) < FOOTER:
                yield offset, b"", "is cut short"
                return
            sound = footer == masked(crc32c(data))
            yield offset, data, "" if sound else "is damaged: its CRC32C is another"


def crc32c(data: bytes) -> int:
    """CRC32C (Castagnoli) of the bytes."""
    import google_crc32c

    return google_crc32c.value(data)


def masked(crc: int) -> bytes:
    """A checksum as TFRecord stores it."""
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return ((rotated + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
