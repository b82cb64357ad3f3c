"""iMiGUE (Liu et al., CVPR 2021): body language in videos of press conferences.

Three files are about, whose layouts were taken from programs and lists that are public:

- `labels_20200831.csv`, of the data set: a row an instance, with the columns
  `video_id`, `subject_id`, `class`, `start_frame`, `end_frame` and `win_or_lose`;
- `0184/0184_label.csv`, of the MiGA challenges: a file a video, without a head, its
  rows `class,start_frame,end_frame`;
- lists of clips that others cut, a line or a row (column `clip`) each, such as
  `184_24.0763_27.4979_22.mp4 22`: video, seconds, class.

The first two count classes from 1 and call the last one 99, the lists count from 0.
Frames count from 0, both ends belong to the instance.
"""

from collections.abc import Iterator
from pathlib import Path
import re

from deemo_jax.annotate.lines import Gesture, Line
from deemo_jax.annotate.media_files import MediaFiles, plain, stem
from deemo_jax.annotate.tables import Table, read_table, read_text, refuse
from deemo_jax.annotation import load_taxonomy
from deemo_jax.refusals import Refusal, Rejection

COLUMNS = ("video_id", "class", "start_frame", "end_frame")
EMOTIONS = {"win": "positive", "lose": "negative"}  # as iMiGUE takes a match's end
LAST = 99  # illustrative hand gestures
LONGEST = 9  # digits: no frame is that late
OF_A_VIDEO = re.compile(r"(\d+)_label\.csv")
CLIP = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)_(\d+)")


def read(path: Path, media: MediaFiles) -> Iterator[Line | Rejection]:
    """The lines of such a file, or of all `…_label.csv` in a folder.

    Of a list, a clip is an instance in its video, or a clip where there is one among
    `media`.

    Raises:
        ValueError: it is none of them.
    """
    if path.is_dir():
        files = [p for p in path.rglob("*_label.csv") if OF_A_VIDEO.fullmatch(p.name)]
        if not files:
            raise ValueError(f"{path} holds no NUMBER_label.csv: give another folder")
        for file in sorted(files):
            yield from _of_a_video(file)
    elif OF_A_VIDEO.fullmatch(path.name):
        yield from _of_a_video(path)
    elif path.suffix.lower() == ".csv":
        table = read_table(path)
        if set(COLUMNS) <= set(table.columns):
            yield from _labels(path, table)
        elif "clip" in table.columns:
            for number, row in table.rows:
                yield _guarded(_clip, path, number, row, media)
        else:
            raise ValueError(
                f"{path} lists no instances, its columns are {', '.join(table.columns)}"
                f": give a file with {', '.join(COLUMNS)}, or with clip"
            )
    else:
        for number, text in enumerate(read_text(path).splitlines(), start=1):
            if words := text.split():
                row = dict(zip(("clip", "label"), words, strict=False))
                yield _guarded(_clip, path, number, row, media)


def _guarded(make, path: Path, number: int, row, *rest) -> Line | Rejection:
    """A line, or the rejection of what is none."""
    name = None
    try:
        if isinstance(row, Refusal):
            raise row
        name = row.get("video_id") or row.get("clip")
        return make(path, number, row, *rest)
    except Refusal as refusal:
        return refuse(refusal, path, number, name)


def _labels(path: Path, table: Table) -> Iterator[Line | Rejection]:
    for number, row in table.rows:
        yield _guarded(_label, path, number, row)


def _of_a_video(path: Path) -> Iterator[Line | Rejection]:
    video = path.name.partition("_")[0]
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        if text.strip():
            names = ("class", "start_frame", "end_frame")
            row = dict(zip(names, (c.strip() for c in text.split(",")), strict=False))
            yield _guarded(_label, path, number, {"video_id": video} | row)


def _label(path: Path, number: int, row: dict[str, str]) -> Line:
    for column in COLUMNS:
        if column not in row:
            raise Refusal(f"{column} is empty", f"fill in {column!r}")
    start, end = (_whole(row[name], name) for name in ("start_frame", "end_frame"))
    if end < start:
        raise Refusal(f"end_frame {end} is before start_frame {start}", "correct them")
    result = row.get("win_or_lose", "").lower()
    if result and result not in EMOTIONS:
        raise Refusal(f"win_or_lose is {row['win_or_lose']!r}", "write Win or Lose")
    classes = load_taxonomy().nfbl
    label = row["class"]
    place = len(classes) if label == str(LAST) else _whole(label, "class")
    if not 1 <= place <= len(classes) or label == str(len(classes)):
        raise Refusal(
            f"class {label} is unknown", f"use 1 to {len(classes) - 1}, or {LAST}"
        )
    return Line(
        path=path,
        number=number,
        name=plain(row["video_id"]),
        subject=row.get("subject_id"),
        emotion=EMOTIONS.get(result),
        gesture=Gesture(
            label=classes[place - 1], start=float(start), end=float(end), in_frames=True
        ),
    )


def _clip(path: Path, number: int, row: dict[str, str], media: MediaFiles) -> Line:
    name = stem(row.get("clip", ""))
    parts = CLIP.fullmatch(name)
    if parts is None:
        raise Refusal(f"clip {name!r} is not named VIDEO_START_END_CLASS", "name it so")
    video, start, end = parts[1], float(parts[2]), float(parts[3])
    classes = load_taxonomy().nfbl
    place = _whole(parts[4], "class")
    if place >= len(classes) or row.get("label", parts[4]) != parts[4]:
        raise Refusal(
            f"class {row.get('label', parts[4])} of {name!r} is unknown, or another",
            f"use 0 to {len(classes) - 1}, as in the name",
        )
    if end <= start:
        raise Refusal(f"{name!r} ends before it starts", "correct its seconds")
    if is_cut := name in media:
        start, end = 0.0, end - start
    return Line(
        path=path,
        number=number,
        name=name if is_cut else plain(video),
        gesture=Gesture(label=classes[place], start=start, end=end),
    )


def _whole(text: str, what: str) -> int:
    # Programs that keep numbers as fractions write 12.0.
    digits = text.removesuffix(".0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST):
        raise Refusal(f"{what} is {text!r}", "give a whole number from 0 on")
    return int(digits)
