"""A batch is a pytree whose leaves are exactly its arrays."""

import jax
import numpy as np

from deemo_jax.batch import Batch


def test_a_batch_maps_leaf_by_leaf():
    batch = Batch(
        tokens=np.zeros((2, 5), np.int32),
        positions=np.zeros((2, 5), np.int32),
        segment_ids=np.zeros((2, 5), np.int32),
        loss_mask=np.zeros((2, 5), bool),
        frames=np.zeros((2, 3, 4, 4, 3), np.uint8),
        frame_mask=np.zeros((2, 3), bool),
        audio=np.zeros((2, 7), np.float32),
        audio_length=np.zeros(2, np.int32),
        index=np.arange(2, dtype=np.int32),
    )
    assert len(jax.tree.leaves(batch)) == 9
    first = jax.tree.map(lambda leaf: leaf[:1], batch)
    assert first.frames.shape == (1, 3, 4, 4, 3)
    assert first.index.tolist() == [0]
