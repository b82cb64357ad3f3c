"""Files that installed distributions carry; nothing of these is imported."""

import hashlib
from importlib import metadata
from pathlib import Path


def packaged_file(
    distribution: str, name: str, *, remedy: str, called: str = "", sha256: str = ""
) -> Path:
    """Where a file of an installed distribution lies.

    Args:
        distribution: as `pip` names it.
        name: of the file, below the folder that distributions are installed in.
        remedy: what installs the right one.
        called: what the file is to who asks for it; "" is the distribution.
        sha256: the first digits of its digest; "" is any.

    Raises:
        ValueError: it is not installed, or is another file; names the remedy.
    """
    called = called or distribution
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(name)))
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{called} is not installed: {remedy}") from error
    if not path.is_file():
        raise ValueError(f"{distribution} has no {name}: {remedy}")
    if sha256:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(sha256):
            raise ValueError(f"{called}'s {name} has SHA-256 {digest}: {remedy}")
    return path
