"""The annotation file and the taxonomy: what people said of each clip."""

import dataclasses
import difflib
import json
import math
from pathlib import Path
import re
from typing import Any
import unicodedata

from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    parse_object,
    reject,
    write_lines,
)
from deemo_jax.storage import AnyPath, write_whole

DEFAULT_TAXONOMY = Path(__file__).with_name("taxonomy.json")
SPLITS = ("train", "val", "test")
CONSENTS = ("granted", "withdrawn")
NONE = "none"  # what a clip without body language is answered by
VARIANTS = frozenset(map(chr, range(0xFE00, 0xFE10)))  # selectors, which nobody sees
WITHDRAWN = "consent is withdrawn"  # the reason of a rejection
# An id names files, so it holds nothing that a file system reads otherwise.
CLIP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """One instance of body language: a class of the taxonomy, and when (seconds)."""

    label: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotation:
    """One line of `annotations.jsonl`. `None` means: not annotated.

    `media` is a path relative to the file, `start` and `end` are seconds in it
    (`end` None: to the end of the media); the intervals in `nfbl` count from `start`,
    none of them means that somebody looked and no body language is shown.
    """

    clip_id: str
    media: str
    subject: str
    start: float = 0.0
    end: float | None = None
    transcript: str | None = None
    emotion: str | None = None
    reasoning: str | None = None
    nfbl: tuple[Interval, ...] | None = None
    consent: str = "granted"
    split: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of its line; `parse_annotation` reads it back."""
        fields = dataclasses.asdict(self)
        if self.nfbl is not None:
            fields["nfbl"] = [dataclasses.asdict(interval) for interval in self.nfbl]
        return {k: v for k, v in fields.items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The label sets: emotions, NFBL classes, and the classes of each group.

    The groups are the three that the DEEMO paper names; which class belongs to which
    is this project's reading, and a class may belong to none.
    """

    emotions: tuple[str, ...]
    nfbl: tuple[str, ...]
    nfbl_groups: dict[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """The object of `taxonomy.json`; `load_taxonomy` reads it back."""
        group = {label: g for g, labels in self.nfbl_groups.items() for label in labels}
        return {
            "emotions": list(self.emotions),
            "nfbl": [
                {"label": label} | ({"group": group[label]} if label in group else {})
                for label in self.nfbl
            ],
        }


def load_taxonomy(path: AnyPath | None = None) -> Taxonomy:
    """Reads a `taxonomy.json`; None reads the one that ships with the package.

    The file is `{"emotions": ["positive", …], "nfbl": [{"label": "folding arms",
    "group": "self-protective behaviour"}, …]}`; a group may be left out. The shipped
    one holds positive and negative, and the 32 classes of iMiGUE (Liu et al., CVPR
    2021) in its order.

    Raises:
        ValueError: it is no such file.
    """
    path = path or DEFAULT_TAXONOMY
    remedy = 'write {"emotions": [...], "nfbl": [{"label": ..., "group": ...}, ...]}'
    try:
        fields = parse_object(path.read_bytes())
        _known_keys(fields, ("emotions", "nfbl"), ("emotions", "nfbl"))
        if not isinstance(fields["nfbl"], list):
            raise Refusal("nfbl is no list", remedy)
        groups: dict[str, tuple[str, ...]] = {}
        for row in fields["nfbl"]:
            if not isinstance(row, dict):
                raise Refusal(f"nfbl holds {row!r}", remedy)
            _known_keys(row, ("label", "group"), ("label",))
            if (group := _text(row, "group")) is not None:
                groups[group] = (*groups.get(group, ()), row["label"])
        emotions = _labels(fields["emotions"], "emotions")
        nfbl = _labels([row["label"] for row in fields["nfbl"]], "nfbl")
        if NONE in (label.casefold() for label in nfbl):
            raise Refusal(f"nfbl has a class {NONE!r}", 'give such clips "nfbl": []')
    except (OSError, Refusal) as error:
        raise ValueError(f"{path}: {error}") from error
    return Taxonomy(emotions=emotions, nfbl=nfbl, nfbl_groups=groups)


def folder_taxonomy(folder: Path) -> Taxonomy:
    """The taxonomy of a folder of clips: its `taxonomy.json`, else the shipped one."""
    path = folder / "taxonomy.json"
    return load_taxonomy(path if path.exists() else None)


def read_annotations(
    path: Path, taxonomy: Taxonomy
) -> tuple[list[Annotation], list[Rejection]]:
    """Reads `annotations.jsonl`: what is sound, and one rejection for each line left.

    A media path is followed through symbolic links; it must end at a file below the
    folder of `path`. Of two lines with one clip id the second is refused, even when
    the first was refused for something else. All lines of an id of which one says
    that consent is withdrawn are refused as `WITHDRAWN`, whatever else is wrong.

    Raises:
        ValueError: there is no such file, or it is not readable.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(
            f"cannot read {path} ({error.strerror}): "
            "put an annotations.jsonl, one clip a line, beside the media"
        ) from error
    rows, withdrawn = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append((number, fields := parse_object(line)))
                if isinstance(consent := fields.get("consent"), str):
                    fields["consent"] = consent.strip().lower()
                if fields.get("consent") == "withdrawn":
                    withdrawn.append(fields.get("clip_id"))
            except Refusal as refusal:
                rows.append((number, refusal))
    annotations, rejections, lines_of = [], [], {}
    for number, fields in rows:
        clip_id = None
        try:
            if isinstance(fields, Refusal):
                raise fields
            if (clip_id := _text(fields, "clip_id")) is not None:
                if clip_id in withdrawn and CLIP_ID.fullmatch(clip_id):
                    raise Refusal(WITHDRAWN, "nothing; what was written is deleted")
                if (first := lines_of.setdefault(clip_id, number)) != number:
                    raise Refusal(
                        f"clip_id {clip_id!r} already stands on line {first}",
                        "give each clip an id of its own",
                    )
            annotation = parse_annotation(fields, taxonomy)
            check_inside(path.parent, annotation.media)
            annotations.append(annotation)
        except Refusal as refusal:
            rejections.append(reject(refusal, line=number, clip_id=clip_id))
    return annotations, rejections


def parse_annotation(fields: dict[str, Any], taxonomy: Taxonomy) -> Annotation:
    """One annotation from its JSON object; `Refusal` says what is wrong with it."""
    known = [field.name for field in dataclasses.fields(Annotation)]
    _known_keys(fields, known, ("clip_id", "media", "subject"))
    clip_id = _text(fields, "clip_id") or ""
    if not CLIP_ID.fullmatch(clip_id):
        raise Refusal(
            f"clip_id {clip_id!r} cannot name a file",
            "use at most 128 letters, digits, '.', '_' or '-', a letter or digit first",
        )
    start, end = _seconds(fields, "start") or 0.0, _seconds(fields, "end")
    if end is not None and end <= start:
        raise Refusal(
            f"end {end:g} is not after start {start:g}",
            "give both in seconds of the media, end after start",
        )
    rows = fields.get("nfbl")
    if not isinstance(rows, list | None):
        raise Refusal(
            f"nfbl is {rows!r}",
            "give a list of {label, start, end}, or leave it out if nobody looked",
        )
    length = None if end is None else end - start
    if "consent" in fields and not _text(fields, "consent"):  # unclear is not granted
        raise Refusal("consent is empty", "write granted or withdrawn, or leave it out")
    return Annotation(
        clip_id=clip_id,
        media=_required_text(fields, "media"),
        subject=one_name(_required_text(fields, "subject")),
        start=start,
        end=end,
        transcript=_text(fields, "transcript"),
        emotion=_choice(fields, "emotion", taxonomy.emotions),
        reasoning=_text(fields, "reasoning"),
        nfbl=None
        if rows is None
        else tuple(_interval(row, taxonomy, length) for row in rows),
        consent=_choice(fields, "consent", CONSENTS) or "granted",
        split=_choice(fields, "split", SPLITS),
    )


def one_name(subject: str) -> str:
    """A subject's name as all of its spellings in Unicode are written, without edges.

    "José" with one character for é or two, typed or read off a list, is one person, and
    so it is with characters in it that nobody sees.
    """
    seen = (c for c in subject if unicodedata.category(c) != "Cf" and c not in VARIANTS)
    return unicodedata.normalize("NFC", "".join(seen)).strip()


def write_annotations(path: Path, annotations: list[Annotation]) -> None:
    """Writes `annotations.jsonl`, whole or not at all."""
    write_lines(path, [annotation.to_json() for annotation in annotations])


def write_taxonomy(path: Path, taxonomy: Taxonomy) -> None:
    """Writes `taxonomy.json`, whole or not at all."""
    write_whole(path, json.dumps(taxonomy.to_json(), indent=1, ensure_ascii=False))


def _known_keys(fields: dict[str, Any], known, required) -> None:
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
            raise Refusal(f"unknown key {key!r}", hint)
    for key in required:
        if fields.get(key) is None:
            raise Refusal(f"{key} is missing", f"add {key!r}")


def _text(fields: dict[str, Any], key: str) -> str | None:
    """A text; None where it is absent, null or blank."""
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise Refusal(f"{key} is {value!r}", "give a text")
    if value and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refusal(f"{key} holds half a character", "correct the \\u escapes")
    return value if value and value.strip() else None


def _required_text(fields: dict[str, Any], key: str) -> str:
    if (value := _text(fields, key)) is None:
        raise Refusal(f"{key} is empty", f"fill in {key!r}")
    return value


def _seconds(fields: dict[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value if abs(value) < 1e12 else math.inf):
        raise Refusal(f"{key} is {value!r}", "give seconds, such as 1.5")
    if value < 0:
        raise Refusal(f"{key} {value:g} is negative", "give seconds from 0 on")
    return float(value)


def _choice(fields: dict[str, Any], key: str, choices: tuple[str, ...]) -> str | None:
    value = _text(fields, key)
    if value is not None and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        shown = ", ".join(choices[:8]) + (", …" if len(choices) > 8 else "")
        hint = f"did you mean {near[0]!r}?" if near else f"use one of: {shown}"
        raise Refusal(f"{key} {value!r} is none of the {len(choices)} known", hint)
    return value


def _labels(values: Any, key: str) -> tuple[str, ...]:
    texts = isinstance(values, list) and all(isinstance(v, str) and v for v in values)
    if not texts or len(set(values)) < len(values):
        raise Refusal(f"{key} is {values!r}", "give distinct texts")
    return tuple(values)


def _interval(row: Any, taxonomy: Taxonomy, length: float | None) -> Interval:
    if not isinstance(row, dict):
        raise Refusal(f"nfbl holds {row!r}", "give {label, start, end}")
    _known_keys(row, ("label", "start", "end"), ("label", "start", "end"))
    label = _choice(row, "label", taxonomy.nfbl)
    start, end = _seconds(row, "start") or 0.0, _seconds(row, "end") or 0.0
    if label is None or end <= start:
        raise Refusal(
            f"nfbl {label!r} ends at {end:g}, not after its start {start:g}",
            "give both in seconds from the clip's start",
        )
    if length is not None and start >= length:
        raise Refusal(
            f"nfbl {label!r} starts at {start:g}, after the clip's {length:g} s",
            "give seconds from the clip's start, not the media's",
        )
    return Interval(label=label, start=start, end=end)
