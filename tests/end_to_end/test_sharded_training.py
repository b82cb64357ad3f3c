"""The same run on one, four and eight devices."""

import jax
import numpy as np
import pytest

from deemo_jax.config import MeshConfig
from deemo_jax.data.loader import Batches
from deemo_jax.data.shards import ShardSource
from deemo_jax.sharding import make_mesh, place
from deemo_jax.train.prepare import prepare_tokenizer
from deemo_jax.train.step import init_state, make_train_step
from tests.small import make_corpus, small_config

STEPS = 20
MESHES = [(1, 1, 1), (1, 4, 1), (2, 2, 2)]  # data, fsdp, tensor


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    config = small_config(train__steps=STEPS)
    source = ShardSource(make_corpus(folder), "train")
    tokenizer = prepare_tokenizer(config, folder, source)
    read = Batches(source, config.data, tokenizer, (4, 2), seed=0, batch_size=8)
    iterator = read.iterate()
    return [next(iterator) for _ in range(STEPS)]


def run(batches, sizes):
    """Parameters at the start, losses, and the state at the end."""
    config = small_config(train__steps=STEPS)
    data, fsdp, tensor = sizes
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    losses = []
    with jax.set_mesh(mesh):
        state = init_state(config, mesh)
        start = [np.array(leaf) for leaf in jax.tree.leaves(state.params)]
        step = make_train_step(config, mesh)
        for batch in batches:
            state, sums = step(state, place(batch, mesh))
            losses.append(sums["loss"].item() / sums["tokens"].item())
    return start, losses, state


@pytest.fixture(scope="module")
def runs(batches):
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half
    found = {sizes: run(batches, sizes) for sizes in MESHES}
    jax.config.update("jax_disable_most_optimizations", False)
    return found


@pytest.mark.parametrize("sizes", MESHES[1:])
def test_it_starts_from_the_same_parameters(runs, sizes):
    for ours, theirs in zip(runs[sizes][0], runs[MESHES[0]][0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sizes", MESHES[1:])
def test_losses_agree(runs, sizes):
    np.testing.assert_allclose(runs[sizes][1], runs[MESHES[0]][1], rtol=1e-4)


def test_the_run_learns(runs):
    losses = runs[MESHES[0]][1]
    assert losses[-1] < 0.9 * losses[0]


def test_parameters_are_split_over_the_devices(runs):
    """A quarter each over four of fsdp; over 2 x 2 x 2, a quarter and two copies."""
    for sizes in MESHES[1:]:
        state = runs[sizes][2]
        held = sum(
            leaf.addressable_shards[0].data.nbytes
            for leaf in jax.tree.leaves((state.params, state.opt_state))
        )
        whole = sum(
            leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state))
        )
        assert held < 0.32 * whole
