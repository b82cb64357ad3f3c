"""The settings of a run's data: which records, and what is asked of them in rows."""

import dataclasses

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.fields import require

NFBL_TASKS = ("nfbl_which", "nfbl_when")  # about non-facial body language
TASKS = ("recognition", "reasoning", *NFBL_TASKS)
PHRASINGS = 5  # wordings of each task's question, which stand in data/tasks.py
MODALITIES = ("video", "audio", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """The generated corpus, used where `data.path` is empty."""

    train_clips: int
    test_clips: int
    train_subjects: int
    test_subjects: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the records are and how they become rows.

    `path` is a packed TFDS folder; empty means: generate a corpus in the workdir.
    Unless `folds` is 0, its subjects are divided anew, whatever its splits, into so
    many (-1: one a subject), of which number `fold`, counted from 0, is for
    evaluation and the others for training.
    `tokenizer` is a Hugging Face folder; empty means: train one on the corpus.

    A row asks a clip for every one of `tasks` that it has an answer to, one after
    another; with `task_weights`, a number for each of `tasks`, for one that is drawn by
    them. Questions are drawn among the first `phrasings` wordings of each task.
    `nfbl_never` is the share of the questions `nfbl_when`, in training, about a class
    of body language that the clip does not show; clips that show none at all are asked
    `nfbl_which` only. `nfbl_cues` tells the decoder in words
    which body language is annotated, and when, where the task is recognition or
    reasoning: in evaluation as well, whose figures are then figures with these cues.

    `num_frames` frames of `image_size` pixels square and `audio_seconds` of sound are
    taken from a clip, `max_length` tokens is the longest row, of `clips_per_row` clips
    in training. `modality_dropout` is
    the probability, in training, with which each modality of a clip is left out (never
    all of them); `augment` shifts, flips and adds noise. `workers` is the number of
    Grain's worker processes, 0 reads in threads of this one. `features` is the dtype of
    what frozen towers made of the media, where the records of `path` hold that instead
    (`deemo pack --features`; the command line finds it out); empty: they hold media.
    """

    path: str
    name: str
    tokenizer: str
    folds: int
    fold: int
    synthetic: SyntheticConfig
    tasks: tuple[str, ...]
    task_weights: tuple[float, ...]
    phrasings: int
    nfbl_never: float
    nfbl_cues: bool
    num_frames: int
    image_size: int
    audio_seconds: float
    max_length: int
    clips_per_row: int
    modality_dropout: float
    augment: bool
    workers: int
    prefetch: int
    features: str

    @property
    def num_samples(self) -> int:
        """Samples of sound in a row."""
        return round(self.audio_seconds * SAMPLE_RATE)

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """Those of `tasks` that a row may ask for."""
        if not self.task_weights:
            return self.tasks
        weighed = zip(self.tasks, self.task_weights, strict=True)
        return tuple(task for task, weight in weighed if weight > 0)

    def check(self) -> None:
        """Refuses what cannot stand, whatever the rest of the run is.

        Raises:
          ConfigError: which says what, its value, and what it must be.
        """
        for key in ("modality_dropout", "nfbl_never"):
            share = getattr(self, key)
            require(0 <= share < 1, f"data.{key}", share, "at least 0 and below 1")
        for task in self.tasks:
            require(task in TASKS, "data.tasks", task, "among " + ", ".join(TASKS))
        weights = self.task_weights
        require(
            not weights or (len(weights) == len(self.tasks) and min(weights) >= 0
                            and max(weights) > 0),
            "data.task_weights", weights, "empty, or a number from 0 on for each of "
            f"data.tasks, {', '.join(self.tasks)}, one of them above 0",
        )  # fmt: skip
        require(
            1 <= self.phrasings <= PHRASINGS, "data.phrasings", self.phrasings,
            f"from 1 to {PHRASINGS}",
        )  # fmt: skip
        require(
            not self.nfbl_cues or bool(weights) or not {*self.tasks} & {*NFBL_TASKS},
            "data.nfbl_cues", self.nfbl_cues, "False, or data.task_weights given: a "
            "row with every task would hold the answers of those about body language",
        )  # fmt: skip
