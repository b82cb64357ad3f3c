"""The card counts what is in the folder."""

from deemo_jax.data.card import Facts, write_card
from deemo_jax.data.source import ShardSource


def test_records_are_counted_by_what_they_are(tmp_path, folder, rows):
    facts = Facts()
    for row in rows:
        facts.count(row)
    entries = {"train": ShardSource(folder, "train").entries}
    write_card(tmp_path, "tiny", entries, facts, "Made by a test.")
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[:3] == ["# tiny", "", "Made by a test."]
    for line in (
        "| train | 13 | 3 | 12 | 12 |",
        "| emotion | negative | 7 |",
        "| emotion | positive | 6 |",
        "| verdict | generated | 13 |",
    ):
        assert line in lines
