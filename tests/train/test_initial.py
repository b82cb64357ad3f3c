"""What a run starts with: another run, a folder, parts of their own, or the seed."""

import dataclasses
from typing import Any

from flax import nnx
import jax
import numpy as np
import pytest

from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import ConfigError
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.llama import Llama
from deemo_jax.models.whisper import WhisperEncoder
from deemo_jax.pretrained import PretrainedError
from deemo_jax.sharding import make_mesh, parameter_shardings
from deemo_jax.train import initial, step
from deemo_jax.train.initial import bases, check_initial, initial_params
from deemo_jax.train.log import adopt_config
from deemo_jax.train.loop import train
from deemo_jax.train.step import abstract_state, draw_params, make_model
from tests.small import drawn, small_config


@pytest.fixture
def configure(corpus, bigrams):
    """A short run of a very small model; `train__steps=3` and so on change it."""
    fixed = {"data__path": str(corpus), "train__steps": 10}
    return lambda **changes: small_config(**fixed | changes)


TUNE = {
    "train__stage": "tune",
    "lora__rank": 2,
    "lora__dropout": 0.5,
    "lora__targets": ("language_model/lm_head", "video_connector/projection"),
}
LORA = {
    f"{target}/lora_{letter}" for target in TUNE["lora__targets"] for letter in "ab"
}


def flat(params):
    return {
        "/".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(params)
    }


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-6)


def merged(params, config):
    """In numpy."""
    params = dict(params)
    for path in LORA & params.keys():
        if path.endswith("a"):
            a, b = params.pop(path), params.pop(path.removesuffix("a") + "b")
            added = config.lora.alpha / config.lora.rank * (a @ b)
            kernel = path.replace("lora_a", "kernel")
            params[kernel] = params[kernel] + added
    return params


def kept_run(config, workdir):
    """A workdir with a checkpoint of drawn parameters, and these."""
    params = nnx.state(drawn(lambda: make_model(config, nnx.Rngs(0))))
    adopt_config(config, workdir)
    with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(7, {"params": params})
    return flat(params)


def begun(config):
    """The parameters that a run begins with, and that they lie as they have to."""
    mesh = make_mesh(config.mesh)
    params = initial_params(config, mesh)
    wanted = abstract_state(config, mesh).params
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True
    ):
        assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
    return flat(params)


@pytest.mark.parametrize("stage", ["align", "full"])
def test_tuning_begins_with_another_ones_parameters_and_new_lora(
    configure, tmp_path, stage
):
    theirs = kept_run(configure(train__stage=stage), tmp_path)
    found = begun(configure(init_from=str(tmp_path), **TUNE))
    assert found.keys() == theirs.keys() | LORA
    for path, value in theirs.items():
        np.testing.assert_array_equal(found[path], value)
    for path in LORA:
        assert np.any(found[path]) == path.endswith("lora_a")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_from_tune_to_full_lora_is_merged(configure, tmp_path, sizes):
    config = configure(**TUNE)
    theirs = kept_run(config, tmp_path)
    axes = ("mesh__data", "mesh__fsdp", "mesh__tensor")
    mesh = dict(zip(axes, sizes, strict=True))
    found = begun(configure(init_from=str(tmp_path), **mesh))
    assert_close(found, merged(theirs, config))


def test_from_tune_to_tune_the_same_lora_goes_on_and_another_is_merged(
    configure, tmp_path
):
    config = configure(**TUNE)
    theirs = kept_run(config, tmp_path)
    beginning = {"init_from": str(tmp_path)} | TUNE
    same = begun(configure(**beginning | {"lora__dropout": 0.1}))
    assert_close(same, theirs)
    other = begun(configure(**beginning | {"lora__rank": 3}))
    fresh = {path: other.pop(path) for path in LORA}
    assert_close(other, merged(theirs, config))
    assert fresh["language_model/lm_head/lora_a"].shape == (8, 3)
    assert not np.any(fresh["language_model/lm_head/lora_b"])


def test_a_folder_of_weights_gets_new_lora(configure, tmp_path, monkeypatch):
    model: Any = drawn(lambda: make_model(configure(), nnx.Rngs(0)))

    def read(folder, mesh):
        shardings = parameter_shardings(nnx.state(model), mesh)
        nnx.update(model, jax.device_put(nnx.state(model), shardings))
        return model

    monkeypatch.setattr(initial.DeemoLlama, "from_pretrained", read)
    (tmp_path / "config.json").touch()
    found = begun(configure(init_from=str(tmp_path), **TUNE))
    assert found.keys() == flat(nnx.state(model)).keys() | LORA
    path = "language_model/lm_head/kernel"
    np.testing.assert_array_equal(found[path], flat(nnx.state(model))[path])


def test_a_beginning_of_another_model_is_refused(configure, tmp_path):
    kept_run(configure(), tmp_path)
    config = configure(init_from=str(tmp_path), model__vision_feature_layer=-2)
    with pytest.raises(ConfigError, match=r"init_from is .* another model than config"):
        begun(config)


def test_a_beginning_without_its_configuration_is_refused(configure, tmp_path):
    kept_run(configure(), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"init_from is .* no config.json"):
        begun(configure(init_from=str(tmp_path)))


# Parts from folders of their own, with the whole model.

MESH = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
USED = 300  # tokens of the decoder's own tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of every kind that parts can come from, and what is in it."""
    top, model = tmp_path_factory.mktemp("parts"), small_config().model
    vision: Any = model.vision_tower
    audio: Any = model.audio_tower
    decoder = dataclasses.replace(model.language_model, vocab_size=USED)
    kept = {
        "vision_tower": drawn(lambda: ClipVision(vision, rngs=nnx.Rngs(0))),
        "audio_tower": drawn(lambda: WhisperEncoder(audio, rngs=nnx.Rngs(0))),
        "language_model": drawn(lambda: Llama(decoder, rngs=nnx.Rngs(0))),
        "whole": drawn(lambda: DeemoLlama(model, rngs=nnx.Rngs(0)), seed=1),
    }
    texts = ["how does she feel"]
    for name, part in kept.items():
        part.save_pretrained(top / name)
    tokenizer: Any = train_tokenizer(texts, USED)
    assert len(tokenizer) <= USED
    tokenizer.save_pretrained(str(top / "language_model"))
    return top, {name: flat(nnx.state(part)) for name, part in kept.items()}


def parts(top, **named):
    """The settings that name these folders: part -> folder."""
    return {f"pretrained__{name}": str(top / folder) for name, folder in named.items()}


def under(params, part):
    begin = f"{part}/"
    return {
        path.removeprefix(begin): value
        for path, value in params.items()
        if path.startswith(begin)
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(MESH, marks=pytest.mark.slow),
        {"train__stage": "tune", "lora__rank": 2},
    ],
)
def test_named_parts_are_read_and_the_others_drawn(folders, changes):
    top, kept = folders
    own = {name: name for name in ("vision_tower", "audio_tower", "language_model")}
    config = small_config(**parts(top, **own), **changes)
    mesh = make_mesh(config.mesh)
    params = initial_params(config, mesh)
    wanted = abstract_state(config, mesh).params
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    jax.tree.map(lambda x, y: x.sharding == y.sharding or 1 / 0, params, wanted)
    jax.tree.map(lambda x, y: x.shape == y.shape or 1 / 0, params, wanted)
    connectors = ("video_connector", "audio_connector")
    seeded = flat(draw_params(config, mesh, lambda path, _: path[0] in connectors))
    found = flat(params)
    for name in ("vision_tower", "audio_tower"):
        for path, value in kept[name].items():
            np.testing.assert_array_equal(found[f"{name}/{path}"], value)
    for name in connectors:
        for path, value in under(seeded, name).items():
            np.testing.assert_array_equal(found[f"{name}/{path}"], value)
    theirs = kept["language_model"]
    for path, value in under(found, "language_model").items():
        if path == "embed_tokens/embedding":
            assert value.shape[0] == config.model.language_model.vocab_size
            np.testing.assert_array_equal(value[:USED], theirs[path])
        elif "lora" not in path:
            np.testing.assert_array_equal(value, theirs[path])


def test_a_part_may_come_from_a_whole(folders):
    top, kept = folders
    config = small_config(**parts(top, audio_tower="whole", language_model="whole"))
    (top / "whole" / "tokenizer_config.json").unlink(missing_ok=True)
    tokenizer = train_tokenizer(["how does she feel"], 280)
    tokenizer.save_pretrained(str(top / "whole"))
    found = flat(initial_params(config, make_mesh(config.mesh)))
    for name in ("audio_tower", "language_model"):
        theirs = under(kept["whole"], name)
        assert theirs
        for path, value in theirs.items():
            np.testing.assert_array_equal(found[f"{name}/{path}"], value)
    name = "vision_tower/pre_layrnorm/scale"
    assert np.any(found[name] != kept["whole"][name])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vision_tower": "none"}, ConfigError, r"vision_tower is .*none'.* no config"),
        (
            {"vision_tower": "vision_tower", "hidden_size": 48},
            ConfigError,
            r"vision_tower is .* hidden_size is 32 there and 48 here; make them equal",
        ),
        ({"vision_tower": "audio_tower"}, PretrainedError, "model_type 'whisper'"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(folders, changes, error, message):
    named = dict(changes)
    sizes = {}
    if width := named.pop("hidden_size", None):
        sizes = {
            "model__vision_tower__hidden_size": width,
            "model__video_connector__encoder_hidden_size": width,
        }
    config = small_config(**parts(folders[0], **named), **sizes)
    with pytest.raises(error, match=message):
        check_initial(config)


def test_too_few_embeddings_for_the_medias_tokens_are_refused(folders):
    sizes = {"model__language_model__vocab_size": USED - 1}
    config = small_config(**parts(folders[0], language_model="language_model"), **sizes)
    with pytest.raises(ConfigError, match="vocab_size is 299, .* take 300 rows; raise"):
        initial_params(config, make_mesh(config.mesh))


def test_refused_parts_leave_the_workdir_empty(tmp_path, corpus):
    config = small_config(data__path=str(corpus), pretrained__audio_tower="nowhere")
    with pytest.raises(ConfigError, match="pretrained.audio_tower is 'nowhere'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bases_are_found_by_way_of_earlier_runs(tmp_path):
    first = small_config(pretrained__vision_tower="v", pretrained__audio_tower="v")
    adopt_config(first, tmp_path / "first")
    (tmp_path / "first" / "checkpoints").mkdir()
    assert bases(first) == ("v",)
    # What a preset names beside `init_from` is not read.
    named = {"pretrained__language_model": "unread"}
    second = small_config(init_from=str(tmp_path / "first"), **named)
    assert bases(second) == ("v",)
    assert bases(small_config(init_from="hub/whole", **named)) == ("hub/whole",)
    assert bases(small_config()) == ()


@pytest.mark.parametrize("read", [(), ("vision_tower", "audio_tower")])
def test_equal_parts_are_compiled_once(folders, read):
    """A run that is compared with its beginning draws it twice."""
    config = small_config(**parts(folders[0], **{name: name for name in read}))
    mesh = make_mesh(config.mesh)
    before = step._drawing.cache_info().misses
    for _ in range(2):
        initial_params(config, mesh, (*read, "audio_connector"))
    assert step._drawing.cache_info().misses == before + 1
