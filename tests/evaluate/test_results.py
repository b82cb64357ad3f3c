"""Files of an evaluation: read back as written, plain JSON, whole or not at all."""

import dataclasses
import json

import numpy as np
import pytest

from deemo_jax.evaluate import results as results_module
from deemo_jax.evaluate.results import (
    METRICS,
    PREDICTIONS,
    Results,
    read_results,
    subset_name,
    write_results,
)


def test_reading_gives_back_what_was_written(make_results, tmp_path):
    written = make_results(text="a\u2028b\n“c”", nfbl=True)
    write_results(tmp_path / "eval" / "50", written)
    read = read_results(tmp_path / "eval" / "50")
    assert read.recognition == written.recognition
    assert read.ablated == written.ablated
    assert read.reasoning == written.reasoning
    assert read.nfbl_which == written.nfbl_which
    assert read.nfbl_when == written.nfbl_when
    for field in dataclasses.fields(Results):
        if field.name not in ("confusions", "ablations"):
            assert getattr(read, field.name) == getattr(written, field.name)


def test_metrics_are_strict_json_even_where_nothing_was_scored(make_results, tmp_path):
    empty = dataclasses.replace(
        make_results(),
        confusions={"likelihood": np.zeros((2, 3), np.int64)},
        predictions=(),
    )
    write_results(tmp_path, empty)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / METRICS).read_text()
    metrics = json.loads(text, parse_constant=refuse)
    assert metrics["recognition"]["likelihood"]["accuracy"] is None
    assert metrics["reasoning"] == {}
    assert metrics["nfbl"] == {}
    assert (tmp_path / PREDICTIONS).read_text() == ""
    assert read_results(tmp_path).reasoning is None


def test_metrics_name_what_they_are(make_results, tmp_path):
    write_results(tmp_path, make_results())
    metrics = json.loads((tmp_path / METRICS).read_text())
    assert set(metrics["recognition"]) == {"likelihood", "parsing"}
    assert set(metrics["reasoning"]) == {"lexical"}
    assert set(metrics["ablations"]) == {"video", "audio+text", "video+audio+text"}
    assert metrics["recognition"]["parsing"]["majority"]["label"] in metrics["labels"]
    assert "overlap" not in (tmp_path / METRICS).read_text()


def test_metrics_of_body_language_are_there_where_it_was_asked_for(
    make_results, tmp_path
):
    write_results(tmp_path, make_results(nfbl=True))
    figures = json.loads((tmp_path / METRICS).read_text())["nfbl"]
    assert figures["which"]["clips"] == 20
    assert figures["which"]["exact"] == pytest.approx(13 / 20)
    assert figures["which"]["unparsed"] == 7
    assert figures["when"]["shown"] == figures["when"]["absent"] == 20
    assert figures["when"]["unparsed"] == 7 + 10
    assert figures["when"]["never"] == 0.5


@pytest.mark.parametrize(
    ("text", "named"), [("None.", ()), ("Nothing.", None), ("?", None)]
)
def test_what_was_unparsed_is_so_in_files_of_before(
    make_results, tmp_path, text, named
):
    """They have no names for it, as for what says none today."""
    write_results(tmp_path, make_results(nfbl=True))
    lines = [
        json.loads(line) for line in (tmp_path / PREDICTIONS).read_text().splitlines()
    ]
    lines[0]["nfbl_which"] |= {"named": [], "text": text}
    (tmp_path / PREDICTIONS).write_text(
        "".join(json.dumps(row) + "\n" for row in lines)
    )
    which = read_results(tmp_path).predictions[0].nfbl_which
    assert which is not None
    assert which.named == named


def test_what_was_asked_is_described_in_words(make_results):
    lines = make_results(nfbl=True).describe()
    begin = [line.partition(":")[0] for line in lines]
    assert begin == [
        "recognition by likelihood", "recognition by parsing",
        "reasoning, lexical scorer", "body language, which", "body language, when",
    ]  # fmt: skip
    assert "never 0.500, 17 unparsed" in lines[-1]
    assert len(make_results().describe()) == 3


def test_metrics_are_written_last(make_results, tmp_path, monkeypatch):
    def fail(path, objects):
        raise OSError("no space left")

    monkeypatch.setattr(results_module, "write_lines", fail)
    with pytest.raises(OSError, match="no space"):
        write_results(tmp_path, make_results())
    with pytest.raises(ValueError, match="evaluate again"):
        read_results(tmp_path)


@pytest.mark.parametrize("name", [METRICS, PREDICTIONS])
def test_a_torn_file_is_refused(make_results, tmp_path, name):
    write_results(tmp_path, make_results())
    path = tmp_path / name
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=f"{tmp_path}.*evaluate again"):
        read_results(tmp_path)


def test_subsets_have_one_name_whatever_their_order():
    assert subset_name(("text", "video")) == subset_name({"video", "text"})
    assert subset_name(("text", "video")) == "video+text"
