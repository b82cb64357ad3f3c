"""Results that no model made, for the files and the report."""

import numpy as np
import pytest

from deemo_jax.evaluate.judge import lexical
from deemo_jax.evaluate.metrics import UNPARSED, confusion
from deemo_jax.evaluate.nfbl import When, Which
from deemo_jax.evaluate.results import Prediction, Results, subset_name

LABELS = ("positive", "negative")


@pytest.fixture
def make_results():
    """Builds results of `clips` clips whose every text is `text`, if there is one."""

    def make(*, clips=20, text=None, labels=LABELS, ablations=True, nfbl=False, seed=0):
        rng = np.random.default_rng(seed)
        classes = len(labels)
        truth = rng.integers(0, classes, clips)
        likely = np.where(rng.random(clips) < 0.7, truth, 0)
        parsed = np.where(rng.random(clips) < 0.1, UNPARSED, likely)
        predictions = []
        for i in range(clips):
            emotion, said = labels[truth[i]], labels[likely[i]]
            shares = rng.uniform(0.01, 0.1, classes)
            shares[likely[i]] = 1
            shares /= shares.sum()
            reference = text or f"The arms are high, so it is {emotion}."
            reasoning = text or f"The voice is high, so it is {said}."
            predictions.append(
                Prediction(
                    index=2 * i,
                    clip_id=text or f"clip{i}",
                    transcript=text or ("We won!" if i % 2 else None),
                    emotion=emotion,
                    reference=reference,
                    probabilities=dict(zip(labels, shares.tolist(), strict=True)),
                    by_likelihood=said,
                    answer=text or said,
                    by_parsing=None if parsed[i] == UNPARSED else said,
                    reasoning=reasoning,
                    lexical=lexical(reasoning, reference, labels, emotion),
                    nfbl_which=Which(
                        expected=("folding arms",),
                        text=text or "Folding arms; no",
                        named=None if i % 3 == 0 else ("folding arms",),
                    )
                    if nfbl
                    else None,
                    nfbl_when=(
                        When(
                            label="folding arms",
                            seconds=3.0,
                            expected=((0.5, 2.3),),
                            text=text or "0.5 to 2.0",
                            named=(None, (), ((0.5, 2.0),))[i % 3],
                        ),
                        When(
                            label="raising head",
                            seconds=3.0,
                            expected=(),
                            text=text or "never",
                            named=((), None)[i % 2],
                        ),
                    )
                    if nfbl
                    else (),
                )
            )
        subsets = [{"video"}, {"text", "audio"}, {"video", "audio", "text"}]
        by_likelihood = confusion(truth, likely, classes)
        return Results(
            step=50,
            dataset="made_up",
            split="test",
            labels=labels,
            confusions={
                "likelihood": by_likelihood,
                "parsing": confusion(truth, parsed, classes),
            },
            ablations={subset_name(s): by_likelihood for s in subsets}
            if ablations
            else {},
            bounds={"video": 0.7, "video+audio+text": 1.0} if ablations else {},
            groups={"self-protective behaviour": ("folding arms",)},
            predictions=tuple(predictions),
        )

    return make
