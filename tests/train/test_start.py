"""Where a run goes on: from its newest checkpoint, or one before a step."""

import jax
import numpy as np
import pytest

from deemo_jax.checkpoint import Checkpoints
from deemo_jax.sharding import make_mesh
from deemo_jax.train.start import first_state, items_of
from deemo_jax.train.step import init_state
from tests.small import small_config

pytestmark = pytest.mark.usefixtures("bigrams")


def test_the_newest_checkpoint_or_one_before_or_none(tmp_path):
    config = small_config()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), Checkpoints(tmp_path, keep=9) as checkpoints:
        drawn = init_state(config, mesh)
        for step in (3, 6):
            params = jax.tree.map(lambda x, step=step: x + step, drawn.params)
            saved = type(drawn)(params=params, opt_state=drawn.opt_state, step=0)
            checkpoints.save(step, items_of(saved))
        for before, start in ((None, 6), (6, 3), (3, 0)):
            state, found = first_state(config, mesh, checkpoints, before=before)
            assert found == start
            assert state.step == start
            jax.tree.map(
                lambda x, y, start=start: np.testing.assert_array_equal(x, y + start),
                state.params,
                drawn.params,
            )
