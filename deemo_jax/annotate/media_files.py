"""Media found by the names that annotation files have for them."""

from pathlib import Path

from deemo_jax.refusals import Refusal

VIDEO = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".ts", ".webm", ".wmv",
)  # fmt: skip
AUDIO = (
    ".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".g722", ".m4a", ".mp3", ".oga",
    ".ogg", ".opus", ".w64", ".wav",
)  # fmt: skip


class MediaFiles:
    """The media in a folder and the folders in it, by name without what follows a dot.

    Zeros before a number do not matter: 12 is 0012.mp4, too.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in (*VIDEO, *AUDIO) and path.is_file():
                self._by_name.setdefault(plain(path.stem), []).append(path)
        if not self._by_name:
            raise ValueError(
                f"{folder} holds no media (looked for {' '.join((*VIDEO, *AUDIO))}): "
                "give the folder that does"
            )

    def __contains__(self, name: str) -> bool:
        return plain(stem(name)) in self._by_name

    def find(self, name: str) -> Path:
        """The media of a name, the video where sound lies beside it under that name.

        Raises:
            Refusal: there are none, or several.
        """
        found = self._by_name.get(plain(stem(name)), [])
        found = [p for p in found if p.suffix.lower() in VIDEO] or found
        if not found:
            raise Refusal(
                f"no media are named {stem(name)!r} in {self.folder}",
                "add the file, or give another --media",
            )
        if len(found) > 1:
            several = " and ".join(str(p.relative_to(self.folder)) for p in found)
            raise Refusal(f"{several} have one name", "leave one in the folder")
        return found[0]


def stem(name: str) -> str:
    """A name without the ending of a media file: `a.mp4` is `a`, `a.b` is itself."""
    suffix = Path(name).suffix
    is_media = suffix.lower() in (*VIDEO, *AUDIO)
    return name[: -len(suffix)] if is_media else name


def plain(name: str) -> str:
    """A name that is a number without zeros before it."""
    if not (name.isascii() and name.isdigit()):
        return name
    return name.lstrip("0") or "0"
