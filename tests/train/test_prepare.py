"""Records and a tokenizer, made once and checked against the model."""

import json

import pytest

from deemo_jax.config import ConfigError, to_dict
from deemo_jax.data.source import ShardSource
from deemo_jax.train.prepare import prepare_data, prepare_tokenizer
from tests.small import small_config


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_corpus_is_made_once_and_is_a_function_of_the_seed(tmp_path, corpus):
    workdir = corpus.parent
    before = contents(workdir)
    assert prepare_data(small_config(), workdir) == corpus
    assert contents(workdir) == before
    source = ShardSource(corpus, "train")
    assert len(source) == 12
    assert len(ShardSource(corpus, "test")) == 2
    again = ShardSource(prepare_data(small_config(), tmp_path), "train")
    assert again.manifest == source.manifest
    manifests = set()
    for seed in (0, 1):
        config = small_config(
            seed=seed, data__synthetic__train_clips=3, data__synthetic__train_subjects=1
        )
        packed = prepare_data(config, tmp_path / f"seed{seed}")
        manifests.add(ShardSource(packed, "train").manifest)
    assert len(manifests) == 2


def test_an_interrupted_packing_is_taken_up(tmp_path):
    changes = {"data__synthetic__train_clips": 3, "data__synthetic__train_subjects": 1}
    config = small_config(**changes)
    packed = prepare_data(config, tmp_path)
    manifest = ShardSource(packed, "train").manifest
    (packed / "dataset_info.json").unlink()
    assert ShardSource(prepare_data(config, tmp_path), "train").manifest == manifest


def test_a_path_is_taken_as_it_is(tmp_path, corpus):
    config = small_config(data__path=str(corpus))
    assert prepare_data(config, tmp_path) == corpus
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_starts_from_another_speaks_its_tokens(tmp_path, corpus):
    source = ShardSource(corpus, "train")
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "checkpoints").mkdir(parents=True)
    smaller = small_config(model__language_model__vocab_size=300)
    (first / "config.json").write_text(json.dumps(to_dict(smaller)))
    theirs = prepare_tokenizer(smaller, first, source)
    second.mkdir()
    ours = prepare_tokenizer(small_config(init_from=str(first)), second, source)
    assert ours.get_vocab() == theirs.get_vocab()
    third = tmp_path / "third"  # a Hugging Face folder
    third.mkdir()
    hub = small_config(init_from=str(first / "tokenizer"))
    assert prepare_tokenizer(hub, third, source).get_vocab() == theirs.get_vocab()
    without = small_config(init_from=str(corpus))
    with pytest.raises(
        ConfigError, match=r"with a tokenizer; .* set config.data.token"
    ):
        prepare_tokenizer(without, tmp_path / "fourth", source)


def test_the_tokenizer_is_trained_once(tmp_path, corpus):
    source = ShardSource(corpus, "train")
    (tmp_path / ".tokenizer.partial").mkdir()  # of a killed run
    made = prepare_tokenizer(small_config(), tmp_path, source)
    before = contents(tmp_path)
    again = prepare_tokenizer(small_config(), tmp_path, source)
    assert contents(tmp_path) == before
    assert made.get_vocab() == again.get_vocab()
    assert len(made) <= small_config().model.language_model.vocab_size
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__language_model__vocab_size": 300}, r"vocab_size is 300; set it to"),
        ({"model__video_token_id": 7}, r"video_token_id is 7, but <video> has id 3"),
        ({"model__audio_token_id": 3}, r"audio_token_id is 3, but <audio> has id 4"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    tmp_path, corpus, changes, message
):
    source = ShardSource(corpus, "train")
    prepare_tokenizer(small_config(), tmp_path, source)
    folder = str(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match=message):
        prepare_tokenizer(
            small_config(data__tokenizer=folder, **changes), tmp_path, source
        )
