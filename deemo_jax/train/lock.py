"""One run at a time in a workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
import secrets
import socket
import sys
import threading
import time

from etils import epath

from deemo_jax.config import ConfigError
from deemo_jax.distributed import is_first
from deemo_jax.exits import LOST, end_now
from deemo_jax.storage import AnyPath, create

LOCK = ".lock"
# Without a sign of life for that long, a lock in a bucket is that of a dead run.
LEASE_SECONDS = 20.0


@contextlib.contextmanager
def locked(workdir: AnyPath) -> Iterator[None]:
    """Holds the workdir for the processes of this run; the first of them has the lock.

    The lock goes with the process that holds it, however that ends; in a bucket
    `LEASE_SECONDS` later, if it was killed. A workdir that does not exist is made.

    Raises:
      ConfigError: another run has it, or nothing can be written there.
    """
    if not is_first():
        yield
        return
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if isinstance(path, Path):
            path.touch()
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} is no folder that can be written to "
            f"({error.strerror or error}); choose another one"
        ) from error
    with _flocked(path) if isinstance(path, Path) else _leased(path):
        yield


@contextlib.contextmanager
def _flocked(path: Path) -> Iterator[None]:
    """Holds a lock of the file system."""
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _taken(path, file.read().strip()) from error
        except OSError as error:
            # Some network filesystems have no locks; the run is not refused for that.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            print(
                f"{path} cannot be locked ({error.strerror}): see to it that no other "
                f"run uses this workdir",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(_holder() + "\n")
        file.flush()
        yield


@contextlib.contextmanager
def _leased(path: epath.Path) -> Iterator[None]:
    """Holds an object that is made once, and written again while this process lives."""
    name = secrets.token_hex(8)

    def text(count: int) -> str:
        return json.dumps({"holder": _holder(), "id": name, "renewed": count})

    if not create(path, text(0).encode()):
        before = path.read_bytes()
        seconds = f"{LEASE_SECONDS:.0f} s"
        print(f"{path} is there; in {seconds} it is known whether its run lives")
        time.sleep(LEASE_SECONDS)
        # Gone, it was let go; unchanged, its holder is dead.
        if path.exists() and (now := path.read_bytes()) != before:
            raise _taken(path, json.loads(now)["holder"])
        path.unlink(missing_ok=True)
        if not create(path, text(0).encode()):
            raise _taken(path, "another run")
    ended = threading.Event()

    def is_ours() -> bool:
        # One that took it may have let it go by now.
        return path.exists() and json.loads(path.read_bytes())["id"] == name

    def renew() -> None:
        count = 0
        while not ended.wait(LEASE_SECONDS / 4):
            count += 1
            with contextlib.suppress(Exception):  # the network's: soon again
                if not is_ours():  # not renewed for too long: two runs would write
                    print(f"another run has taken {path}", file=sys.stderr, flush=True)
                    end_now(LOST)
                path.write_text(text(count))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if is_ours():
            path.unlink()


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(path: AnyPath, holder: str) -> ConfigError:
    return ConfigError(
        f"{path.parent} is being trained in by {holder}; wait for it or stop it, or "
        f"choose another --workdir"
    )
