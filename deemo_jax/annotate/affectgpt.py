"""EMER and the tables of AffectGPT and MERTools (Lian et al.), clips by name.

Told apart by their columns, besides `name` or `names`:

- `emotions`, `subtitles`, `reasons`: the first EMER, in one language a file;
- `chinese`, `english`: the reasoning of the second EMER, in both;
- `reason`: the descriptions of MER-Caption+ and OV-MERD (`track3_train_….csv`);
- `openset`: their open-vocabulary labels (`track2_train_….csv`), such as
  `[happy, calm]`;
- `discrete`: the emotions of MER2023 to MER2025 (`track1_train_disdim.csv`).

Of several open-vocabulary labels none is the emotion: a clip has one here.
"""

from collections.abc import Iterator
from pathlib import Path

from deemo_jax.annotate.lines import Line
from deemo_jax.annotate.tables import column, read_table, refuse
from deemo_jax.refusals import Refusal, Rejection

NAMES = ("name", "names")
LANGUAGES = ("english", "chinese")


def read(path: Path, language: str) -> Iterator[Line | Rejection]:
    """The lines of such a file, in the language where it has both.

    Raises:
        ValueError: it has none of these columns.
    """
    table = read_table(path)
    key = column(table, path, NAMES)
    column(
        table, path, ("emotions", "discrete", "openset", "reasons", "reason", language)
    )
    for number, row in table.rows:
        try:
            if isinstance(row, Refusal):
                raise row
            if key not in row:
                raise Refusal(f"{key} is empty", f"fill in {key!r}")
        except Refusal as refusal:
            yield refuse(refusal, path, number)
            continue
        emotion = row.get("emotions") or row.get("discrete") or _only(row)
        yield Line(
            path=path,
            number=number,
            name=row[key],
            emotion=emotion and emotion.lower(),
            reasoning=row.get("reasons") or row.get("reason") or row.get(language),
            transcript=row.get("subtitles"),
        )


def _only(row: dict[str, str]) -> str | None:
    """The open-vocabulary label, if there is one."""
    texts = row.get("openset", "").strip("[]").split(",")
    labels = {text.strip(" '\"").lower() for text in texts} - {""}
    return labels.pop() if len(labels) == 1 else None
