"""The report: inert whatever it is told, alone in the world, and complete."""

import dataclasses
from html.parser import HTMLParser
import json

import pytest

from deemo_jax.evaluate.nfbl import Which
from deemo_jax.evaluate.report import (
    SAMPLES,
    choose_samples,
    percent,
    read_losses,
    render,
    running_mean,
    shade,
    write_report,
)

EVIL = "</dd></svg></style><script>alert(1)</script><img src=//x onerror=x()> {{x}}"
EVIL_LABELS = ('<b id="x">', "a $x_{ & b", "{% if %}", "sad\" onload='y'")


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text = [], [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 5 / step}) for step in range(1, 41)]
    path.write_text("\n".join([*lines, '{"step": 41, "loss": NaN}', '{"step": 4']))
    return path


@pytest.fixture
def page(make_results, history):
    baseline = make_results(seed=1, ablations=False)
    return Page(render(make_results(), baseline=baseline, history=history))


def test_nothing_that_it_is_told_becomes_markup(make_results, page, history):
    told = make_results(text=EVIL, labels=EVIL_LABELS, clips=60, nfbl=True)
    evil = Page(
        render(
            dataclasses.replace(told, dataset=EVIL, split=EVIL),
            baseline=told,
            history=history,
        )
    )
    assert not {"script", "img", "iframe", "b id"} & set(evil.tags)
    assert set(evil.tags) <= set(page.tags)
    assert EVIL in evil.text
    for label in EVIL_LABELS:
        assert label in evil.text
    names = {name for name, _ in evil.attributes}
    assert names <= {name for name, _ in page.attributes}
    assert not [name for name in names if name.startswith("on")]


def test_it_asks_nothing_of_a_network_and_runs_nothing(page):
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert (value or "").startswith("#"), (name, value)
    assert not {"link", "metadata"} & set(page.tags)
    assert "url(http" not in page.text
    assert "@import" not in page.text
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in (
        page.attributes
    )


def test_ids_of_two_plots_do_not_meet(page):
    assert page.tags.count("svg") == 2
    assert len(page.ids) == len(set(page.ids))


def test_it_shows_every_figure(page, make_results):
    results = make_results()
    for found in (*results.recognition.values(), *results.ablated.values()):
        for value in (found.accuracy, found.weighted_f1, found.macro_f1, found.uar):
            assert percent(value) in page.text
    majority = results.recognition["likelihood"].majority
    for part in (
        f"always “{majority.label}”",
        percent(majority.weighted_f1),
        "untrained, by likelihood",
        "untrained, by written text",
        "lexical",
        "unparsed",
        "100.0 %",
    ):
        assert part in page.text
    assert "overlap" not in page.text


def test_it_shows_what_was_said_of_body_language(make_results):
    results = make_results(nfbl=True)
    text = Page(render(results, baseline=make_results(nfbl=True, seed=1))).text
    which, when = results.nfbl_which, results.nfbl_when
    for value in (which.classes.micro, which.exact, which.groups.macro):
        assert percent(value) in text
    for value in (when.iou, when.iou_of_all, when.recall, when.never):
        assert percent(value) in text
    for part in ("always “folding arms”", "always the whole clip", "0.5 to 2.3"):
        assert part in text
    assert "Body language" not in Page(render(make_results())).text


def test_it_shows_of_how_many_clips_none_is_said(make_results):
    def with_none(count):
        results = make_results(nfbl=True)
        bare = Which(expected=(), text="None.", named=())
        return dataclasses.replace(
            results,
            predictions=tuple(
                dataclasses.replace(p, nfbl_which=bare) if i < count else p
                for i, p in enumerate(results.predictions)
            ),
        )

    assert "“none”" not in Page(render(with_none(0))).text
    assert "none" not in " ".join(with_none(0).describe())
    some = with_none(3)
    text = Page(render(some)).text
    assert "“none”" in text
    assert "of 3 clips without body language" in " ".join(text.split())
    assert "none 1.000 of 3" in " ".join(some.describe())
    text = Page(render(with_none(20))).text
    assert "always “folding" not in text
    assert "always “”" not in text


def test_it_shows_right_and_wrong_clips_with_their_reference(make_results):
    results = make_results(clips=40)
    right, wrong = choose_samples(results.predictions)
    assert len(right) == len(wrong) == SAMPLES
    assert all(p.by_likelihood == p.emotion for p in right)
    assert all(p.by_likelihood != p.emotion for p in wrong)
    sure = [max((p.probabilities or {}).values()) for p in wrong]
    others = [
        max((p.probabilities or {}).values())
        for p in results.predictions
        if p.by_likelihood != p.emotion and p not in wrong
    ]
    assert sure == sorted(sure, reverse=True)
    assert min(sure) >= max(others)
    text = Page(render(results)).text
    for clip in (*right, *wrong):
        assert clip.clip_id in text
        assert str(clip.reference) in text
        assert str(clip.reasoning) in text


def test_whatever_is_missing_is_left_out(make_results, tmp_path):
    results = make_results(ablations=False)
    bare = [
        dataclasses.replace(
            p, probabilities=None, by_likelihood=None, answer=None, by_parsing=None
        )
        for p in results.predictions
    ]
    for changed, present, absent in (
        (dataclasses.replace(results, confusions={}, predictions=tuple(bare)),
         "Reasoning", "Confusion"),
        (dataclasses.replace(results, predictions=()), "Confusion", "Reasoning"),
        (results, "Recognition", "What each modality gives"),
    ):  # fmt: skip
        text = Page(render(changed, history=tmp_path / "absent.jsonl")).text
        assert present in text
        assert absent not in text
        assert "Training loss" not in text


def test_many_classes_and_one_class_are_shown(make_results):
    many = tuple(f"emotion {i}" for i in range(32))
    text = Page(render(make_results(labels=many, clips=50))).text
    assert all(label in text for label in many)
    assert "only" in Page(render(make_results(labels=("only",)))).text


def test_the_same_results_give_the_same_page(make_results, history):
    pages = {render(make_results(), history=history) for _ in range(2)}
    assert len(pages) == 1


def test_it_is_written_whole(make_results, tmp_path):
    write_report(tmp_path / "report.html", make_results())
    assert (tmp_path / "report.html").read_text().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_losses_pass_over_what_is_torn_or_not_finite(history, tmp_path):
    losses = read_losses(history)
    assert [step for step, _ in losses] == list(range(1, 41))
    assert losses[4] == (5, 1.0)
    (tmp_path / "odd").write_text('[]\n\n{"step": 1}\n{"step": "x", "loss": 1}\n\xff')
    assert read_losses(tmp_path / "odd") == []


def test_a_running_mean_leaves_a_straight_line_alone():
    line = [float(value) for value in range(100)]
    assert running_mean(line) == pytest.approx(line)
    jagged = [value + (-1) ** i for i, value in enumerate(line)]
    assert running_mean(jagged)[50] == pytest.approx(50, abs=0.5)
    assert running_mean([3.0]) == [3.0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9125, "91.2 %"), (1.0, "100.0 %"), (float("nan"), "–"), (None, "–")],
)
def test_percent(value, shown):
    assert percent(value) == shown


def test_shade_is_a_share_of_the_row():
    assert [shade(count, [1, 3, 0]) for count in (1, 3, 0)] == [25, 75, 0]
    assert shade(0, [0, 0]) == 0
