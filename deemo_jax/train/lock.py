"""One run at a time in a workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import socket

from deemo_jax.config import ConfigError
from deemo_jax.distributed import is_first

LOCK = ".lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the workdir for the processes of this run; the first of them has the lock.

    The lock goes with the process that holds it, however that ends. A workdir that
    does not exist is made.

    Raises:
      ConfigError: another run has it.
    """
    if not is_first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{workdir} is being trained in by {file.read().strip()}; wait for it "
                f"or stop it, or choose another --workdir"
            ) from error
        except OSError as error:
            # Some network filesystems have no locks; the run is not refused for that.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
