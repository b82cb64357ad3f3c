"""Rows of several clips: what is asked of each was planned, and the rows are full."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from deemo_jax.data import prompt, tasks
from deemo_jax.data.loader import Batches
from deemo_jax.data.packed import Packed
from deemo_jax.data.packing import needed_length
from deemo_jax.data.prompt import Spans
from deemo_jax.data.source import ShardSource
from deemo_jax.data.synthetic import emotion_of
from deemo_jax.data.synthetic_words import explain, say
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.fields import ConfigError

SPANS = Spans(video=8, audio=4)
CLIPS = 120
MIXTURE = {"task_weights": (1.0, 1.0), "clips_per_row": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_record, pack_records):
    """What is said in the generated corpus; its first clip has no reasoning."""
    rng = np.random.default_rng(0)
    grades = rng.choice([-3, -1, 1, 3], size=(CLIPS, 3))
    records = []
    for number, (gesture, voice, words) in enumerate(grades.tolist()):
        emotion = emotion_of(gesture, voice, words)
        reasoning = explain(gesture, voice, words, emotion, rng) if number else None
        said = {"transcript": say(words, rng), "reasoning": reasoning}
        records.append(make_record(number, emotion=emotion, **said))
    folder = pack_records(tmp_path_factory.mktemp("corpus"), records)
    return ShardSource(folder, "train"), records


@pytest.fixture(scope="module")
def fitting(corpus, asker, config):
    """The batches of such a corpus in the shortest rows that are not refused."""
    source, records = corpus
    tokenizer = train_tokenizer(prompt.corpus_texts(records, asker), 512)

    def make(**changes):
        plain = {"modality_dropout": 0.0, "augment": False, "max_length": 2000}
        how = dataclasses.replace(config, **plain | changes)
        rows = Batches(source, how, tokenizer, SPANS, seed=3, batch_size=5)._rows
        assert isinstance(rows, Packed)
        each = how.clips_per_row
        needed = needed_length(rows._lengths, rows._shares, each)
        how = dataclasses.replace(how, max_length=needed)
        return Batches(source, how, tokenizer, SPANS, seed=3, batch_size=5), tokenizer

    return make


@pytest.mark.parametrize("kind", [{"clips_per_row": 2}, {"clips_per_row": 4}, MIXTURE])
def test_nine_tenths_of_the_places_of_a_batch_hold_a_token(fitting, kind):
    batches, _ = fitting(**kind)
    steps = CLIPS // kind["clips_per_row"] // 5
    epoch = list(itertools.islice(batches.iterate(), steps))
    held = np.mean([batch.segment_ids > 0 for batch in epoch])
    assert held > 0.9
    [told] = re.findall(r": (up to )?([\d.]+)% of", batches.describe())
    assert told == ("", f"{100 * held:.1f}")


def test_of_a_mixture_each_clip_is_asked_what_was_planned(fitting):
    batches, tokenizer = fitting(**MIXTURE)
    first = {
        t: tasks.WORDINGS[t][0].split("{")[0] for t in ("recognition", "reasoning")
    }
    asked = []
    for step, batch in enumerate(itertools.islice(batches.iterate(), 18)):
        for row, numbers in zip(batch.tokens, batch.segment_ids, strict=True):
            for number in range(1, 5):
                text = tokenizer.decode(row[numbers == number])
                [task] = [t for t, words in first.items() if words in text]
                asked.append((step // 6, int(batch.index[len(asked) % 20]), task))
    counts = [
        sum(task == "recognition" for epoch, _, task in asked if epoch == e)
        for e in range(3)
    ]
    assert set(counts) <= {60, 61}  # of which one has no other answer
    by_epoch = [{i: task for epoch, i, task in asked if epoch == e} for e in range(3)]
    assert all(len(found) == CLIPS for found in by_epoch)
    assert all(found[0] == "recognition" for found in by_epoch)
    assert by_epoch[0] != by_epoch[1] != by_epoch[2]
    assert batches.task_shares()["recognition"] == pytest.approx(60.5 / 120)


def test_rows_that_are_too_short_for_a_mixture_are_refused(fitting, corpus):
    batches, tokenizer = fitting(**MIXTURE)
    config = batches._reader.config
    short = dataclasses.replace(config, max_length=config.max_length - 1)
    words = rf"clips_per_row=4 clips need up to {config.max_length} tokens together"
    with pytest.raises(ConfigError, match=words):
        Batches(corpus[0], short, tokenizer, SPANS, seed=3, batch_size=5)
