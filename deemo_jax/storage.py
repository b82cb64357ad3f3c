"""Files in folders here and in buckets (`gs://`): what the two differ in."""

import base64
from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import hashlib
import importlib
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from etils import epath
import fsspec.config

from deemo_jax.exits import BAD_USAGE

SCHEME = "gs://"
# Network file systems show to other hosts what one has written only after a while.
SEEN_SECONDS = 60.0
# A folder or file here, or in a bucket; both have the methods of `pathlib`.
AnyPath = Path | epath.Path

# What one process writes, the others are to see: nothing is listed from memory.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


class StorageError(ValueError):
    """A place that nothing can be read from or written to."""

    exit_code = BAD_USAGE


def locate(name: str | os.PathLike[str]) -> AnyPath:
    """The file or folder of that name; it need not be there.

    Raises:
      StorageError: if it is in a bucket that cannot be reached, or of another scheme
        than `gs://`.
      ImportError: if it is in a bucket, and the package that reads those is missing.
    """
    text = os.fspath(name)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme + separator != SCHEME or not rest.strip("/"):
        raise StorageError(
            f"{text!r} is neither a folder nor {SCHEME}BUCKET/FOLDER; give one of these"
        )
    importlib.import_module("gcsfs")
    path = epath.Path(text.rstrip("/"))
    try:
        path.exists()
    except Exception as error:  # of the network, of credentials, of the bucket's name
        said = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(
            f"{text} cannot be reached ({said}); check the bucket's name, and that "
            f"this machine may use it: gcloud auth application-default login"
        ) from error
    return path


def in_bucket(path: AnyPath) -> bool:
    """Whether a path is in a bucket."""
    return not isinstance(path, Path)


def write_whole(path: AnyPath, text: str | bytes) -> None:
    """Writes a text so that none is ever torn: all of it stands there, or the old one.

    Here it is written beside `path` and renamed; in a bucket objects come whole.
    """
    data = text.encode() if isinstance(text, str) else text
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.partial")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder, until this one is done or ends.

    Where the file system has no locks, nobody is kept from it.

    Raises:
      StorageError: another process writes to it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise StorageError(
            f"{folder} is being written to by another process; wait for it or stop it"
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def remove_folder(path: AnyPath) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(path, Path):
        shutil.rmtree(path)
    else:
        path.rmtree()


def files_below(path: AnyPath) -> list[str]:
    """The files in a folder and the folders in it, by their names from there."""
    if isinstance(path, Path):
        found = [file for file in path.rglob("*") if file.is_file()]
        return sorted(file.relative_to(path).as_posix() for file in found)
    filesystem, inside = _filesystem(path)
    start = inside.rstrip("/") + "/"
    return sorted(
        name.removeprefix(start)
        for name in filesystem.find(inside)
        if not name.endswith("/")
    )


def checksum(path: AnyPath, like: str = "") -> str:
    """A checksum of a file, of the same kind as `like`: SHA-256 or `crc32c:…`.

    Without `like` it is the SHA-256 of a file here; in a bucket, the CRC32C that the
    store keeps of what it holds, for which nothing is read.
    """
    is_crc = like.startswith("crc32c:") if like else in_bucket(path)
    if is_crc and not isinstance(path, Path):
        filesystem, inside = _filesystem(path)
        return f"crc32c:{filesystem.info(inside)['crc32c']}"
    digest = _crc32c() if is_crc else hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    if is_crc:
        return f"crc32c:{base64.b64encode(digest.digest()).decode()}"
    return digest.digest().hex()


def _crc32c() -> Any:
    import google_crc32c  # accelerator hosts that read no records may lack it

    return google_crc32c.Checksum()


def size_of(path: AnyPath) -> int:
    """The bytes of a file."""
    if isinstance(path, Path):
        return path.stat().st_size
    filesystem, inside = _filesystem(path)
    return int(filesystem.info(inside)["size"])


def read_range(path: epath.Path, start: int, end: int) -> bytes:
    """The bytes of an object in a bucket from `start` up to `end`, in one request."""
    filesystem, inside = _filesystem(path)
    return filesystem.cat_file(inside, start=start, end=end)


def read_many(folder: AnyPath, names: Sequence[str]) -> dict[str, bytes]:
    """Files of a folder by their names; those that cannot be read are left out."""
    if isinstance(folder, Path):
        found = {}
        for name in names:
            with contextlib.suppress(OSError):
                found[name] = (folder / name).read_bytes()
        return found
    filesystem, inside = _filesystem(folder)
    places = {f"{inside}/{name}": name for name in names}
    read = filesystem.cat(list(places), on_error="omit")
    return {places[place]: data for place, data in read.items()}


def create(path: epath.Path, data: bytes) -> bool:
    """Makes an object in a bucket; False if there is one of that name already."""
    filesystem, inside = _filesystem(path)
    if path.exists():
        return False
    try:
        filesystem.pipe_file(inside, data, mode="create")
    except FileExistsError:
        return False
    return True


def copy_folder(source: AnyPath, to: AnyPath) -> None:
    """Copies the files below a folder, from here to a bucket or back."""
    for name in files_below(source):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source / name).read_bytes())


@contextlib.contextmanager
def fetched(folder: AnyPath) -> Iterator[Path]:
    """A folder as one of this machine, for those who read no others: itself, or a copy.

    The copy is gone afterwards.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="deemo-") as copy:
        copy_folder(folder, Path(copy))
        yield Path(copy)


def _filesystem(path: epath.Path) -> tuple[Any, str]:
    return fsspec.core.url_to_fs(os.fspath(path))
