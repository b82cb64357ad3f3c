"""What towers made of clips does what their media do, and masks hold for it alike."""

import dataclasses

from flax import nnx
import jax
import numpy as np
import pytest

from deemo_jax.batch import Batch
from deemo_jax.models.deemo_llama import DeemoLlama
from tests.small import HUBERT, ODD, drawn

TIMES, SAMPLES = 3, 4_800
HEARING = dataclasses.replace(
    ODD,
    audio_tower=HUBERT,
    audio_connector=dataclasses.replace(
        ODD.audio_connector, encoder_hidden_size=HUBERT.hidden_size, max_positions=200
    ),
)


def make_batch() -> Batch:
    draw = np.random.default_rng(0)
    tokens = draw.integers(5, 41, (3, 12)).astype(np.int32)
    tokens[:2, 1:4] = ODD.video_token_id
    tokens[1:, 5:7] = ODD.audio_token_id
    return Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(12), (3, 12)),
        segment_ids=np.ones((3, 12), np.int32),
        loss_mask=np.zeros((3, 12), bool),
        frames=draw.integers(0, 256, (3, TIMES, 15, 15, 3), np.uint8),
        frame_mask=np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]]) == 1,
        audio=draw.normal(0, 0.1, (3, SAMPLES)).astype(np.float32),
        audio_length=np.array([0, SAMPLES, 2_000], np.int32),
        index=np.arange(3),
    )


@pytest.mark.parametrize("config", [ODD, HEARING], ids=["whisper", "hubert"])
def test_features_give_the_logits_of_the_media(config):
    model = drawn(lambda: DeemoLlama(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    call = jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch))
    batch = make_batch()
    found = jax.jit(lambda p, b: nnx.merge(graphdef, p).features(b))(params, batch)
    heard = np.asarray(found.heard)
    length = heard.sum(axis=1)
    assert length[0] == 0 < length[2] < length[1]
    # The first ones: what a record keeps of them is as long as that.
    assert (heard == (np.arange(heard.shape[1])[None] < length[:, None])).all()
    video, audio = np.array(found.video), np.array(found.audio)
    video[~batch.frame_mask], audio[~heard] = 7.0, 7.0  # masked: of no effect
    packed = dataclasses.replace(
        batch,
        frames=batch.frames[:, :, :0, :0],
        audio=batch.audio[:, :0],
        audio_length=length.astype(np.int32),
        video_features=video,
        audio_features=audio,
    )
    logits = np.asarray(call(params, batch))
    np.testing.assert_allclose(call(params, packed), logits, rtol=1e-5, atol=1e-5)
    video[0] *= -1.0
    assert np.abs(np.asarray(call(params, packed)) - logits)[0].max() > 1e-3
