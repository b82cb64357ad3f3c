import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from configs import tiny
from deemo_jax.config import ConfigError, from_config_dict
from deemo_jax.data import loader, prompt
from deemo_jax.data.loader import Batches, check_evaluation, evaluation_batches
from deemo_jax.data.reader import FEATURES, Reader, drop_modalities
from deemo_jax.data.source import ShardSource

SPANS = prompt.Spans(video=4, audio=2)
FIELDS = [f.name for f in dataclasses.fields(loader.Batch) if f.name not in FEATURES]


def take(batches, count, start=0):
    return list(itertools.islice(batches.iterate(start), count))


def same(one, other):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def joined(parts):
    """What several processes read, side by side."""
    return loader.Batch(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in FIELDS}
    )


@pytest.fixture
def straight(source, config, tokenizer):
    batches = Batches(source, config, tokenizer, SPANS, seed=7, batch_size=4)
    return take(batches, 9)


def test_shapes_and_types(straight):
    kinds = {name: (getattr(straight[0], name)) for name in FIELDS}
    assert {k: (v.shape, v.dtype.name) for k, v in kinds.items()} == {
        "tokens": ((4, 96), "int32"),
        "positions": ((4, 96), "int32"),
        "segment_ids": ((4, 96), "int32"),
        "loss_mask": ((4, 96), "bool"),
        "frames": ((4, 3, 16, 16, 3), "uint8"),
        "frame_mask": ((4, 3), "bool"),
        "audio": ((4, 12000), "float32"),
        "audio_length": ((4,), "int32"),
        "index": ((4,), "int32"),
    }


def test_each_epoch_holds_each_record_once_in_another_order(straight):
    order = np.concatenate([batch.index for batch in straight]).tolist()
    first, second = order[:13], order[13:26]
    assert sorted(first) == sorted(second) == list(range(13))
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_resumed_anywhere_equals_straight_through(
    start, straight, source, config, tokenizer
):
    again = Batches(source, config, tokenizer, SPANS, seed=7, batch_size=4)
    for one, other in zip(straight[start:], take(again, 9 - start, start), strict=True):
        same(one, other)


@pytest.mark.parametrize("prefetch", [0, 5])
def test_threads_change_nothing(prefetch, straight, source, config, tokenizer):
    config = dataclasses.replace(config, prefetch=prefetch)
    batches = Batches(source, config, tokenizer, SPANS, seed=7, batch_size=4)
    for one, other in zip(straight, take(batches, 9), strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "89c96dd6e7c66d9045bd24e5cd53610e637340b262a81beb8af550d1808b02e7",
        ),
        (
            {"clips_per_row": 3, "max_length": 288},
            "c4cf2d4eebf5a98fe71cbd4d9bdd4674d055bfdd9e84197655833f35ba9a0fd9",
        ),
    ],
)
def test_rows_of_tiny_are_what_they_were_before_there_were_more_tasks(
    changes, expected, source, tokenizer
):
    """Of commit 3f62d5b. They change with the tokenizer: the package, or its texts."""
    data = from_config_dict(tiny.get_config()).data
    data = dataclasses.replace(data, **{"modality_dropout": 0.2} | changes)
    batches = Batches(source, data, tokenizer, (8, 4), seed=7, batch_size=4)
    digest = hashlib.sha256()
    for batch in take(batches, 9):
        for name in ("index", "tokens", "positions", "segment_ids", "loss_mask"):
            digest.update(getattr(batch, name).tobytes())
    assert digest.hexdigest() == expected


def test_the_seed_changes_the_order(straight, source, config, tokenizer):
    other = Batches(source, config, tokenizer, SPANS, seed=8, batch_size=4)
    orders = [
        np.concatenate([batch.index for batch in batches]).tolist()
        for batches in (straight, take(other, 9))
    ]
    assert orders[0] != orders[1]


def test_each_epoch_varies_a_record_anew(source, config, tokenizer):
    config = dataclasses.replace(config, modality_dropout=0.0)
    batches = Batches(source, config, tokenizer, SPANS, seed=0, batch_size=13)
    one, two = (b for b in take(batches, 2))
    for name in ("frames", "audio"):
        rows = [getattr(batch, name)[np.argsort(batch.index)] for batch in (one, two)]
        changed = (rows[0] != rows[1]).reshape(13, -1).any(axis=1)
        assert changed.sum() >= 11, name  # two of 13 lack a modality or repeat a draw


def test_a_row_is_its_conversation(straight, rows, tokenizer):
    for batch in straight:
        for row, index in enumerate(batch.index):
            record, there = rows[index], batch.segment_ids[row] == 1
            length = there.sum()
            assert there[:length].all()
            assert batch.positions[row].tolist() == [
                *range(length), *[0] * (96 - length),
            ]  # fmt: skip
            assert (batch.tokens[row][~there] == 0).all()
            learned = tokenizer.decode(batch.tokens[row][batch.loss_mask[row]])
            answers = [a for a in (record.emotion, record.reasoning) if a]
            assert sorted(learned.strip().split("</s>")[:-1]) == sorted(answers)
            media = [(batch.tokens[row] == token).sum() for token in (3, 4)]
            assert media == [
                4 * batch.frame_mask[row].any(), 2 * (batch.audio_length[row] > 0)
            ]  # fmt: skip


def test_tasks_come_in_both_orders(straight):
    firsts = [
        batch.tokens[row][batch.loss_mask[row]].tolist()[1] == 2  # a label, then </s>
        for batch in straight
        for row in range(4)
        if batch.loss_mask[row].sum() > 4
    ]
    assert 0 < sum(firsts) < len(firsts)


def test_dropout_leaves_one_modality_at_least():
    rng = np.random.default_rng(0)
    kept = [drop_modalities(("video", "audio", "text"), 0.5, rng) for _ in range(4000)]
    assert min(map(len, kept)) == 1
    share = np.mean(["audio" in names for names in kept])
    assert abs(share - (0.5 + 0.5**3 / 3)) < 0.03
    assert drop_modalities(("text",), 0.9, rng) == ("text",)
    assert drop_modalities((), 0.9, rng) == ()
    assert drop_modalities(("a", "b"), 0.0, rng) == ("a", "b")


def test_without_augmentation_frames_are_the_stored_ones(source, config, tokenizer):
    config = dataclasses.replace(config, augment=False, modality_dropout=0.0)
    batches = Batches(source, config, tokenizer, SPANS, seed=0, batch_size=13)
    (one, two) = take(batches, 2)
    for name in ("frames", "audio", "frame_mask", "audio_length"):
        np.testing.assert_array_equal(
            getattr(one, name)[np.argsort(one.index)],
            getattr(two, name)[np.argsort(two.index)],
        )
    order = np.argsort(one.index)
    assert not one.frame_mask[order][3].any()
    assert one.audio_length[order][4] == 0


def test_records_without_answer_are_passed_over(source, config, tokenizer):
    config = dataclasses.replace(config, tasks=("reasoning",))
    batches = Batches(source, config, tokenizer, SPANS, seed=0, batch_size=4)
    assert batches.records == 12
    assert 6 not in np.concatenate([batch.index for batch in take(batches, 3)])


@pytest.mark.parametrize("size", [4, 5, 13])
def test_evaluation_reads_every_record_once(size, source, config, tokenizer):
    batches = list(
        evaluation_batches(
            source, config, tokenizer, SPANS, task="recognition", batch_size=size
        )
    )
    order = np.concatenate([batch.index for batch in batches])
    assert order[:13].tolist() == list(range(13))
    assert (order[13:] == -1).all()
    assert all(len(batch.index) == size for batch in batches)
    filling = [np.concatenate([getattr(b, n) for b in batches])[13:] for n in FIELDS]
    for name, values in zip(FIELDS, filling, strict=True):
        assert name == "index" or not values.any()


def test_processes_share_the_rows_of_an_evaluation(source, config, tokenizer):
    def read(rows):
        return evaluation_batches(
            source, config, tokenizer, SPANS, task="recognition", batch_size=4,
            rows=rows,
        )  # fmt: skip

    for whole, one, other in zip(read(None), read((0, 2)), read((1, 3)), strict=True):
        for name in FIELDS:
            parts = getattr(one, name), getattr(other, name)
            together = np.stack(parts, axis=1).reshape(getattr(whole, name).shape)
            np.testing.assert_array_equal(together, getattr(whole, name))


def test_prompts_end_where_the_likelihood_of_an_answer_begins(
    source, config, tokenizer
):
    arguments = {"task": "recognition", "batch_size": 13}
    (asked,) = evaluation_batches(source, config, tokenizer, SPANS, **arguments)
    (given,) = evaluation_batches(
        source, config, tokenizer, SPANS, answer="positive", **arguments
    )
    assert not asked.loss_mask.any()
    for row in range(13):
        length = asked.segment_ids[row].sum()
        assert asked.segment_ids[row][-length:].all()
        assert asked.positions[row][-length:].tolist() == list(range(length))
        prompt_tokens = asked.tokens[row][-length:]
        np.testing.assert_array_equal(given.tokens[row][:length], prompt_tokens)
        answer = given.tokens[row][given.loss_mask[row]]
        assert tokenizer.decode(answer) == "positive</s>"
        assert given.loss_mask[row].argmax() == length


@pytest.mark.parametrize("modalities", [("text",), ("audio", "video"), ()])
def test_modalities_left_out_leave_no_trace(modalities, source, config, tokenizer):
    (batch,) = evaluation_batches(
        source, config, tokenizer, SPANS, task="recognition", batch_size=13,
        modalities=modalities,
    )  # fmt: skip
    if "video" not in modalities:
        assert not batch.frames.any()
        assert not batch.frame_mask.any()
        assert not (batch.tokens == 3).any()
    if "audio" not in modalities:
        assert not batch.audio.any()
        assert not batch.audio_length.any()
        assert not (batch.tokens == 4).any()
    texts = [tokenizer.decode(row) for row in batch.tokens]
    assert any("Transcript" in text for text in texts) == ("text" in modalities)


def test_rows_that_do_not_fit_are_refused_before_the_run(
    tmp_path, source, config, tokenizer
):
    fits = Batches(source, config, tokenizer, SPANS, seed=0, batch_size=4)._reader
    longest = max(max(fits.lengths(i)) for i in range(13))
    exact = dataclasses.replace(config, max_length=longest)
    Batches(source, exact, tokenizer, SPANS, seed=0, batch_size=4)
    short = dataclasses.replace(config, max_length=longest - 1)
    with pytest.raises(ValueError, match=f"config.data.max_length.*{longest} or more"):
        Batches(source, short, tokenizer, SPANS, seed=0, batch_size=4)
    tiny = dataclasses.replace(config, max_length=8)
    with pytest.raises(ValueError, match="clip clip000"):
        next(
            evaluation_batches(
                source, tiny, tokenizer, SPANS, task="recognition", batch_size=4
            )
        )


def test_rows_that_may_not_fit_are_counted_once_for_all_runs(
    tmp_path, rows, config, tokenizer, pack_records, monkeypatch
):
    folder, counted, length = pack_records(tmp_path, rows), [], Reader.lengths

    def run(most):
        source = ShardSource(folder, "train")
        fitting = dataclasses.replace(config, max_length=most)
        return Batches(source, fitting, tokenizer, SPANS, seed=0, batch_size=4)._reader

    def count(reader, i):
        counted.append(i)
        return length(reader, i)

    monkeypatch.setattr(Reader, "lengths", count)
    reader = run(10**6)
    assert counted == []  # it fits, whatever it is
    longest = max(max(length(reader, i)) for i in range(len(rows)))
    run(longest)
    surely = longest - reader.overhead()
    texts = [entry.text for entry in ShardSource(folder, "train").entries]
    assert counted == [i for i, text in enumerate(texts) if text > surely] != []
    counted.clear()
    run(longest)
    assert counted == []


def test_rows_of_an_evaluation_are_checked_before_the_run(source, config, tokenizer):
    tasks = ("recognition", "reasoning")
    rows = [
        batch.segment_ids.sum(1).max()
        for task in tasks
        for answer in (None, *source.taxonomy.emotions)[: 3 if task == tasks[0] else 1]
        for batch in evaluation_batches(
            source, config, tokenizer, SPANS, task=task, batch_size=13, answer=answer
        )
    ]
    longest = int(max(rows))
    fits = dataclasses.replace(config, max_length=longest, tasks=tasks)
    check_evaluation(source, fits, tokenizer, SPANS)
    short = dataclasses.replace(fits, max_length=longest - 1)
    with pytest.raises(ValueError, match=f"config.data.max_length.*{longest} or more"):
        check_evaluation(source, short, tokenizer, SPANS)


def test_media_count_as_well_before_the_run(source, config, tokenizer):
    """Texts of fewer bytes than `max_length`, but too many places for media."""
    config = dataclasses.replace(config, max_length=160)
    assert max(entry.text for entry in source.entries) < config.max_length
    with pytest.raises(ValueError, match="config.data.max_length is 160"):
        Batches(source, config, tokenizer, (120, 20), seed=0, batch_size=4)


def test_no_text_is_longer_in_tokens_than_the_index_allows(source, config, tokenizer):
    reader = Reader(source=source, config=config, tokenizer=tokenizer, spans=SPANS)
    for i, entry in enumerate(source.entries):
        assert max(reader.lengths(i)) <= entry.text + reader.overhead()


def test_what_cannot_be_learned_is_refused(
    tmp_path, source, config, tokenizer, make_record, pack_records
):
    silent = [make_record(i, emotion=None, reasoning=None) for i in range(2)]
    silent = ShardSource(pack_records(tmp_path, silent, shards=1), "train")
    with pytest.raises(ValueError, match="no record .* has an answer for recognition"):
        Batches(silent, config, tokenizer, SPANS, seed=0, batch_size=1)
    with pytest.raises(ValueError, match="no record .* has an answer for recognition"):
        check_evaluation(silent, config, tokenizer, SPANS)


def test_worker_processes_change_nothing(
    straight, source, config, tokenizer, tmp_path, monkeypatch
):
    def note(worker, _):
        (tmp_path / f"worker-{worker}").touch()

    # What each of them begins with; pickled with the rest, as the function it replaces.
    monkeypatch.setattr(loader, "keep_freed_memory", note)
    config = dataclasses.replace(config, workers=2)
    batches = Batches(source, config, tokenizer, SPANS, seed=7, batch_size=4)
    for one, other in zip(straight[2:], take(batches, 7, 2), strict=True):
        same(one, other)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["worker-0", "worker-1"]


def test_evaluation_prompt_is_the_first_turn_of_training(rows, tokenizer, asker):
    asked, told = (
        prompt.encode(
            prompt.conversation(rows[0], [turn], tokenizer, SPANS), tokenizer
        )[0]
        for turn in (
            asker.evaluated(rows[0], "recognition", None),
            asker.every(rows[0], "recognition")[0],
        )
    )
    np.testing.assert_array_equal(told[: len(asked)], asked)


@pytest.fixture
def packed(config):
    return dataclasses.replace(config, clips_per_row=3, max_length=240)


def clips_of(batch):
    """(record, tokens that are its own) of each clip of a batch."""
    rows, each = len(batch.tokens), len(batch.index) // len(batch.tokens)
    return [
        (
            int(batch.index[row * each + k]),
            batch.tokens[row][batch.segment_ids[row] == k + 1],
        )
        for row in range(rows)
        for k in range(each)
    ]


def test_packed_rows_hold_each_record_once_an_epoch(source, packed, tokenizer):
    batches = Batches(source, packed, tokenizer, SPANS, seed=7, batch_size=5)
    assert "13 clips in 5 rows of up to 3: " in batches.describe()
    epochs = take(batches, 3)
    orders = []
    for batch in epochs:  # an epoch has five rows
        assert batch.tokens.shape == (5, 240)
        assert batch.frames.shape == (15, 3, 16, 16, 3)
        assert sorted(batch.index) == [-1, -1, *range(13)]
        orders.append(batch.index.tolist())
        for index, tokens in clips_of(batch):
            assert (len(tokens) > 0) == (index >= 0)
    assert orders[0] != orders[1] != orders[2]


def test_a_packed_clip_is_what_it_is_in_a_row_of_its_own(source, packed, tokenizer):
    batches = Batches(source, packed, tokenizer, SPANS, seed=7, batch_size=5)
    [batch] = take(batches, 1)
    reader = Reader(source=source, config=packed, tokenizer=tokenizer, spans=SPANS)
    for place, (index, tokens) in enumerate(clips_of(batch)):
        if index < 0:
            assert not batch.frame_mask[place].any()
            assert batch.audio_length[place] == 0
            continue
        row = reader.training_row(index, np.random.default_rng([7, 0, index]))
        own = row["segment_ids"] > 0
        np.testing.assert_array_equal(tokens, row["tokens"][own])
        for name in ("frames", "frame_mask", "audio", "audio_length"):
            np.testing.assert_array_equal(getattr(batch, name)[place], row[name])
        at = batch.segment_ids[place // 3] == place % 3 + 1
        for name in ("positions", "loss_mask"):
            np.testing.assert_array_equal(
                getattr(batch, name)[place // 3][at], row[name][own]
            )


@pytest.mark.parametrize(
    "hosts", [2, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
)
@pytest.mark.parametrize(
    ("clips_per_row", "an_epoch", "weights"),
    [(1, 13, ()), (3, 5, ()), (3, 5, (1.0, 2.0))],
)
def test_hosts_that_change_in_the_middle_lose_and_repeat_no_clip(
    source, packed, tokenizer, clips_per_row, an_epoch, weights, hosts
):
    """Eight epochs of so many rows, eight a step; a kill after two fifths."""
    config = dataclasses.replace(
        packed, clips_per_row=clips_per_row, task_weights=weights
    )

    def read(hosts, start, count):
        parts = [
            take(
                Batches(
                    source, config, tokenizer, SPANS, seed=3, batch_size=8,
                    rows=range(8 * host // hosts, 8 * (host + 1) // hosts),
                ),
                count,
                start,
            )
            for host in range(hosts)
        ]  # fmt: skip
        return [joined(each) for each in zip(*parts, strict=True)]

    killed = 2 * an_epoch // 5
    straight = read(1, 0, an_epoch)
    gone_on = read(hosts, 0, killed) + read(8 // hosts, killed, an_epoch - killed)
    for one, other in zip(straight, gone_on, strict=True):
        same(one, other)
    clips = np.concatenate([batch.index for batch in gone_on]).reshape(8, -1)
    for epoch in clips:
        assert sorted(epoch[epoch >= 0]) == list(range(len(source)))


def test_rows_that_do_not_fit_are_refused_with_what_would(source, packed, tokenizer):
    with pytest.raises(
        ConfigError, match=r"clips need up to (\d+) tokens together"
    ) as e:
        Batches(
            source, dataclasses.replace(packed, max_length=120), tokenizer, SPANS,
            seed=0, batch_size=4,
        )  # fmt: skip
    needed = int(str(e.value).split("up to ")[1].split()[0])
    for length, fits in ((needed, True), (needed - 1, False)):
        config = dataclasses.replace(packed, max_length=length)
        try:
            batches = Batches(source, config, tokenizer, SPANS, seed=0, batch_size=5)
        except ConfigError:
            assert not fits
            continue
        assert fits
        take(batches, 4)


def test_clips_packed_again_with_more_words_are_counted_anew(
    tmp_path, rows, packed, tokenizer, pack_records
):
    def batches(rows):
        source = ShardSource(pack_records(tmp_path, rows), "train")
        return Batches(source, packed, tokenizer, SPANS, seed=7, batch_size=5)

    take(batches(rows), 1)
    longer = [dataclasses.replace(row, transcript="More words. " * 9) for row in rows]
    with pytest.raises(ConfigError, match=r"clips need up to \d+ tokens together"):
        batches(longer)
