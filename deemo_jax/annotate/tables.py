"""Texts and tables as people have them: quoted, separated by whatever."""

from collections.abc import Sequence
import csv
import io
from pathlib import Path
from typing import NamedTuple

from deemo_jax.annotate.media_files import plain, stem
from deemo_jax.annotation import one_name
from deemo_jax.fields import ConfigError
from deemo_jax.refusals import Refusal, Rejection, reject

SEPARATORS = ",;\t"


class Table(NamedTuple):
    """A CSV file: its columns in lower case, and (line, cells by column) of each row.

    Cells are trimmed, and empty ones left out. What is no row is a refusal.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str] | Refusal]]


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a mark at its start.

    Another encoding is never guessed: what Excel writes in Europe can be read as what
    it writes in China, and is another text then.

    Raises:
        ConfigError: it cannot be read.
        ValueError: it is in another encoding.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path} ({error.strerror}): correct the path"
        ) from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(
            f"{path} is not in UTF-8: save it so, or convert it, as by `iconv -f "
            "GB18030 -t UTF-8` (Excel in China; CP1252 in Western Europe)"
        )
    return text


def read_table(path: Path) -> Table:
    """Reads a CSV file, separated as its first line is; blank lines are passed over.

    Raises:
        ValueError: it is empty, two columns have one name, or a quote is not closed:
            what follows is unclear.
    """
    text = read_text(path)
    separator = max(SEPARATORS, key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, ""), delimiter=separator, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, dict[str, str] | Refusal]] = []
    before = 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = tuple(cell.lower() for cell in cells)
                named = [name for name in columns if name]
                if twice := {name for name in named if named.count(name) > 1}:
                    raise ValueError(
                        f"{path} has several columns {' and '.join(sorted(twice))}: "
                        "keep one, or rename the others"
                    )
            elif len(cells) != len(columns):
                reason = f"{len(cells)} cells, the columns are {len(columns)}"
                remedy = "quote cells that hold a separator"
                rows.append((line, Refusal(reason, remedy)))
            else:
                named = zip(columns, cells, strict=True)
                rows.append((line, {name: cell for name, cell in named if cell}))
    except csv.Error as error:
        raise ValueError(
            f"{path}: what begins on line {before + 1} is no CSV ({error}): close its "
            "quotes, and double those inside a cell"
        ) from error
    if not columns:
        raise ValueError(f"{path} is empty: give another file")
    return Table(columns, rows)


def column(table: Table, path: Path, names: Sequence[str]) -> str:
    """Which of several columns a table has.

    Raises:
        ValueError: it has none of them.
    """
    for name in names:
        if name in table.columns:
            return name
    raise ValueError(
        f"{path} has no column {' or '.join(names)}, its columns are "
        f"{', '.join(table.columns)}: give another file, or name its columns so"
    )


def read_pairs(
    path: Path, keys: Sequence[str], values: Sequence[str]
) -> tuple[dict[str, str], list[Rejection]]:
    """What a column says of a clip, by its plain name; the first column that there is.

    Of rows with one key and two values, all are left out: nobody knows which holds.
    """
    table = read_table(path)
    key, value = column(table, path, keys), column(table, path, values)
    pairs: dict[str, str] = {}
    unclear, rejections = set(), []
    for line, row in table.rows:
        try:
            if isinstance(row, Refusal):
                raise row
            if key not in row:
                raise Refusal(f"{key} is empty", f"fill in {key!r}")
            name, said = plain(stem(row[key])), row.get(value, "")
            if one_name(first := pairs.setdefault(name, said)) != one_name(said):
                unclear.add(name)
                raise Refusal(
                    f"{value} of {name!r} is {said!r}, and was {first!r}", "keep one"
                )
        except Refusal as refusal:
            rejections.append(refuse(refusal, path, line))
    return {k: v for k, v in pairs.items() if k not in unclear}, rejections


def refuse(
    refusal: Refusal, path: Path, line: int | None = None, name: str | None = None
) -> Rejection:
    """The rejection of a line of one of several files."""
    named = Refusal(f"{path.name}: {refusal.reason}", refusal.remedy)
    return reject(named, line=line, clip_id=name)
