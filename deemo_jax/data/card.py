"""The card of a packed folder: how much of what is in it, for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from deemo_jax.data.record import Record
from deemo_jax.data.shards import Entry
from deemo_jax.storage import write_whole


class Facts(Counter[tuple[str, str]]):
    """How many records there are of each (kind, value), such as ("emotion", "sad")."""

    def count(self, row: Record) -> None:
        """Counts a record in."""
        self["emotion", row.emotion or "not annotated"] += 1
        self["verdict", row.verdict] += 1
        self["de-identification", row.deidentification] += 1


def write_card(
    folder: Path,
    name: str,
    entries: Mapping[str, Sequence[Entry]],
    facts: Facts,
    description: str,
) -> None:
    """Writes `README.md`: the records of each split, and what they are."""
    lines = [f"# {name}", ""]
    lines += [description.strip(), ""] if description.strip() else []
    lines += ["| split | clips | subjects | with video | with audio |", "|-|-|-|-|-|"]
    for split, rows in entries.items():
        subjects = len({row.subject for row in rows})
        video = sum(row.frames > 0 for row in rows)
        audio = sum(row.samples > 0 for row in rows)
        lines.append(f"| {split} | {len(rows)} | {subjects} | {video} | {audio} |")
    lines += ["", "| | | clips |", "|-|-|-|"]
    lines += [
        f"| {kind} | {value} | {facts[kind, value]} |" for kind, value in sorted(facts)
    ]
    lines += [
        "",
        "No subject stands in two splits. Clip and subject names are pseudonyms.",
        "",
        "Read it with `tfds.builder_from_directory`, or with `deemo_jax.data.source`.",
    ]
    write_whole(folder / "README.md", "\n".join(lines) + "\n")
