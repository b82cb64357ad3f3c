import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.models.positions import bicubic, check_image, resample

SIZES = [(1, 3), (3, 3), (3, 7), (7, 3), (5, 6), (24, 16), (16, 24)]


@pytest.mark.parametrize(("given", "wanted"), SIZES)
def test_samples_are_means_and_both_ends_are_alike(given, wanted):
    weights = bicubic(given, wanted)
    assert weights.shape == (wanted, given)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)
    assert (np.count_nonzero(weights, axis=1) <= 4).all()


def test_the_same_number_of_samples_are_the_same():
    np.testing.assert_array_equal(bicubic(5, 5), np.eye(5, dtype=np.float32))


def test_half_way_it_is_the_cubic_worked_by_hand():
    # Keys's cubic with a = -3/4, at distances 1/2 and 3/2: 19/32 and -3/32.
    np.testing.assert_allclose(
        bicubic(6, 3)[1], [0, -3 / 32, 19 / 32, 19 / 32, -3 / 32, 0], atol=1e-7
    )


def test_a_line_stays_a_line_away_from_the_edges():
    line = np.arange(12, dtype=np.float32)
    places = (np.arange(8) + 0.5) * 12 / 8 - 0.5
    found = bicubic(12, 8) @ line
    np.testing.assert_allclose(found[2:-2], places[2:-2], atol=0.05)


def test_rows_and_columns_are_not_mistaken_for_one_another():
    row, column = np.mgrid[:4, :4].reshape(2, 16, 1).astype(np.float32)
    places = jnp.asarray(np.concatenate([row, 10 * column], axis=1))
    found = np.asarray(resample(places, 3, 5)).reshape(3, 5, 2)
    assert (np.diff(found[..., 0], axis=0) > 0.5).all()
    assert (np.diff(found[..., 1], axis=1) > 5).all()
    np.testing.assert_allclose(np.diff(found[..., 0], axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(found[..., 1], axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_is_of_no_patch_stays(before):
    places = jax.random.normal(jax.random.key(0), (9 + before, 4))
    found = resample(places, 2, 5, before=before)
    assert found.shape == (10 + before, 4)
    np.testing.assert_array_equal(found[:before], places[:before])
    np.testing.assert_array_equal(found[before:], resample(places[before:], 2, 5))


def test_the_same_grid_is_handed_back_untouched():
    places = jax.random.normal(jax.random.key(0), (10, 4))
    assert resample(places, 3, 3, before=1) is places


def test_half_precision_stays_half_and_is_computed_in_float32():
    places = jax.random.normal(jax.random.key(0), (9, 4)).astype(jnp.bfloat16)
    found = resample(places, 4, 2)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        found, resample(places.astype(jnp.float32), 4, 2).astype(jnp.bfloat16)
    )


@pytest.mark.parametrize(
    ("shape", "interpolate", "message"),
    [
        ((15, 20), False, "15x15 pixels, these have 15x20; .* 15, .*interpolate=True"),
        ((20, 15), False, "these have 20x15"),
        ((4, 20), True, "4x20 pixels hold no patch of 5x5"),
        ((20, 4), True, "20x4 pixels hold no patch"),
    ],
)
def test_images_without_positions_are_refused(shape, interpolate, message):
    with pytest.raises(ValueError, match=message):
        check_image(jnp.zeros((1, *shape, 3)), 15, 5, interpolate=interpolate)


@pytest.mark.parametrize(
    ("shape", "interpolate"), [((15, 15), False), ((15, 15), True), ((5, 31), True)]
)
def test_images_with_positions_are_taken(shape, interpolate):
    check_image(jnp.zeros((1, *shape, 3)), 15, 5, interpolate=interpolate)
