"""A media file opened by FFmpeg, or in plain words why it cannot be."""

from collections.abc import Iterator
import contextlib
from pathlib import Path
from typing import Any

from deemo_jax.refusals import Refusal

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mp3,wav,w64,flac,"
    "ogg,aac,aiff,au,caf,amr,g722"
)
RE_ENCODE = "copy it again from its source, or re-encode it (ffmpeg -i IN OUT.mp4)"


class MediaError(Refusal):
    """A media file that cannot be read whole: what is wrong with it, and the remedy."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open container; whatever FFmpeg says of it becomes a `MediaError`."""
    import av
    from av.error import FFmpegError

    if not path.is_file():
        raise MediaError(f"there is no file {path.name}", "correct the path")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name} is empty (0 bytes)", RE_ENCODE)
    try:
        # The list keeps out playlists, which would open further files.
        with av.open(str(path), options={"format_whitelist": CONTAINERS}) as container:
            yield container
    except FFmpegError as error:
        raise MediaError(
            f"{path.name} cannot be read as media ({error.strerror}): "
            "it is another kind of file, cut off or damaged",
            RE_ENCODE,
        ) from error
    except UnicodeDecodeError as error:
        raise MediaError(f"{path.name} holds broken names", RE_ENCODE) from error
    except Refusal:
        raise
    except ValueError as error:  # PyAV's own
        raise MediaError(
            f"{path.name} cannot be decoded ({error})", RE_ENCODE
        ) from error


def nothing_in(path: Path) -> MediaError:
    """What is to be raised where a file holds none of what is wanted."""
    return MediaError(
        f"{path.name} holds neither pictures nor sound",
        "name a file with a video or an audio track",
    )


def stream_of(container: Any, kind: str) -> Any:
    """The first stream of a kind; a cover picture is none."""
    from av.stream import Disposition

    streams = getattr(container.streams, kind)
    shown = [s for s in streams if not s.disposition & Disposition.attached_pic]
    return shown[0] if shown else None


def is_cut(path: Path) -> bool:
    """Whether an MP4 or MOV ends inside one of its outermost boxes."""
    position, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if not header[4:8].isalnum():
                return False  # not such a file, or padding at its end
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # to the end of the file
                return False
            position += max(length, 8)
    return position > size
