"""Features in place of media: the same records, the same losses, and nothing to see."""

import itertools
import json
import os
import shutil

import jax
import numpy as np
import pytest

from deemo_jax import features
from deemo_jax.ask import ask
from deemo_jax.config import ConfigError
from deemo_jax.data import integrity
from deemo_jax.data.consent import mark_of, write_withdrawn
from deemo_jax.data.record import pseudonym
from deemo_jax.data.shards import index_alone
from deemo_jax.data.source import ShardSource
from deemo_jax.data.withdraw import purge
from deemo_jax.data.withdraw import withdraw as withdraw_consent
from deemo_jax.features import encode_folder
from deemo_jax.sharding import make_mesh, place
from deemo_jax.train.loop import train
from deemo_jax.train.prepare import prepare_tokenizer
from deemo_jax.train.start import make_batches
from deemo_jax.train.step import abstract_batch
from deemo_jax.workdir import evaluate_run, export_run, open_run
from tests.data.conftest import contents
from tests.small import make_corpus, small_config

TEXTS = ("clip_id", "subject", "duration", "transcript", "emotion", "reasoning",
         "nfbl", "verdict", "deidentification")  # fmt: skip


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def media(top):
    return make_corpus(top)


def configure(folder, **changes):
    """A run on eight devices with frozen towers, three clips in a row."""
    fixed = {
        "data__path": str(folder),
        "data__augment": False,
        "data__modality_dropout": 0.3,
        "data__clips_per_row": 3,
        "data__max_length": 264,
        "data__tasks": ("recognition",),
        "train__stage": "align",
        "train__steps": 3,
        "evaluate__batch_size": 8,
        "evaluate__max_new_tokens": 2,
        "evaluate__ablations": False,
    }
    return small_config(**fixed | changes)


@pytest.fixture(scope="module")
def encode(media, top):
    """Encodes the corpus into a folder of that name, in two shards a split."""

    def run(name, *, dtype="float32", input=media, **changes):
        config = configure(media, **changes)
        encode_folder(config, input, top / name, dtype=dtype, shards=2)
        return top / name

    return run


@pytest.fixture(scope="module")
def packed(encode):
    return encode("float32")


@pytest.fixture(scope="module")
def run_folder(packed, top):
    train(configure(packed, data__features="float32"), top / "run")
    return top / "run"


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_records_are_the_same_without_their_media(media, packed):
    for split in ("train", "test"):
        before, after = ShardSource(media, split), ShardSource(packed, split)
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            for name in TEXTS:
                assert getattr(old, name) == getattr(new, name)
            assert new.encoded == "float32"
            assert [len(frame) for frame in new.frames] == [4 * 32 * 4] * 2
            assert len(new.audio or b"") == 50 * 32 * 4
            assert set(new.frame_times) < set(old.frame_times)
    for path in packed.iterdir():
        data = path.read_bytes()
        assert b"fLaC" not in data
        assert b"JFIF" not in data
    assert "personal data" in (packed / "README.md").read_text()
    assert integrity.check(packed) == []


@pytest.mark.slow  # it compiles the whole model three times
def test_losses_are_those_of_the_media(media, run_folder, top, encode):
    train(configure(media), top / "with media")
    with_media, found = losses(top / "with media"), losses(run_folder)
    assert len(found) == 3
    assert found[0] != found[-1]
    np.testing.assert_allclose(found, with_media, rtol=1e-5)
    short = encode("bfloat16", dtype="bfloat16")
    train(configure(short, data__features="bfloat16"), top / "short")
    assert losses(top / "short") != found
    # On `configs/tiny.py:align`, 90 steps deviated by 1.5e-6 at most.
    np.testing.assert_allclose(losses(top / "short"), with_media, rtol=1e-4)


@pytest.mark.slow  # it compiles the whole model
def test_a_run_on_features_is_evaluated_asked_and_exported(run_folder, media, top):
    run = open_run(run_folder)
    assert run.config.data.features == "float32"
    found = evaluate_run(run).recognition["likelihood"]
    with_media = configure(media)
    other = open_run(run_folder, with_media)
    assert other.config.data.features == ""
    assert evaluate_run(other).recognition["likelihood"] == found
    answers, rejected = ask(run, media.parent / "corpus", "recognition")
    assert len(answers) == 14
    assert rejected == []
    measured = export_run(run, top / "exported")
    assert measured is not None
    assert measured["passed"]


def test_features_of_other_towers_are_refused(packed, top):
    other = configure(packed, data__features="float32", seed=1)
    with pytest.raises(ConfigError, match=r"another vision_tower than this run has"):
        train(other, top / "refused")
    assert not any((top / "refused").glob("checkpoints/*"))


def test_rows_are_those_of_the_media_and_batches_lie_over_the_rows(
    media, packed, tmp_path
):
    """Three clips in a row, modalities dropped alike; what is new on eight devices."""
    read = []
    for folder, dtype in ((media, ""), (packed, "float32")):
        config = configure(folder, data__features=dtype)
        source = ShardSource(folder, "train")
        tokenizer = prepare_tokenizer(config, tmp_path, source)
        mesh = make_mesh(config.mesh)
        batches = make_batches(config, mesh, source, tokenizer)
        read.append(next(batches.iterate()))
    varied = configure(packed, data__features="float32", data__augment=True)
    with pytest.raises(ConfigError, match=r"augment is True, .* holds features"):
        make_batches(varied, mesh, source, tokenizer)
    raw, encoded = read
    for name in ("tokens", "positions", "segment_ids", "loss_mask", "frame_mask"):
        np.testing.assert_array_equal(getattr(raw, name), getattr(encoded, name))
    np.testing.assert_array_equal(raw.index, encoded.index)
    assert not raw.frame_mask.all()  # some were dropped
    assert ((raw.audio_length > 0) == (encoded.audio_length > 0)).all()
    assert (raw.audio_length == 0).any()
    planned = abstract_batch(config, mesh)
    placed = place(encoded, mesh)
    assert jax.tree.map(np.shape, placed) == jax.tree.map(np.shape, planned)
    for name in ("video_features", "audio_features"):
        lying, values = getattr(placed, name), getattr(encoded, name)
        np.testing.assert_array_equal(lying, values)
        assert len(lying.addressable_shards) == 8
        assert {shard.data.shape[0] for shard in lying.addressable_shards} == {3}
        assert lying.sharding == getattr(planned, name).sharding


class Killed(BaseException):
    """As a process is: nothing handles it."""


def test_it_goes_on_after_a_kill_to_the_same_bytes(encode, packed, top, monkeypatch):
    number, write = itertools.count(), features.write_shard

    def killed(path, rows, **options):
        if next(number) == 1:
            next(iter(rows))
            raise Killed
        return write(path, rows, **options)

    monkeypatch.setattr(features, "write_shard", killed)
    with pytest.raises(Killed):
        encode("killed")
    [first] = (top / "killed").glob("*.tfrecord-?????-of-?????")
    before = os.stat(first).st_mtime_ns
    assert not (top / "killed" / "dataset_info.json").exists()
    encode("killed")
    assert os.stat(first).st_mtime_ns == before
    assert next(number) == 5  # four shards, one of them begun twice
    whole = {n: d for n, d in contents(packed).items() if not n.startswith("lengths")}
    assert contents(top / "killed") == whole


def test_who_withdraws_meanwhile_is_left_out(encode, media, top, monkeypatch):
    source = shutil.copytree(media, top / "source")
    salt = bytes.fromhex((media.parent / "corpus" / "salt.txt").read_text().strip())
    rows = (media.parent / "corpus" / "annotations.jsonl").read_text().splitlines()
    subject = next(r["subject"] for r in map(json.loads, rows) if r["split"] == "train")
    finish = features._remove_others

    def withdrawing(*arguments):
        withdraw_consent(source, subject, salt=salt)
        finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_remove_others", withdrawing)
        with pytest.raises(ValueError, match="meanwhile: give the same command again"):
            encode("meanwhile", input=source)
    assert not (top / "meanwhile" / "dataset_info.json").exists()
    encode("meanwhile", input=source)
    name = pseudonym(salt, "subject", subject)
    read = {e.subject for e in ShardSource(top / "meanwhile", "train").entries}
    assert name not in read
    # What was kept of before names them, too: the file alone may be lost.
    for index in (top / "meanwhile").glob("*.index"):
        assert name in index_alone(index).withdrawn


def test_who_withdrew_is_left_out_and_stays_out(encode, packed, media, top):
    shutil.copytree(packed, top / "withdrawn")
    salt = bytes.fromhex((media.parent / "corpus" / "salt.txt").read_text().strip())
    lines = (media.parent / "corpus" / "deidentified.jsonl").read_text().splitlines()
    rows = [json.loads(line)["annotation"] for line in lines]
    subject = next(row["subject"] for row in rows if row["split"] == "train")
    gone = withdraw_consent(top / "withdrawn", subject, salt=salt)
    assert gone > 0
    assert len(ShardSource(top / "withdrawn", "train")) == 12 - gone
    described = (top / "withdrawn" / "features.json").read_text()
    assert purge(top / "withdrawn") == gone
    assert (top / "withdrawn" / "features.json").read_text() == described
    assert integrity.check(top / "withdrawn") == []
    encode("withdrawn")
    assert len(ShardSource(top / "withdrawn", "train")) == 12 - gone
    other = shutil.copytree(media, top / "salted")
    write_withdrawn(other, frozenset(), mark_of(salt[::-1]))
    with pytest.raises(ValueError, match="another salt, whose pseudonyms are others"):
        encode("withdrawn", input=other)
    pseudonyms = {pseudonym(salt, "subject", row["subject"]) for row in rows}
    write_withdrawn(top / "withdrawn", pseudonyms, mark_of(salt))
    named = contents(top / "withdrawn")
    with pytest.raises(ValueError, match="all subjects of .* withdrew"):
        encode("withdrawn")
    assert contents(top / "withdrawn") == named


def test_folders_that_are_not_meant_are_left_alone(
    encode, packed, media, top, monkeypatch
):
    def lost(*args):
        raise OSError("no such weights")

    before = contents(media)
    with pytest.raises(ValueError, match=r"with its media: choose another --output"):
        encode(media.name)
    assert contents(media) == before
    with pytest.raises(ValueError, match=r"holds features, not media"):
        encode("again", input=packed)
    with pytest.raises(ConfigError, match=r"this run trains audio_tower"):
        encode("full", train__stage="full")
    assert not (top / "full").exists()
    before = contents(packed)
    with pytest.raises(ConfigError, match=r"--shards is 0: give 1 or more"):
        encode_folder(configure(media), media, packed, dtype="float32", shards=0)
    with monkeypatch.context() as patch:
        patch.setattr(features, "initial_params", lost)
        with pytest.raises(OSError, match=r"no such weights"):
            encode(packed.name)
    assert contents(packed) == before


def test_a_feature_beyond_its_dtype_is_refused(encode, media, monkeypatch, top):
    real = features._encoder

    def louder(*args):
        run = real(*args)

        def scaled(batch):
            found = run(batch)
            return found._replace(video=np.full_like(found.video, np.inf))

        return scaled

    monkeypatch.setattr(features, "_encoder", louder)
    with pytest.raises(ValueError, match=r"not finite in float16: take --dtype=bfl"):
        encode("loud", dtype="float16")
    assert not (top / "loud" / "dataset_info.json").exists()
