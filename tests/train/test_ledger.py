"""Whom parameters were trained on is written once a step is kept, and handed on."""

import json
import os

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.storage import locate
from deemo_jax.train.ledger import LEDGER, Ledger, handed_on, read_ledger, to_lines


def ledger(workdir):
    return [json.loads(line) for line in (workdir / LEDGER).read_text().splitlines()]


def start_ledger(workdir, start=0, manifest="abc", **kwargs) -> Ledger:
    return Ledger(
        workdir,
        data={"manifest": manifest},
        subjects=["s1", "s2"],
        start=start,
        **kwargs,
    )


def test_the_ledger_says_which_subjects_the_kept_steps_saw(tmp_path):
    begun = start_ledger(tmp_path)
    assert not (tmp_path / LEDGER).exists()  # no step is kept
    assert read_ledger(tmp_path) == []
    begun.enter(10)
    begun.enter(20)
    start_ledger(tmp_path, start=20).enter(30)  # killed after 20, resumed
    assert ledger(tmp_path) == [
        {"data": {"manifest": "abc"}, "subjects": ["s1", "s2"], "steps": [1, 30]}
    ]
    start_ledger(tmp_path, manifest="other").enter(10)  # nothing was kept
    [entry] = ledger(tmp_path)
    assert entry["data"] == {"manifest": "other"}
    assert to_lines(read_ledger(tmp_path)) == (tmp_path / LEDGER).read_text()


def test_other_records_are_refused_in_the_middle_of_a_run(tmp_path):
    start_ledger(tmp_path).enter(20)
    with pytest.raises(ConfigError, match=r"steps up to 20 .*manifest abc, now other"):
        start_ledger(tmp_path, start=20, manifest="other")
    assert ledger(tmp_path)[0]["steps"] == [1, 20]


def begin(folder, *names):
    """Runs that began with each other, all within their folder."""
    before = None
    for name in names:
        (folder / name).mkdir(parents=True)
        start_ledger(folder / name, manifest=name, began_with=before).enter(9)
        before = folder / name


def test_what_a_run_began_with_is_known_wherever_it_is_now(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    begin(locate("runs"), "align", "tune", "full")
    monkeypatch.chdir(tmp_path)
    os.rename("there/runs", "moved")
    first, second, own = read_ledger(tmp_path / "moved" / "full")
    runs = tmp_path / "there" / "runs"
    assert [first.run, second.run, own.run] == [str(runs / "align"), f"{runs}/tune", ""]
    assert [e.data["manifest"] for e in (first, second, own)] == [
        "align", "tune", "full",
    ]  # fmt: skip
    # Resumed where nothing is that it began with, or something else by now, they stay.
    for began_with in (runs / "tune", tmp_path / "moved" / "align"):
        resumed = start_ledger(
            tmp_path / "moved" / "full", 9, "full", began_with=began_with
        )
        resumed.enter(12)
        assert read_ledger(tmp_path / "moved" / "full")[:2] == [first, second]
    assert read_ledger(tmp_path / "moved" / "full")[2].steps == (1, 12)


def test_a_run_of_which_nothing_was_known_before_learns_it_when_it_goes_on(tmp_path):
    begin(tmp_path, "align")
    start_ledger(tmp_path / "align", manifest="align").enter(9)
    (tmp_path / "tune").mkdir()
    start_ledger(tmp_path / "tune").enter(9)
    align = tmp_path / "align"
    start_ledger(tmp_path / "tune", 9, began_with=align).enter(12)
    assert [e.run for e in read_ledger(tmp_path / "tune")] == [str(align), ""]


def test_it_is_handed_on_in_a_bucket_too(bucket, tmp_path):
    top = locate(f"{bucket}/{tmp_path.name}")
    begin(top, "align", "tune")
    assert [e.run for e in handed_on(top / "tune")] == [
        f"{top}/align",
        f"{top}/tune",
    ]
    assert f"{top}".startswith("gs://")


@pytest.mark.parametrize(
    "line",
    [
        '{"data": {"manifest": "a"}, "subj',
        "3",
        "[" * 100_000,
        '{"data": {}, "subjects": [], "steps": [1, 2]}',
        '{"data": {"manifest": "a"}, "subjects": [], "steps": [1]}',
        '{"data": {"manifest": "a"}, "subjects": 3, "steps": [1, 2]}',
        '{"data": {"manifest": "a"}, "subjects": [], "steps": ["a", 2]}',
        '{"data": {"manifest": "a"}, "subjects": "s1", "steps": [1, 2]}',
    ],
)
def test_a_damaged_ledger_is_no_empty_one(tmp_path, line):
    start_ledger(tmp_path).enter(9)
    path = tmp_path / LEDGER
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"ledger.jsonl, line 2, is damaged: .*resto"):
        read_ledger(tmp_path)
    with pytest.raises(ConfigError, match="damaged"):
        start_ledger(tmp_path / "next", began_with=tmp_path)
