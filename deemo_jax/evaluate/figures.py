"""Names of the numbers that an evaluation gives, before there is a model for it."""

from collections.abc import Iterator
import difflib
from typing import Any

import numpy as np

from deemo_jax.config import Config, ConfigError
from deemo_jax.data.loader import evaluation_questions
from deemo_jax.data.source import ShardSource
from deemo_jax.evaluate.judge import Lexical
from deemo_jax.evaluate.nfbl import When, Which
from deemo_jax.evaluate.results import Prediction, Results, subset_name, to_json
from deemo_jax.evaluate.runner import SUBSETS
from deemo_jax.fields import flatten


def figures(source: ShardSource, config: Config) -> tuple[str, ...]:
    """Dotted names of the numbers that `evaluate` gives of a split.

    They are those of one in which every question is answered rightly: whether a number
    is given, and is not NaN, does not depend on the answers.
    """
    tasks = source.answered(config.data.tasks)
    labels = source.taxonomy.emotions
    right = np.eye(len(labels), len(labels) + 1, dtype=np.int64)
    recognised = "recognition" in tasks
    ways = ("likelihood", "parsing") if recognised else ()
    subsets = SUBSETS if recognised and config.evaluate.ablations else ()
    results = Results(
        step=0,
        dataset=source.name,
        split=source.split,
        labels=labels,
        confusions=dict.fromkeys(ways, right),
        ablations={subset_name(subset): right for subset in subsets},
        bounds={},
        groups=source.taxonomy.nfbl_groups,
        predictions=tuple(_right(source, tasks)),
    )
    found = flatten(to_json(results))
    return tuple(name for name, x in found.items() if isinstance(x, int | float))


def check_best(source: ShardSource, config: Config) -> None:
    """Refuses a `config.evaluate.best` that is no number of an evaluation of a split.

    Raises:
      ConfigError: with the nearest name that there is.
    """
    best = config.evaluate.best
    if not best or best in (names := figures(source, config)):
        return
    nearest = max(names, key=lambda name: _likeness(best, name))
    raise ConfigError(
        f"config.evaluate.best is {best!r}, which an evaluation of {source.split} does "
        f"not give; did you mean {nearest}?"
    )


def _likeness(said: str, name: str) -> float:
    """How near what was said comes to a dotted name, or to the end of one."""
    parts = name.split(".")
    ends = [".".join(parts[first:]) for first in range(len(parts))]
    return max(difflib.SequenceMatcher(None, said, end).ratio() for end in ends)


def _right(source: ShardSource, tasks: tuple[str, ...]) -> Iterator[Prediction]:
    """A prediction for each question, whose answer is right."""
    for task in tasks:
        for index, label in evaluation_questions(source, task):
            shown = source.entries[index].nfbl
            answer: dict[str, Any] = {}
            if task == "reasoning":
                answer["lexical"] = Lexical(word_f1=1.0, rouge_l=1.0, same_emotion=True)
            elif task == "nfbl_which":
                answer["nfbl_which"] = Which(expected=shown, text="", named=shown)
            elif task == "nfbl_when":
                times = ((0.0, 1.0),) if label in shown else ()
                answer["nfbl_when"] = (
                    When(
                        label=label, seconds=1.0, expected=times, text="", named=times
                    ),
                )
            yield Prediction(
                index=index,
                clip_id=source.entries[index].clip_id,
                transcript=None,
                emotion=None,
                reference=None,
                **answer,
            )
