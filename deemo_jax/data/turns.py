"""Which tasks of a clip are asked, in which words and about what: drawn in training.

What is drawn follows from the generator alone, which the caller makes of (seed, epoch,
index). A task whose question has one wording takes nothing from it.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from deemo_jax.config_data import DataConfig
from deemo_jax.data import tasks
from deemo_jax.data.record import Record
from deemo_jax.data.shards import AGAIN
from deemo_jax.data.tokenizer import Tokenizer


class Turn(NamedTuple):
    """A question in words and its answer, None where that is left open.

    `task` is one of `TASKS`, or the question itself where it belongs to none.
    """

    task: str
    question: str
    answer: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks the clips of a data set.

    `classes` are those of body language that occur in it, with the number of clips
    that show each: what a clip is asked for and does not show is drawn among them.
    """

    config: DataConfig
    emotions: tuple[str, ...]
    classes: Mapping[str, int]

    def draw(
        self, record: Record, rng: np.random.Generator, task: str | None = None
    ) -> list[Turn]:
        """The turns of a row in training: of every task, or of one drawn by weight.

        With a `task`, that one was drawn already.
        """
        asked = self._tasks(record) if task is None else [task]
        if task is None and self.config.task_weights:
            shares = task_shares(asked, self.config)
            asked = [asked[rng.choice(len(asked), p=[shares[task] for task in asked])]]
        asked = [asked[i] for i in rng.permutation(len(asked))]
        return [self._draw(record, task, rng) for task in asked]

    def evaluated(
        self, record: Record, task: str, answer: str | None, label: str = ""
    ) -> Turn:
        """A question in its first wording, with the answer given."""
        question = tasks.question(record, task, self.emotions, label=label)
        return Turn(task, question, answer)

    def longest(self, record: Record, tokenizer: Tokenizer) -> list[list[Turn]]:
        """Conversations of which one has as many tokens as any that can be drawn.

        Each turn has its longest words. Which comes first matters, since that one has
        the clip in it; after it, a turn is as long in any place.
        """
        turns = [self._longest(record, task, tokenizer) for task in self._tasks(record)]
        if self.config.task_weights:
            return [[turn] for turn in turns]
        return [[*turns[i:], *turns[:i]] for i in range(len(turns))]

    def every(self, record: Record, task: str) -> list[Turn]:
        """All turns that can be drawn for a task, and those without an answer."""
        labels: Sequence[str] = ("",)
        if task == "nfbl_when":
            labels = [*tasks.classes(record), *self.classes]
        return [
            self._turn(record, task, phrasing, label)
            for phrasing in range(self.config.phrasings)
            for label in dict.fromkeys(labels)
        ]

    def _tasks(self, record: Record) -> list[str]:
        answered = tasks.answered(record)
        return [task for task in self.config.trained_tasks if task in answered]

    def _draw(self, record: Record, task: str, rng: np.random.Generator) -> Turn:
        if task == "recognition" and record.emotion not in self.emotions:
            raise ValueError(
                f"clip {record.clip_id} has the emotion {record.emotion!r}, which is "
                f"none of taxonomy.json ({', '.join(self.emotions)}): {AGAIN}"
            )
        phrasing, label = 0, ""
        if self.config.phrasings > 1:
            phrasing = int(rng.integers(self.config.phrasings))
        if task == "nfbl_when":
            shown = tasks.classes(record)
            label = shown[rng.integers(len(shown))]
            if rng.random() < self.config.nfbl_never:
                label = draw_absent(shown, self.classes, rng) or label
        return self._turn(record, task, phrasing, label)

    def _longest(self, record: Record, task: str, tokenizer: Tokenizer) -> Turn:
        turns = self.every(record, task)
        if len(turns) == 1:
            return turns[0]
        # As in the prompt, a question follows the end of a line.
        texts = [f"\n{turn.question}" for turn in turns]
        texts += [turn.answer or "" for turn in turns]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths = np.array([len(ids) for ids in encoded]).reshape(2, -1).sum(axis=0)
        return turns[int(lengths.argmax())]

    def _turn(self, record: Record, task: str, phrasing: int, label: str) -> Turn:
        question = tasks.question(
            record, task, self.emotions, label=label, phrasing=phrasing
        )
        return Turn(task, question, tasks.answer(record, task, label))


def task_shares(answered: Collection[str], config: DataConfig) -> dict[str, float]:
    """With which probability each task is asked of a clip that has these answers.

    The weights of tasks that it has no answer to go to the others, in proportion.
    """
    weights = dict(zip(config.tasks, config.task_weights, strict=True))
    found = {t: w for t, w in weights.items() if w > 0 and t in answered}
    return {task: weight / sum(found.values()) for task, weight in found.items()}


def draw_absent(
    shown: Collection[str], classes: Mapping[str, int], rng: np.random.Generator
) -> str | None:
    """A class that is not shown, as often as it occurs elsewhere; None without any."""
    absent = {label: n for label, n in classes.items() if label not in shown}
    if not absent:
        return None
    counts = np.array([*absent.values()], float)
    return [*absent][rng.choice(len(absent), p=counts / counts.sum())]
