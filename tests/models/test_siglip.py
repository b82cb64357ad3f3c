import dataclasses

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import SiglipVisionConfig
from deemo_jax.models.siglip import SiglipVision, config_from_dict, config_to_dict
from deemo_jax.pretrained import PretrainedError
from tests.small import drawn

CONFIG = SiglipVisionConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=15,
    patch_size=5,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    vision_use_head=True,
)
PIXELS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 15, 15, 3)), jnp.float32)


@pytest.fixture(scope="module")
def tower() -> SiglipVision:
    return drawn(lambda: SiglipVision(CONFIG, rngs=nnx.Rngs(0)))


def test_a_state_for_each_patch_and_no_class_token(tower):
    assert tower(PIXELS).shape == (2, 9, 12)
    np.testing.assert_array_equal(tower.patches(PIXELS, -2), tower(PIXELS, 2))


def test_what_enters_the_first_layer_is_of_one_patch_each(tower):
    """A pixel moves the state of its own patch before the first layer, of all after."""
    moved = PIXELS.at[0, 7, 12].add(1.0)  # patch 1 * 3 + 2
    for layer, patches in ((0, [5]), (1, list(range(9)))):
        change = np.abs(tower(moved, layer) - tower(PIXELS, layer)).max(axis=-1)
        assert np.flatnonzero(change[0]).tolist() == patches
        assert not change[1].any()


def test_the_default_is_after_the_last_norm(tower):
    last = tower(PIXELS, -1)
    np.testing.assert_allclose(tower(PIXELS), tower.post_layernorm(last), atol=1e-6)
    assert np.abs(tower(PIXELS) - last).max() > 0.1


def test_an_image_of_another_size_is_taken_when_positions_are_interpolated(tower):
    wide = jnp.asarray(np.random.default_rng(1).normal(size=(1, 10, 23, 3)), "float32")
    states = tower(wide, interpolate=True)
    assert states.shape == (1, 2 * 4, 12)
    # The last three columns fill no patch.
    np.testing.assert_array_equal(states, tower(wide[:, :, :20], interpolate=True))
    np.testing.assert_array_equal(tower.patches(wide, interpolate=True), states)
    np.testing.assert_array_equal(tower(PIXELS, interpolate=True), tower(PIXELS))


def test_the_head_receives_no_gradient(tower):
    gradient = nnx.grad(lambda model: (model(PIXELS) ** 2).sum())(tower)
    reached = {
        path[0]
        for path, leaf in nnx.to_flat_state(gradient)
        if np.abs(leaf[...]).max() > 0
    }
    assert reached == {"embeddings", "layers", "post_layernorm"}


@pytest.mark.parametrize(
    ("pixels", "layer", "message"),
    [
        (PIXELS[:, :10], None, "takes images of 15x15 pixels, these have 10x15"),
        (PIXELS[:, :, :10], -1, "these have 15x10; set data.image_size to 15"),
        (PIXELS, 4, "a tower of 3 layers has hidden states 0 to 3"),
    ],
)
def test_what_cannot_be_is_refused(tower, pixels, layer, message):
    with pytest.raises(ValueError, match=message):
        tower(pixels, layer)


def test_the_configuration_comes_back_and_others_are_refused():
    for config in (CONFIG, dataclasses.replace(CONFIG, vision_use_head=False)):
        assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(PretrainedError, match="'clip_vision_model'.*siglip"):
        config_from_dict({"model_type": "clip_vision_model"})
