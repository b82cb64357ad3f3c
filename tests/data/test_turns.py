"""What is asked follows from the generator alone, by weight; no row is too long."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from deemo_jax.annotation import Interval
from deemo_jax.config_data import NFBL_TASKS, PHRASINGS, TASKS
from deemo_jax.data import prompt, tasks
from deemo_jax.data.loader import Batches, evaluation_batches, evaluation_questions
from deemo_jax.data.packed import Packed
from deemo_jax.data.packing import needed_length
from deemo_jax.data.reader import Reader
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.data.turns import Asker, Turn, draw_absent, task_shares
from tests.data.test_prompt import CHATML, LLAMA_2

SPANS = prompt.Spans(video=4, audio=2)
EMOTIONS = ("negative", "positive")
SHOWN = (
    (("folding arms", 0.2, 0.9), ("raising head", 1.0, 1.4)),
    (("bulging face, deep breath", 0.04, 1.96),),
    (("raising head", 0.1, 0.3), ("raising head", 0.6, 0.9), ("turtle neck", 1.0, 2.0)),
    (),
)


@pytest.fixture(scope="module")
def many(make_record):
    """Clips with body language of several classes, one in four without any."""
    return [
        make_record(
            i,
            nfbl=tuple(
                Interval(label=label, start=start, end=end)
                for label, start, end in SHOWN[i % 4]
            ),
            reasoning=None if i % 5 == 0 else f"The arms are {'low ' * i}.",
        )
        for i in range(20)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory, many, pack_records):
    folder = tmp_path_factory.mktemp("many")
    return ShardSource(pack_records(folder, many), "train")


@pytest.fixture(scope="module")
def everything(config):
    """Every task in every wording, one after another."""
    return dataclasses.replace(
        config, tasks=TASKS, phrasings=PHRASINGS, max_length=400, num_frames=1
    )


@pytest.fixture(scope="module")
def mixed(everything):
    return dataclasses.replace(
        everything, task_weights=(0.4, 0.3, 0.2, 0.1), nfbl_cues=True
    )


@pytest.fixture(scope="module")
def asker(everything, source):
    return Asker(config=everything, emotions=EMOTIONS, classes=source.classes)


@pytest.fixture(scope="module")
def tokenizer(many, asker):
    return train_tokenizer(prompt.corpus_texts(many[:2], asker), 320)


@pytest.fixture(params=[None, LLAMA_2, CHATML], ids=["ours", "llama-2", "chatml"])
def any_tokenizer(request, many, asker):
    found = train_tokenizer(prompt.corpus_texts(many[:2], asker), 320)
    found.chat_template = request.param or found.chat_template
    return found


def test_the_index_says_which_classes_are_shown(source, many):
    assert [entry.nfbl for entry in source.entries] == [tasks.classes(r) for r in many]
    assert source.classes == {
        "bulging face, deep breath": 5, "folding arms": 5, "raising head": 10,
        "turtle neck": 5,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["everything", "mixed"])
def test_no_conversation_that_can_be_drawn_is_longer_than_the_longest(
    kind, request, source, many, any_tokenizer
):
    """All of them, in any order: as long as the longest, and none is longer."""
    config = request.getfixturevalue(kind)
    # All wordings of four tasks in any order would be too many: two tasks are enough.
    config = dataclasses.replace(config, phrasings=2, tasks=TASKS[1:])
    if config.task_weights:
        config = dataclasses.replace(config, task_weights=(1.0, 1.0, 1.0))
    reader = Reader(source=source, config=config, tokenizer=any_tokenizer, spans=SPANS)
    for index in (0, 1, 2, 3, 4):
        every = [
            reader.asker.every(many[index], task)
            for task in config.tasks
            if task in tasks.answered(many[index])
        ]
        if config.task_weights:
            drawn = [[turn] for turns in every for turn in turns]
        else:
            drawn = [
                turns
                for chosen in itertools.product(*every)
                for turns in itertools.permutations(chosen)
            ]
        lengths = [
            len(reader._encode(many[index], turns, prompt.MODALITIES)[0])
            for turns in drawn
        ]
        assert max(lengths) == max(reader.lengths(index))


@pytest.mark.parametrize("kind", ["everything", "mixed"])
@pytest.mark.parametrize("clips_per_row", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_no_row_is_too_long_in_any_epoch(
    kind, clips_per_row, request, source, any_tokenizer
):
    """`max_length` is the least that is not refused, and the rows come near it."""
    config = dataclasses.replace(
        request.getfixturevalue(kind), clips_per_row=clips_per_row, max_length=2000
    )
    config = dataclasses.replace(config, num_frames=1, audio_seconds=0.01)
    fits = Batches(source, config, any_tokenizer, SPANS, seed=1, batch_size=7)
    needed = max(max(fits._reader.lengths(i)) for i in range(20))
    if isinstance(rows := fits._rows, Packed):
        needed = needed_length(rows._lengths, rows._shares, clips_per_row)
    tight = dataclasses.replace(config, max_length=needed)
    batches = Batches(source, tight, any_tokenizer, SPANS, seed=1, batch_size=7)
    longest = 0
    for batch in itertools.islice(batches.iterate(), 15):
        longest = max(longest, int((batch.segment_ids > 0).sum(axis=1).max()))
    assert needed - 30 * clips_per_row < longest <= needed
    short = dataclasses.replace(config, max_length=needed - 1)
    with pytest.raises(ValueError, match="config.data.max_length is"):
        Batches(source, short, any_tokenizer, SPANS, seed=1, batch_size=7)


def test_no_text_is_longer_in_tokens_than_the_index_allows(
    source, everything, mixed, any_tokenizer
):
    for config in (everything, mixed):
        reader = Reader(
            source=source, config=config, tokenizer=any_tokenizer, spans=SPANS
        )
        for i, entry in enumerate(source.entries):
            assert max(reader.lengths(i)) <= entry.text + reader.overhead()


def test_what_is_drawn_follows_from_the_generator_alone(asker, many):
    for seed, record in enumerate(many):
        one, two = (asker.draw(record, np.random.default_rng(seed)) for _ in range(2))
        assert one == two
        assert {turn.task for turn in one} == set(tasks.answered(record))
        for turn in one:
            assert turn in asker.every(record, turn.task)
    draws = [asker.draw(many[2], np.random.default_rng(seed)) for seed in range(200)]
    asked = {turn.question for turns in draws for turn in turns}
    assert asked == {
        turn.question for task in TASKS for turn in asker.every(many[2], task)
    }


def test_shares_approach_the_weights_and_go_to_what_is_answered(mixed, source, many):
    weights = dict(zip(TASKS, mixed.task_weights, strict=True))
    assert task_shares(TASKS, mixed) == pytest.approx(weights)
    found = task_shares(("recognition", "nfbl_when"), mixed)
    assert found == pytest.approx({"recognition": 0.8, "nfbl_when": 0.2})
    asker = Asker(config=mixed, emotions=EMOTIONS, classes=source.classes)
    rng = np.random.default_rng(0)
    for record in (many[1], many[3]):  # with body language, and without
        counts = collections.Counter(
            turn.task for _ in range(3000) for turn in asker.draw(record, rng)
        )
        for task, share in task_shares(tasks.answered(record), mixed).items():
            assert counts[task] / 3000 == pytest.approx(share, abs=0.03)
        assert sum(counts.values()) == 3000


def test_realised_shares_are_described(mixed, source, tokenizer):
    config = dataclasses.replace(mixed, num_frames=1, audio_seconds=0.01)
    batches = Batches(source, config, tokenizer, SPANS, seed=1, batch_size=4)
    shares = batches.task_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["recognition"] > 0.4  # what others cannot be asked
    words = batches.describe()
    assert words.startswith(
        f"questions: recognition {100 * shares['recognition']:.1f}%"
    )
    counts = collections.Counter()
    for batch in itertools.islice(batches.iterate(), 60):
        for row, mask in zip(batch.tokens, batch.loss_mask, strict=True):
            answer = tokenizer.decode(row[mask]).replace("</s>", "").strip()
            counts[answer in EMOTIONS] += 1
    assert counts[True] / 240 == pytest.approx(shares["recognition"], abs=0.1)


def test_never_is_drawn_as_often_as_is_stated(config, source, many):
    config = dataclasses.replace(config, tasks=("nfbl_when",), nfbl_never=0.25)
    asker = Asker(config=config, emotions=EMOTIONS, classes=source.classes)
    rng = np.random.default_rng(0)
    turns = [asker.draw(many[1], rng)[0] for _ in range(4000)]
    never = [turn for turn in turns if turn.answer == "never"]
    assert len(never) / 4000 == pytest.approx(0.25, abs=0.02)
    # Of the others, as often as each occurs in the data: 5, 10 and 5 clips.
    raised = sum("raising head" in turn.question for turn in never)
    assert raised / len(never) == pytest.approx(0.5, abs=0.05)
    assert not any("deep breath" in turn.question for turn in never)


def test_what_all_clips_show_is_never_absent():
    rng = np.random.default_rng(0)
    assert draw_absent(("a", "b"), {"a": 3, "b": 1}, rng) is None
    assert draw_absent(("a",), {"a": 3, "b": 1}, rng) == "b"


@pytest.mark.parametrize("clips_per_row", [1, 3])
def test_draws_are_the_same_on_any_number_of_hosts(
    clips_per_row, source, mixed, tokenizer
):
    config = dataclasses.replace(
        mixed, clips_per_row=clips_per_row, max_length=600, num_frames=1,
        audio_seconds=0.01,
    )  # fmt: skip

    def read(rows, start, count):
        batches = Batches(
            source, config, tokenizer, SPANS, seed=5, batch_size=4, rows=rows
        )
        found = itertools.islice(batches.iterate(start), count)
        return [(batch.tokens, batch.loss_mask) for batch in found]

    whole = read(range(4), 0, 8)
    halves = [read(range(2), 0, 8), read(range(2, 4), 0, 8)]
    for both, one, two in zip(whole, *halves, strict=True):
        for name in (0, 1):
            joined = np.concatenate([one[name], two[name]])
            np.testing.assert_array_equal(joined, both[name])
    for both, resumed in zip(whole[5:], read(range(4), 5, 3), strict=True):
        np.testing.assert_array_equal(both[0], resumed[0])


def test_the_mask_covers_the_answers_only(source, everything, many, tokenizer):
    reader = Reader(source=source, config=everything, tokenizer=tokenizer, spans=SPANS)
    for index in (0, 1, 2, 3):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            turns = reader.asker.draw(many[index], rng)
            row = reader.training_row(index, np.random.default_rng(seed))
            learned = tokenizer.decode(row["tokens"][row["loss_mask"]])
            answers = [str(turn.answer).strip() for turn in turns]
            found = [text.strip() for text in learned.split("</s>")[:-1]]
            assert found == answers


def test_cues_are_told_where_they_give_no_answer_away(mixed, many, asker, tokenizer):
    told = f"Body language: {tasks.cues(many[0])}"
    told_asker = dataclasses.replace(asker, config=mixed)
    for task in TASKS:
        turn = asker.evaluated(many[0], task, None, label="folding arms")
        for cues in (False, True):
            [message] = prompt.conversation(
                many[0], [turn], tokenizer, SPANS, cues=cues
            )
            assert (told in message["content"]) == (cues and task not in NFBL_TASKS)
            if task in NFBL_TASKS:
                assert "0.2 to 0.9" not in message["content"]
                assert "raising head" not in message["content"]
    for shown, seen in (((), True), (None, False)):
        record = dataclasses.replace(many[0], nfbl=shown)
        turn = asker.evaluated(record, "recognition", None)
        [message] = prompt.conversation(record, [turn], tokenizer, SPANS, cues=True)
        assert ("Body language: none\n" in message["content"]) == seen
        texts = prompt.corpus_texts([record], told_asker)
        assert ("Body language: none\n" in texts) == seen
    emotion = asker.evaluated(many[0], "recognition", None)
    which = asker.evaluated(many[0], "nfbl_which", None)
    own = Turn("What is seen?", "What is seen?", None)
    for turns, modalities in (
        ([emotion, which], prompt.MODALITIES),
        ([own], prompt.MODALITIES),
        ([emotion], ("audio", "text")),  # cues are of what is seen
    ):
        messages = prompt.conversation(
            many[0], turns, tokenizer, SPANS, modalities, cues=True
        )
        assert not any("Body" in message["content"] for message in messages)


def test_evaluation_asks_for_each_class_and_one_that_is_absent(
    source, everything, tokenizer
):
    asked = evaluation_questions(source, "nfbl_when")
    assert asked == evaluation_questions(source, "nfbl_when")
    for i, entry in enumerate(source.entries):
        labels = [label for index, label in asked if index == i]
        assert labels[: len(entry.nfbl)] == list(entry.nfbl)
        assert len(labels) == (len(entry.nfbl) + 1 if entry.nfbl else 0)
        assert not {*labels[len(entry.nfbl) :]} & {*entry.nfbl}
    config = dataclasses.replace(everything, num_frames=1, audio_seconds=0.01)
    batches = evaluation_batches(
        source, config, tokenizer, SPANS, task="nfbl_when", batch_size=7
    )
    batches = list(batches)
    indices = np.concatenate([batch.index for batch in batches])
    assert indices[indices >= 0].tolist() == [index for index, _ in asked]
    rows = np.concatenate([batch.tokens for batch in batches])[: len(asked)]
    for tokens, (_, label) in zip(rows, asked, strict=True):
        said = tokenizer.decode(tokens)
        assert f"In these 2.0 seconds, when is this shown: {label}?" in said
