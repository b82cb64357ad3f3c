"""The runner against the plain computation, whatever the batches and the mesh."""

import dataclasses
import functools
import io
import json
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import soundfile

from configs import tiny
from deemo_jax import sharding
from deemo_jax.annotation import Interval, load_taxonomy
from deemo_jax.config import ConfigError, MeshConfig, from_config_dict
from deemo_jax.config_data import MODALITIES, NFBL_TASKS
from deemo_jax.data import tasks, tfds
from deemo_jax.data.consent import write_withdrawn
from deemo_jax.data.loader import evaluation_batches
from deemo_jax.data.prompt import corpus_texts
from deemo_jax.data.record import Record
from deemo_jax.data.shards import shard_name, write_shard
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.data.turns import Asker
from deemo_jax.evaluate import runner
from deemo_jax.evaluate.answers import parse_label
from deemo_jax.evaluate.figures import figures
from deemo_jax.evaluate.judge import lexical
from deemo_jax.evaluate.metrics import UNPARSED, confusion
from deemo_jax.evaluate.results import read_results, subset_name, to_json
from deemo_jax.evaluate.runner import SUBSETS, evaluate
from deemo_jax.fields import flatten
from deemo_jax.generate import generate
from deemo_jax.loss import log_likelihood
from deemo_jax.models.deemo_llama import DeemoLlama

LABELS = ("negative", "positive")
SPANS = (4, 2)


def frame(rng):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 20, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def sound(rng):
    file = io.BytesIO()
    samples = rng.uniform(-0.5, 0.5, 4000)
    soundfile.write(file, samples, 16_000, "PCM_16", format="FLAC")
    return file.getvalue()


def make_record(i, **missing):
    rng = np.random.default_rng(i)
    emotion = LABELS[i % 3 == 0]
    fields = {
        "clip_id": f"clip{i:03}",
        "subject": f"subject{i % 3}",
        "duration": 1.0,
        "frames": tuple(frame(rng) for _ in range(3)),
        "frame_times": (0.0, 0.3, 0.6),
        "audio": sound(rng),
        "transcript": f"Number {i}, {('bad', 'good')[i % 2]}.",
        "emotion": emotion,
        "reasoning": f"The arms are {('low', 'high')[i % 2]}: {emotion}.",
        "nfbl": None,
        "verdict": "generated",
        "deidentification": "generated/1",
    }
    return Record(**fields | missing)


ROWS = [
    make_record(0),
    make_record(1, frames=(), frame_times=()),
    make_record(2, audio=None),
    make_record(3, transcript=None),
    make_record(4, reasoning=None),
    make_record(5, emotion=None),
    *(make_record(i) for i in range(6, 11)),
]


def pack(folder, rows, taxonomy=None):
    count = len(write_shard(folder / shard_name("made_up", "test", 0, 1), rows))
    label_sets = load_taxonomy().to_json() | (taxonomy or {})
    (folder / "taxonomy.json").write_text(json.dumps(label_sets))
    write_withdrawn(folder, frozenset())
    tfds.write_metadata(folder, "made_up", {"test": [count]}, {"test": 1}, "a test")
    return ShardSource(folder, "test")


@pytest.fixture(scope="module")
def config():
    values: Any = tiny.get_config()
    values.data.update(num_frames=2, image_size=16, audio_seconds=0.25, max_length=96)
    model = values.model
    model.vision_tower.update(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, image_size=16,
    )  # fmt: skip
    model.audio_tower.update(
        d_model=16, encoder_layers=1, encoder_attention_heads=2,
        encoder_ffn_dim=24, num_mel_bins=20,
    )  # fmt: skip
    for name, queries in zip(("video", "audio"), SPANS, strict=True):
        model[f"{name}_connector"].update(
            hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, encoder_hidden_size=16, num_query_tokens=queries,
        )  # fmt: skip
    model.language_model.update(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        head_dim=8,
    )  # fmt: skip
    values.evaluate.update(batch_size=4, max_new_tokens=6)
    return from_config_dict(values)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed"), ROWS)


@pytest.fixture(scope="module")
def tokenizer(config):
    asker = Asker(config=config.data, emotions=LABELS, classes={})
    return train_tokenizer(corpus_texts(ROWS, asker), 400)


@pytest.fixture(scope="module")
def fill(config):
    """Makes a model of what a function draws for each shape; quicker than its init."""

    def make(draw):
        abstract = nnx.eval_shape(lambda: DeemoLlama(config.model, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(abstract)
        return nnx.merge(
            graphdef, jax.tree.map(lambda x: jnp.asarray(draw(x.shape)), params)
        )

    return make


@pytest.fixture(scope="module")
def model(fill):
    """Untrained, of weights so large that what it is told makes a difference."""
    rng = np.random.default_rng(0)
    return fill(lambda shape: rng.normal(0, 0.4, shape).astype(np.float32))


@pytest.fixture(scope="module")
def results(model, source, tokenizer, config):
    return evaluate(model, source, tokenizer, config, LABELS, step=7, ablations=True)


def test_every_clip_is_evaluated_once_as_far_as_it_is_annotated(results):
    assert [p.index for p in results.predictions] == list(range(len(ROWS)))
    for prediction, record in zip(results.predictions, ROWS, strict=True):
        assert prediction.clip_id == record.clip_id
        assert (prediction.by_likelihood is None) == (record.emotion is None)
        assert (prediction.answer is None) == (record.emotion is None)
        assert (prediction.reasoning is None) == (record.reasoning is None)
    assert all(f.clips == 10 for f in results.recognition.values())
    assert results.reasoning is not None
    assert results.reasoning.clips == 10


def test_what_numbers_it_gives_is_known_before(results, source, config):
    assert set(figures(source, config)) == names(results)


def names(results):
    """Of the numbers in `metrics.json`."""
    values = flatten(to_json(results))
    return {name for name, value in values.items() if isinstance(value, int | float)}


@functools.partial(jax.jit, static_argnums=0)
def whole_pass(graphdef, params, batch):
    logits = nnx.merge(graphdef, params)(batch)
    return log_likelihood(logits, batch.tokens, batch.loss_mask)


@pytest.fixture(scope="module")
def plain(model, source, tokenizer, config):
    """[clip, label] a subset, each from a whole pass over a batch with all it needs."""
    found = {}
    for subset in SUBSETS:
        columns = []
        for label in LABELS:
            (batch,) = evaluation_batches(
                source, config.data, tokenizer, SPANS, task="recognition",
                batch_size=10, modalities=subset, answer=label,
            )  # fmt: skip
            columns.append(whole_pass(*nnx.split(model), batch))
        found[subset] = np.stack(columns, axis=1)
    return found


@pytest.mark.parametrize("subset", [*SUBSETS], ids=subset_name)
def test_labels_are_chosen_by_the_likelihood_of_the_whole_answer(
    plain, results, subset
):
    plain = plain[subset]
    truth = np.array([LABELS.index(row.emotion) for row in ROWS if row.emotion])
    np.testing.assert_array_equal(
        results.ablations[subset_name(subset)],
        confusion(truth, plain.argmax(axis=1), len(LABELS)),
    )
    if subset == MODALITIES:
        odds = plain[:, 1] - plain[:, 0]
        assert np.ptp(odds) > 0.1  # else the clips would not matter to the model
        recognised = [p.probabilities for p in results.predictions if p.probabilities]
        found = [np.log(p["positive"] / p["negative"]) for p in recognised]
        np.testing.assert_allclose(found, odds, atol=1e-3)
        assert all(sum(p.values()) == pytest.approx(1) for p in recognised)


def test_subsets_differ_so_that_mixing_them_up_would_show(plain):
    found = list(plain.values())
    for i, a in enumerate(found):
        for b in found[:i]:
            assert np.abs(a - b).max() > 1e-2


@pytest.mark.parametrize("task", ["recognition", "reasoning"])
def test_texts_are_what_the_model_writes(
    model, source, tokenizer, config, results, task
):
    (batch,) = evaluation_batches(
        source, config.data, tokenizer, SPANS, task=task, batch_size=10
    )
    ids = generate(
        model,
        jax.tree.map(jnp.asarray, batch),
        max_new_tokens=6,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    for index, row in zip(batch.index.tolist(), ids.tolist(), strict=True):
        text = tokenizer.decode(row, skip_special_tokens=True).strip()
        prediction, record = results.predictions[index], ROWS[index]
        if task == "recognition":
            assert prediction.answer == text
            assert prediction.by_parsing == parse_label(text, LABELS)
        else:
            assert prediction.reasoning == text
            assert prediction.lexical == lexical(
                text, record.reasoning, LABELS, record.emotion
            )


class Writer:
    """Stands in for `generate`: writes given texts, then an end, then more."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts

    def __call__(self, model, batch, *, max_new_tokens, eos_token_id, pad_token_id):
        after = self.tokenizer.encode("positive", add_special_tokens=False)
        rows = []
        for index in np.asarray(batch.index).tolist():
            text = self.texts[index % len(self.texts)] if index >= 0 else "positive"
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            rows.append(([*ids, eos_token_id, *after] + [pad_token_id] * 40)[:40])
        return jnp.array(rows)


def test_written_answers_are_parsed_up_to_their_end(
    monkeypatch, model, source, tokenizer, config
):
    texts = ("Negative.", "it is positive", "who knows", "")
    monkeypatch.setattr(runner, "generate", Writer(tokenizer, texts))
    found = evaluate(model, source, tokenizer, config, LABELS, step=0, ablations=False)
    parsed = {0: 0, 1: 1, 2: UNPARSED, 3: UNPARSED}
    asked = [(i, row) for i, row in enumerate(ROWS) if row.emotion]
    assert [found.predictions[i].answer for i, _ in asked] == [
        texts[i % 4] for i, _ in asked
    ]
    np.testing.assert_array_equal(
        found.confusions["parsing"],
        confusion(
            np.array([LABELS.index(row.emotion) for _, row in asked]),
            np.array([parsed[i % 4] for i, _ in asked]),
            len(LABELS),
        ),
    )
    assert found.recognition["parsing"].unparsed > 0


def same(a, b):
    for x, y in zip(a.predictions, b.predictions, strict=True):
        bare = {"probabilities": None}
        assert dataclasses.replace(x, **bare) == dataclasses.replace(y, **bare)
        if x.probabilities is not None:
            assert x.probabilities == pytest.approx(y.probabilities, abs=1e-4)
    for name, counts in (a.confusions | a.ablations).items():
        np.testing.assert_array_equal(counts, (b.confusions | b.ablations)[name])


def compiled():
    jitted: list[Any] = [runner._encode, runner._score]
    return [function._cache_size() for function in jitted]


def test_the_size_of_the_batches_does_not_matter_and_compiles_once(
    model, source, tokenizer, config, results
):
    sized = dataclasses.replace(config.evaluate, batch_size=7)
    other = dataclasses.replace(config, evaluate=sized)
    before = compiled()
    found = evaluate(model, source, tokenizer, other, LABELS, step=7, ablations=True)
    same(results, found)
    assert compiled() == [count + 1 for count in before]


def test_a_mesh_does_not_matter_and_the_model_stays_where_it_was(
    model, source, tokenizer, config, results
):
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    found = evaluate(
        model, source, tokenizer, config, LABELS, step=7, ablations=False, mesh=mesh
    )
    same(found, results)
    assert {len(x.devices()) for x in jax.tree.leaves(nnx.state(model))} == {1}


def test_nothing_is_compiled_a_second_time(model, source, tokenizer, config, results):
    before = compiled()
    evaluate(
        model, source, tokenizer, config, LABELS, step=8, ablations=True, written=False
    )
    assert compiled() == before


def test_likelihoods_alone_write_nothing(model, source, tokenizer, config, results):
    found = evaluate(
        model, source, tokenizer, config, LABELS, step=7, ablations=False, written=False
    )
    assert set(found.confusions) == {"likelihood"}
    assert found.reasoning is None
    assert found.ablations == {}
    assert all(p.answer is None and p.reasoning is None for p in found.predictions)
    np.testing.assert_array_equal(
        found.confusions["likelihood"], results.confusions["likelihood"]
    )


def test_one_task_alone(model, source, tokenizer, config):
    data = dataclasses.replace(config.data, tasks=("reasoning",))
    config = dataclasses.replace(config, data=data)
    found = evaluate(model, source, tokenizer, config, LABELS, step=7, ablations=True)
    assert found.recognition == {}
    assert found.ablations == {}
    assert found.reasoning is not None


def test_a_workdir_gets_its_files_and_progress_is_told(
    model, source, tokenizer, config, results, tmp_path
):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.0}\n'
    )
    told = []
    found = evaluate(
        model, source, tokenizer, config, LABELS, step=7, ablations=True,
        workdir=tmp_path, bounds={"video": 0.7}, baseline=results,
        progress=lambda *event: told.append(event),
    )  # fmt: skip
    folder = tmp_path / "eval" / "7"
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json", "predictions.jsonl", "report.html",
    ]  # fmt: skip
    same(read_results(folder), found)
    report = (folder / "report.html").read_text()
    for part in ("Training loss", "untrained", "70.0 %"):
        assert part in report
    for task in ("recognition", "reasoning"):
        told_of = [done for name, done, total in told if task in name and total == 3]
        assert told_of == [0, 1, 2, 3]


def test_parameters_that_are_not_finite_are_told_of(fill, source, tokenizer, config):
    broken = fill(lambda shape: np.full(shape, np.nan, np.float32))
    with pytest.raises(ValueError, match="clip000 are not finite"):
        evaluate(broken, source, tokenizer, config, LABELS, step=0, ablations=False)


def test_an_emotion_outside_the_labels_is_refused(model, source, tokenizer, config):
    with pytest.raises(ValueError, match=r"clip000.*'positive'.*negative, calm"):
        evaluate(
            model, source, tokenizer, config, ("negative", "calm"),
            step=0, ablations=False,
        )  # fmt: skip


def test_a_split_without_answers_is_refused(tmp_path, model, tokenizer, config):
    bare = [make_record(i, emotion=None, reasoning=None) for i in range(3)]
    with pytest.raises(ValueError, match="no answer for recognition or reasoning"):
        evaluate(
            model, pack(tmp_path, bare), tokenizer, config, LABELS,
            step=0, ablations=False,
        )  # fmt: skip


def test_a_batch_that_the_mesh_cannot_share_is_refused(
    model, source, tokenizer, config
):
    mesh = sharding.make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    with pytest.raises(ConfigError, match="evaluate.batch_size a multiple of 8"):
        evaluate(
            model, source, tokenizer, config, LABELS,
            step=0, ablations=False, mesh=mesh,
        )  # fmt: skip


class Seer:
    """Stands in for `generate`: writes what a question about body language deserves."""

    def __init__(self, tokenizer, wrong=()):
        self.tokenizer, self.wrong, self.asked = tokenizer, wrong, []

    def __call__(self, model, batch, *, max_new_tokens, eos_token_id, pad_token_id):
        rows = []
        for index, tokens in zip(batch.index.tolist(), batch.tokens, strict=True):
            asked = self.tokenizer.decode(tokens)
            record, text = SEEN[max(index, 0)], "?"
            if index >= 0 and index not in self.wrong:
                self.asked.append((index, asked))
                task = "nfbl_when" if "shown:" in asked else "nfbl_which"
                label = asked.partition("shown: ")[2].partition("?")[0]
                text = tasks.answer(record, task, label) or ""
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            rows.append(([*ids, eos_token_id] + [pad_token_id] * 60)[:60])
        return jnp.array(rows)


SEEN = [
    make_record(
        i,
        nfbl=None
        if labels is None
        else tuple(
            Interval(label=label, start=0.1 + 0.4 * k, end=0.4 + 0.4 * k)
            for k, label in enumerate(labels)
        ),
    )
    for i, labels in enumerate(
        [
            ("folding arms",), ("turtle neck", "folding arms"), None,
            ("raising head",), (),
        ]
    )
]  # fmt: skip


def test_body_language_is_asked_for_and_scored(
    monkeypatch, tmp_path, model, config, tokenizer
):
    source = pack(tmp_path, SEEN)
    data = dataclasses.replace(config.data, tasks=NFBL_TASKS, max_length=200)
    config = dataclasses.replace(config, data=data)
    seer = Seer(tokenizer)
    monkeypatch.setattr(runner, "generate", seer)
    ask = functools.partial(
        evaluate, model, source, tokenizer, config, LABELS, step=0, ablations=False
    )
    found = ask(workdir=tmp_path)
    alone = dataclasses.replace(config.evaluate, ablations=False)
    expected = figures(source, dataclasses.replace(config, evaluate=alone))
    assert set(expected) == names(found)
    which, when = found.nfbl_which, found.nfbl_when
    assert which is not None
    assert when is not None
    assert which.exact == which.classes.macro == 1
    assert which.groups.micro == 1
    assert which.clips == 4
    assert (which.without, which.none) == (1, 1)
    assert when.iou == pytest.approx(1)
    assert when.recall == when.never == 1
    assert (when.shown, when.absent) == (4, 3)
    assert [len(p.nfbl_when) for p in found.predictions] == [2, 3, 2, 0]
    assert not any("Body language" in asked for _, asked in seer.asked)
    kept = json.loads((tmp_path / "eval" / "0" / "metrics.json").read_text())
    assert kept["nfbl"]["when"]["never"] == 1
    monkeypatch.setattr(runner, "generate", Seer(tokenizer, wrong=(3, 4)))
    worse = ask()
    which, when = worse.nfbl_which, worse.nfbl_when
    assert which is not None
    assert when is not None
    assert which.unparsed == 2
    assert which.none == 0
    assert when.unparsed == 2
    assert which.classes.macro == pytest.approx(2 / 3)
    assert when.iou == pytest.approx(3 / 4)
    assert not ask(written=False).predictions
