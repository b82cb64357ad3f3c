"""Who is in a clip, where its annotation file does not say it."""

import dataclasses
from pathlib import Path
import re

from deemo_jax.annotate.affectgpt import NAMES
from deemo_jax.annotate.media_files import plain
from deemo_jax.annotate.tables import read_pairs
from deemo_jax.config import ConfigError
from deemo_jax.refusals import Refusal, Rejection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Who:
    """Where the subject of a clip is found.

    Attributes:
        pattern: of what in a clip's name tells it: the first group, if it has one.
        subjects: the subject by what the pattern found, without one by the clip's name;
            a number without zeros before it.
        per_clip: each clip is a subject of its own.
        rejections: rows that name no subject.
    """

    pattern: re.Pattern[str] | None = None
    subjects: dict[str, str] | None = None
    per_clip: bool = False
    rejections: tuple[Rejection, ...] = ()

    @property
    def says_nothing(self) -> bool:
        """Whether no clip's subject can be found."""
        return self.pattern is None and self.subjects is None and not self.per_clip

    def find(self, name: str) -> str:
        """The subject of a clip; `Refusal` where nothing says it."""
        key = name
        if self.pattern is not None:
            found = self.pattern.search(name)
            if found is None or not (key := found[1 if found.re.groups else 0]):
                raise Refusal(
                    f"--subject_pattern finds no subject in {name!r}",
                    "give one that does for every name",
                )
        if self.subjects is not None:
            if not (subject := self.subjects.get(plain(key))):
                raise Refusal(f"--subjects has no {key!r}", "add it")
            return subject
        if self.says_nothing:
            raise Refusal("its subject is not stated", "fill it in, or give --subjects")
        return key


def read_who(pattern: str, subjects: Path | None, per_clip: bool) -> Who:
    """What the flags say; a table of subjects has the columns `name` and `subject`.

    Raises:
        ConfigError: the pattern is no regular expression, or the flags contradict.
        ValueError: the table cannot be read.
    """
    if per_clip and (pattern or subjects):
        raise ConfigError(
            "--subject_per_clip goes with neither --subject_pattern nor --subjects"
        )
    try:
        compiled = re.compile(pattern) if pattern else None
    except re.error as error:
        raise ConfigError(
            f"--subject_pattern is {pattern!r}, no regular expression ({error}): "
            "correct it, such as '^(p\\d+)_'"
        ) from error
    if subjects is None:
        return Who(pattern=compiled, per_clip=per_clip)
    pairs, rejections = read_pairs(subjects, NAMES, ("subject",))
    return Who(pattern=compiled, subjects=pairs, rejections=tuple(rejections))
