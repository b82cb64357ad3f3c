"""MERR and what else Emotion-LLaMA (Cheng et al., NeurIPS 2024) is trained on.

- `MERR_coarse_grained.json` and `MERR_fine_grained.json`: clips by name, each with
  `caption` or `smp_reason_caption`, and, of the fine ones, `pseu_emotion` and `text`;
- `MERR_coarse_grained.txt`, `relative_train3_NCEV.txt` and the like: a clip a line,
  `NAME EMOTION` or `NAME FRAMES EMOTION [VALENCE]`.

The layouts are those of its documentation and of its loader; of the coarse JSON no
copy could be read. What is said of faces (`AU_list` and others) is not taken over.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deemo_jax.annotate.lines import Line
from deemo_jax.annotate.media_files import stem
from deemo_jax.annotate.tables import read_text, refuse
from deemo_jax.annotation import CLIP_ID
from deemo_jax.refusals import Refusal, Rejection, parse_object

REASONS = ("smp_reason_caption", "caption")


def read(path: Path) -> Iterator[Line | Rejection]:
    """The lines of such a file; JSON's have no numbers.

    Raises:
        ValueError: it is neither such JSON nor such a list: nothing of it says anything
            of a clip.
    """
    found = list(_lines(path))
    if not any(isinstance(line, Line) and _says_something(line) for line in found):
        raise ValueError(
            f"{path} is no file of MERR, nothing in it is said of a clip: give its "
            "JSON, a list of NAME EMOTION, or another --format"
        )
    yield from found


def _says_something(line: Line) -> bool:
    said = line.emotion or line.reasoning or line.transcript
    return bool(said and CLIP_ID.fullmatch(stem(line.name)))


def _lines(path: Path) -> Iterator[Line | Rejection]:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        try:
            clips = parse_object(text.encode())
        except Refusal as refusal:
            raise ValueError(f"{path}: {refusal}") from refusal
        for name, fields in clips.items():
            try:
                yield _line(path, name, fields)
            except Refusal as refusal:
                yield refuse(refusal, path, None, name)
        return
    for number, row in enumerate(text.splitlines(), start=1):
        words = row.split()
        if not words:
            continue
        if not 2 <= len(words) <= 4:
            reason = f"{len(words)} words"
            remedy = "write NAME EMOTION, or NAME FRAMES EMOTION VALENCE"
            yield refuse(Refusal(reason, remedy), path, number, words[0])
            continue
        emotion = words[1 if len(words) == 2 else 2]
        yield Line(path=path, number=number, name=words[0], emotion=emotion.lower())


def _line(path: Path, name: str, fields: Any) -> Line:
    if not isinstance(fields, dict):
        raise Refusal("it is no object", 'write {"NAME": {"caption": ...}, ...}')

    def text(*keys: str) -> str | None:
        for key in keys:
            value = fields.get(key)
            if value is not None and not isinstance(value, str):
                raise Refusal(f"{key} is {value!r}", "give a text")
            if value and value.strip():
                return value.strip()
        return None

    emotion = text("pseu_emotion")
    return Line(
        path=path,
        number=None,
        name=name,
        emotion=emotion and emotion.lower(),
        reasoning=text(*REASONS),
        transcript=text("text"),
    )
