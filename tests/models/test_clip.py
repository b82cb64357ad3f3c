import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import ClipVisionConfig
from deemo_jax.models.clip import ClipVision
from tests.small import drawn

CONFIG = ClipVisionConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=15,
    patch_size=5,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
LARGE_14 = ClipVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
PIXELS = jax.random.normal(jax.random.key(1), (2, 15, 15, 3))


@pytest.fixture(scope="module")
def tower() -> ClipVision:
    return drawn(lambda: ClipVision(CONFIG, rngs=nnx.Rngs(0)))


@nnx.jit(static_argnames=("layer", "interpolate", "patches"))
def run(tower, pixels, layer=None, interpolate=False, patches=False):
    """The tower compiled, once for all tests that ask for the same."""
    call = tower.patches if patches else tower
    return call(pixels, layer, interpolate=interpolate)


def receives(gradients) -> dict[str, bool]:
    return {
        "/".join(map(str, path)): bool(jnp.abs(gradient[...]).max() > 0)
        for path, gradient in nnx.to_flat_state(gradients)
    }


def test_a_class_token_and_a_feature_for_each_patch(tower):
    assert run(tower, PIXELS).shape == (2, 10, 12)


def test_patches_are_seen_where_they_are(tower):
    # Before any attention, a patch changes its own place and no other.
    changed = PIXELS.at[:, 5:10, 10:15].add(1.0)
    moved = run(tower, changed, layer=0) != run(tower, PIXELS, layer=0)
    row, column = 1, 2
    assert np.flatnonzero(moved.any(axis=(0, 2))).tolist() == [1 + 3 * row + column]


@pytest.mark.parametrize(("positive", "negative"), [(0, -4), (1, -3), (2, -2), (3, -1)])
def test_layers_count_from_both_ends(tower, positive, negative):
    found = run(tower, PIXELS, layer=positive)
    np.testing.assert_array_equal(found, run(tower, PIXELS, layer=negative))
    if positive < 3:
        after = run(tower, PIXELS, layer=positive + 1)
        assert np.abs(found - after).max() > 0.1


@pytest.mark.parametrize("layer", [-5, 4])
def test_a_layer_that_is_not_there_is_refused(tower, layer):
    with pytest.raises(ValueError, match=rf"is {layer}, .* hidden states 0 to 3"):
        tower(PIXELS, layer)


def test_an_image_of_another_size_is_refused(tower):
    with pytest.raises(ValueError, match=r"15x15 pixels, these have 15x20; set data"):
        tower(jnp.ones((1, 15, 20, 3)))


def test_an_image_of_another_size_is_taken_when_positions_are_interpolated(tower):
    wide = jax.random.normal(jax.random.key(3), (2, 10, 23, 3))
    states = run(tower, wide, interpolate=True)
    assert states.shape == (2, 1 + 2 * 4, 12)
    # The last three columns fill no patch.
    cut = run(tower, wide[:, :, :20], interpolate=True)
    np.testing.assert_allclose(states, cut, atol=1e-5)
    patches = run(tower, wide, interpolate=True, patches=True)
    np.testing.assert_array_equal(patches, states[:, 1:])


def test_an_image_of_its_own_size_has_its_own_positions(tower):
    found = run(tower, PIXELS, interpolate=True)
    np.testing.assert_array_equal(found, run(tower, PIXELS))


@pytest.mark.parametrize("layer", [None, -2])
def test_patches_are_the_states_without_the_class_token(tower, layer):
    found = run(tower, PIXELS, layer=layer, patches=True)
    np.testing.assert_array_equal(found, run(tower, PIXELS, layer=layer)[:, 1:])


def test_interpolated_positions_learn(tower):
    pixels = jax.random.normal(jax.random.key(3), (1, 20, 25, 3))
    weights = jax.random.normal(jax.random.key(2), (1, 21, 12))
    gradients = nnx.jit(
        nnx.grad(lambda t: (t(pixels, 0, interpolate=True) * weights).sum())
    )(tower)
    moved = np.abs(gradients.embeddings.position_embedding.embedding[...]).max(axis=1)
    assert (moved > 0).all()


def test_patches_that_do_not_fill_the_image_are_refused():
    with pytest.raises(ValueError, match="15 is no multiple of patch_size 4"):
        ClipVision(dataclasses.replace(CONFIG, patch_size=4), rngs=nnx.Rngs(0))


def test_every_parameter_but_the_pooling_norm_receives_a_gradient(tower):
    weights = jax.random.normal(jax.random.key(2), (2, 10, 12))
    gradients = nnx.jit(nnx.grad(lambda tower: (tower(PIXELS) * weights).sum()))(tower)
    for path, moved in receives(gradients).items():
        assert moved == (not path.startswith("post_layernorm")), path


def test_layers_after_the_one_asked_for_are_not_run(tower):
    weights = jax.random.normal(jax.random.key(2), (2, 10, 12))
    gradients = nnx.jit(nnx.grad(lambda tower: (tower(PIXELS, -2) * weights).sum()))(
        tower
    )
    kernel = gradients.layers.mlp.fc1.kernel[...]
    assert (np.abs(kernel).max(axis=(1, 2)) > 0).tolist() == [True, True, False]


def test_rematerialisation_changes_memory_not_values():
    def gradients(remat):
        tower = drawn(lambda: ClipVision(CONFIG, rngs=nnx.Rngs(0), remat=remat))
        return nnx.jit(nnx.grad(lambda tower: (tower(PIXELS) ** 3).sum()))(tower)

    expected = gradients("none")
    for remat in ("dots", "full"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            gradients(remat),
            expected,
        )


def test_half_precision_computes_in_it_and_stays_near():
    def make(dtype):
        return drawn(lambda: ClipVision(CONFIG, rngs=nnx.Rngs(0), dtype=dtype))

    full, half = run(make(jnp.float32), PIXELS), run(make(jnp.bfloat16), PIXELS)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.15)


def test_the_program_does_not_grow_with_depth():
    def equations(depth):
        config = dataclasses.replace(CONFIG, num_hidden_layers=depth)
        made = nnx.eval_shape(lambda: ClipVision(config, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(made)
        call = jax.make_jaxpr(lambda p: nnx.merge(graphdef, p)(PIXELS))(params)
        return len(str(call).splitlines())

    assert equations(9) == equations(3)


def test_vit_l_14_has_the_right_shapes_without_memory():
    tower = nnx.eval_shape(lambda: ClipVision(LARGE_14, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(tower)
    # openai/clip-vit-large-patch14, its vision half with the pooling norm
    assert sum(p.size for p in jax.tree.leaves(params)) == 303_179_776
    features = jax.eval_shape(
        lambda params, pixels: nnx.merge(graphdef, params)(pixels, -2),
        params,
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32),
    )
    assert features.shape == (2, 257, 1024)
