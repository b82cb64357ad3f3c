"""What the lines of annotation files say of clips, gathered clip by clip."""

from collections.abc import Iterable
import dataclasses
from pathlib import Path

from deemo_jax.annotate.media_files import stem
from deemo_jax.annotate.tables import refuse
from deemo_jax.refusals import Refusal, Rejection

TEXTS = ("subject", "emotion", "reasoning", "transcript")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gesture:
    """An instance of body language, in seconds of the media.

    With `in_frames`, `start` and `end` are its first and last frame, counted from 0.
    """

    label: str
    start: float
    end: float
    in_frames: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """What a line says of the clip `name`, as whose media are named. None: nothing."""

    path: Path
    number: int | None
    name: str
    subject: str | None = None
    emotion: str | None = None
    reasoning: str | None = None
    transcript: str | None = None
    gesture: Gesture | None = None


@dataclasses.dataclass
class Gathered:
    """All that was said of a clip; of each text, the line that said it first."""

    name: str
    texts: dict[str, Line] = dataclasses.field(default_factory=dict)
    gestures: list[Line] = dataclasses.field(default_factory=list)

    def text(self, field: str) -> str | None:
        """One of `TEXTS`."""
        return getattr(self.texts[field], field) if field in self.texts else None


def gather(
    lines: Iterable[Line | Rejection],
) -> tuple[list[Gathered], list[Rejection]]:
    """The clips, in the order in which they come, and what is refused.

    A line that says of a clip what its file has said already is refused; a clip of
    which two lines say different things is left out as a whole.
    """
    clips: dict[str, Gathered] = {}
    first: dict[tuple[Path, str, Gesture | None], int | None] = {}
    rejections, unclear = [], set()
    for line in lines:
        if isinstance(line, Rejection):
            rejections.append(line)
            continue
        name = stem(line.name)
        key = line.path, name, line.gesture
        clip = clips.setdefault(name, Gathered(name))
        try:
            if key in first:
                raise Refusal(f"it stands on line {first[key]} already", "keep one")
            first[key] = line.number
            for field in TEXTS:
                said = getattr(line, field)
                if said is None:
                    continue
                before = clip.texts.setdefault(field, line)
                if (was := getattr(before, field)) != said:
                    unclear.add(name)
                    raise Refusal(
                        f"{field} is {said!r}, and {was!r} on line {before.number} of "
                        f"{before.path.name}",
                        "correct one; the whole clip is left out",
                    )
        except Refusal as refusal:
            rejections.append(refuse(refusal, line.path, line.number, name))
            continue
        if line.gesture is not None:
            clip.gestures.append(line)
    return [c for name, c in clips.items() if name not in unclear], rejections
