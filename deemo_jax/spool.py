"""Files that grow: appended to where they are, or here and copied to a bucket."""

import atexit
import contextlib
from pathlib import Path
import sys
import tempfile
import threading

from etils import epath

from deemo_jax.storage import AnyPath, files_below

UPLOAD_SECONDS = 15.0  # a bucket takes about one change of an object a second


class Spool:
    """Local files and folders that stand for those of a bucket, copied as they change.

    A thread copies what changed every `seconds`; so does `flush`, and the end of the
    process. A copy that fails is told once and tried again.
    """

    def __init__(self, seconds: float = UPLOAD_SECONDS):
        self._folder = tempfile.TemporaryDirectory(prefix="deemo-spool-")
        self._local: dict[str, tuple[Path, epath.Path]] = {}
        self._copied: dict[Path, tuple[int, int]] = {}
        self._lock = threading.Lock()  # of what stands for what
        self._copying = threading.Lock()  # one copies at a time, however slowly
        self._ended = threading.Event()
        self._told = False
        self._seconds = seconds
        thread = threading.Thread(target=self._run, name="spool", daemon=True)
        thread.start()

    def stand_in(self, path: epath.Path, *, folder: bool) -> Path:
        """The local file or folder for `path`; a file has what stands there by now."""
        with self._lock:
            if str(path) not in self._local:
                local = Path(self._folder.name) / str(len(self._local)) / path.name
                local.parent.mkdir()
                if folder:
                    local.mkdir()
                elif path.exists():
                    local.write_bytes(path.read_bytes())
                    self._copied[local] = _state(local)
                self._local[str(path)] = local, path
            return self._local[str(path)][0]

    def flush(self) -> None:
        """Copies what has changed since it was copied last."""
        with self._lock:
            pairs = list(self._local.values())
        with self._copying:
            for local, remote in pairs:
                names = files_below(local) if local.is_dir() else [""]
                for name in names:
                    self._copy(local / name, remote / name if name else remote)

    def _copy(self, local: Path, remote: epath.Path) -> None:
        if not local.exists() or self._copied.get(local) == _state(local):
            return
        state = _state(local)
        try:
            remote.write_bytes(local.read_bytes())
        except Exception as error:  # the network's; training goes on without
            if not self._told:
                said = " ".join(str(error).split())
                print(f"{remote} is not up to date: {said}", file=sys.stderr)
            self._told = True
            return
        self._told = False
        self._copied[local] = state

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError):  # a file that went while it was read
                self.flush()

    def close(self) -> None:
        """Copies what is left, and removes the local files."""
        self._ended.set()
        self.flush()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


_spool: Spool | None = None


def growing(path: AnyPath, *, folder: bool = False) -> Path:
    """Where to append to a file, or make files in a `folder`: there, or its stand-in.

    What is appended to the stand-in of one in a bucket is copied there, see `Spool`.
    """
    global _spool
    if isinstance(path, Path):
        return path
    if _spool is None:
        _spool = Spool()
        atexit.register(_spool.close)
    return _spool.stand_in(path, folder=folder)


def flush() -> None:
    """Has everything that has grown so far where it belongs, when it returns."""
    if _spool is not None:
        _spool.flush()


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
