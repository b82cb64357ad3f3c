"""What becomes of an input that cannot be used: refused with a reason and a remedy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from deemo_jax.storage import AnyPath, write_whole


class Refusal(ValueError):
    """An input that is refused: what was wrong with which value, and the remedy."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejection:
    """One line of `rejected.jsonl`: an input left out, by line or clip id."""

    line: int | None = None
    clip_id: str | None = None
    reason: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Its fields, without those that are not known."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


def reject(
    refusal: Refusal, *, line: int | None = None, clip_id: str | None = None
) -> Rejection:
    """The rejection that a refusal becomes once it is known which input it met."""
    return Rejection(
        line=line, clip_id=clip_id, reason=refusal.reason, remedy=refusal.remedy
    )


def write_rejections(path: AnyPath, rejections: list[Rejection]) -> None:
    """Writes `rejected.jsonl`, whole or not at all; empty if nothing was refused."""
    write_lines(path, [rejection.to_json() for rejection in rejections])


def write_lines(path: AnyPath, objects: list[dict[str, Any]]) -> None:
    """Writes JSON Lines, whole or not at all."""
    write_whole(
        path, "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refusal(f"key {twice!r} stands twice in one object", "keep one")
    return fields


def parse_object(line: bytes) -> dict[str, Any]:
    """A JSON object from its bytes; `Refusal` for anything else, a key twice too."""
    try:
        fields = json.loads(line.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise Refusal(
            f"not UTF-8 at byte {error.start}", "save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise Refusal(
            f"malformed JSON, {error.msg} at column {error.colno}",
            "mend it; where a file has many objects, one stands on each line",
        ) from error
    except Refusal:
        raise
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply, or a number is too long"
        raise Refusal(reason, "write one flat JSON object") from error
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise Refusal(f"a JSON {kind}, no object", 'write {"clip_id": ..., ...}')
    return fields


def check_inside(folder: Path, relative: str) -> Path:
    """The file that a relative path names below `folder`; `Refusal` if it is not so."""
    root = folder.resolve()
    try:
        path = (root / relative).resolve()
        inside = not Path(relative).is_absolute() and path.is_relative_to(root)
        there = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # loops, NUL, too long
        raise Refusal(f"{relative!r} is no path ({error})", "correct it") from error
    if not inside:
        raise Refusal(
            f"path {relative!r} leads out of the folder",
            "put the file inside it and name it relative to the folder",
        )
    if not there:
        raise Refusal(
            f"there is no file {relative!r}", "correct the path, or add the file"
        )
    return path
