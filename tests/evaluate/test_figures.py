"""Which numbers an evaluation gives, and which it is asked for by mistake."""

import dataclasses

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.data.source import ShardSource
from deemo_jax.evaluate.figures import check_best, figures
from tests.small import make_corpus, small_config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ShardSource(make_corpus(tmp_path_factory.mktemp("corpus")), "test")


def test_they_follow_the_tasks_and_the_ablations(source):
    config = small_config()
    found = figures(source, config)
    for name in (
        "recognition.parsing.accuracy",
        "recognition.likelihood.per_class.positive.f1",
        "recognition.likelihood.majority.uar",
        "reasoning.lexical.rouge_l",
        "ablations.video+text.macro_f1",
    ):
        assert name in found
    for changes, gone in (
        ({"evaluate__ablations": False}, "ablations"),
        ({"data__tasks": ("reasoning",)}, "recognition"),
        ({"data__tasks": ("recognition",)}, "reasoning"),
    ):
        fewer = figures(source, small_config(**changes))
        assert set(fewer) < set(found)
        assert not any(name.startswith(f"{gone}.") for name in fewer)


@pytest.mark.parametrize(
    ("said", "nearest"),
    [
        ("accuracy", "recognition.likelihood.accuracy"),
        ("recognition.accuracy", "recognition.parsing.accuracy"),
        ("recognition.parsing.acuracy", "recognition.parsing.accuracy"),
        ("rougeL", "reasoning.lexical.rouge_l"),
    ],
)
def test_a_best_that_there_is_not_is_refused_with_the_nearest(source, said, nearest):
    with pytest.raises(ConfigError) as refused:
        check_best(source, small_config(evaluate__best=said))
    assert str(refused.value) == (
        f"config.evaluate.best is {said!r}, which an evaluation of test does not give; "
        f"did you mean {nearest}?"
    )


def test_a_best_that_there_is_or_none_is_taken(source):
    config = small_config()
    for best in ("", "recognition.parsing.accuracy", "reasoning.lexical.rouge_l"):
        evaluated = dataclasses.replace(config.evaluate, best=best)
        check_best(source, dataclasses.replace(config, evaluate=evaluated))
