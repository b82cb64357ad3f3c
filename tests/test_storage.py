import base64
import errno
import fcntl
import hashlib
import os
import subprocess
import sys

from etils import epath
import google_crc32c
import pytest

from deemo_jax import storage
from deemo_jax.storage import StorageError, locate


@pytest.fixture(params=["here", "bucket"])
def folder(request, tmp_path):
    """A folder of each kind."""
    if request.param == "here":
        return tmp_path / "folder"
    bucket = request.getfixturevalue("bucket")
    return locate(f"{bucket}/{tmp_path.name}")


HOLD = """
import sys
from pathlib import Path
from deemo_jax.storage import alone_in

with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_folder(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipe = subprocess.PIPE  # closed, the other ends
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match="being written to by another process"),
            storage.alone_in(tmp_path),
        ):
            pass
        other.kill()  # however it ends, the folder is free
        other.wait()
    for _ in range(2):
        with storage.alone_in(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_without_locks_of_the_file_system_nobody_is_kept_out(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with storage.alone_in(tmp_path):
        pass


def test_what_is_written_is_read_and_replaced_whole(folder):
    folder.mkdir(parents=True)
    for text in ("one\n", "two, which is longer\n", "ü\n"):
        storage.write_whole(folder / "a.txt", text)
        assert (folder / "a.txt").read_text(encoding="utf-8") == text
        assert storage.size_of(folder / "a.txt") == len(text.encode())
    assert storage.files_below(folder) == ["a.txt"]


def test_files_below_are_named_from_the_folder_and_removed_with_it(folder):
    for name in ("b/c/d.txt", "a.txt", "b/e"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    beside = folder.with_name(folder.name + "_beside")
    beside.mkdir(parents=True)
    (beside / "f").write_bytes(b"")
    assert storage.files_below(folder) == ["a.txt", "b/c/d.txt", "b/e"]
    storage.remove_folder(folder / "b")
    assert storage.files_below(folder) == ["a.txt"]
    assert storage.files_below(beside) == ["f"]


def test_checksums_are_those_of_the_bytes_wherever_they_are(folder, tmp_path):
    data = bytes(range(256)) * 100
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(data)
    sha = hashlib.sha256(data).hexdigest()
    crc = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    own = f"crc32c:{crc}" if storage.in_bucket(folder) else sha
    assert storage.checksum(folder / "file") == own
    # A checkpoint may be copied between the two, with its manifest.
    for known in (sha, f"crc32c:{crc}"):
        assert storage.checksum(folder / "file", like=known) == known
        (folder / "other").write_bytes(data[:-1])
        assert storage.checksum(folder / "other", like=known) != known


def test_several_files_are_read_at_once_without_those_that_are_not_there(folder):
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode())
    found = storage.read_many(folder, ["a", "none", "b"])
    assert found == {"a": b"a", "b": b"b"}
    (folder / "a").write_bytes(b"newer")
    assert storage.read_many(folder, ["a"]) == {"a": b"newer"}


def test_a_folder_is_copied_and_fetched(folder, tmp_path):
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "in" / "file").write_bytes(b"data")
    storage.copy_folder(source, folder)
    with storage.fetched(folder) as here:
        assert (here / "in" / "file").read_bytes() == b"data"
    assert here.exists() == (here == folder)


def test_a_part_of_an_object_is_read_and_one_is_made_once(
    bucket, tmp_path, monkeypatch
):
    path = epath.Path(f"{bucket}/{tmp_path.name}/object")
    assert storage.create(path, bytes(range(100)))
    assert not storage.create(path, b"other")
    monkeypatch.setattr(type(path), "exists", lambda _: False)  # another was quicker
    assert not storage.create(path, b"other")
    assert storage.read_range(path, 10, 20) == bytes(range(10, 20))


def test_what_is_here_is_a_path_of_this_machine(tmp_path):
    assert locate(str(tmp_path)) == tmp_path
    assert locate("a/b").parts == ("a", "b")
    assert not storage.in_bucket(locate("a"))


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "http://host/run"])
def test_another_scheme_is_refused_by_name(name):
    with pytest.raises(storage.StorageError, match=f"'{name}' is neither a folder"):
        locate(name)


def test_a_bucket_that_cannot_be_reached_is_named(bucket, monkeypatch):
    def fail(_):
        raise OSError("no route")

    monkeypatch.setattr(type(locate(f"{bucket}/a")), "exists", fail)
    with pytest.raises(storage.StorageError, match=r"b cannot be reached \(no route\)"):
        locate(f"{bucket}/b")
