import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deemo_jax.architecture import (
    ClipVisionConfig,
    DeemoLlamaConfig,
    LlamaConfig,
    QFormerConfig,
    WhisperEncoderConfig,
)
from deemo_jax.batch import Batch
from deemo_jax.models.deemo_llama import (
    DeemoLlama,
    Media,
    config_from_dict,
    config_to_dict,
    merge,
)
from deemo_jax.pretrained import PretrainedError

VIDEO, AUDIO = 3, 4


SMALL = QFormerConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    encoder_hidden_size=12,
    max_positions=3,
    num_query_tokens=3,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)
CONFIG = DeemoLlamaConfig(
    vision_tower=ClipVisionConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=10,
        patch_size=5,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    ),
    audio_tower=WhisperEncoderConfig(
        d_model=14,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=20,
        num_mel_bins=9,
        max_source_positions=20,
        activation_function="gelu",
    ),
    video_connector=SMALL,
    audio_connector=dataclasses.replace(
        SMALL, encoder_hidden_size=14, max_positions=5, num_query_tokens=2
    ),
    language_model=LlamaConfig(
        vocab_size=23,
        hidden_size=12,
        intermediate_size=18,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=4,
        hidden_act="silu",
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=True,
    ),
    vision_feature_layer=-1,
    image_mean=(0.5, 0.4, 0.3),
    image_std=(0.2, 0.3, 0.4),
    audio_frames_per_position=4,
    video_token_id=VIDEO,
    audio_token_id=AUDIO,
)
ROWS = (  # tokens, frames that are there, samples of audio
    ([1, 3, 3, 3, 4, 4, 7, 8, 9, 2], [1, 1, 1], 4801),
    ([1, 4, 4, 7, 8, 9, 5, 2, 0, 0], [0, 0, 0], 3300),
    ([1, 3, 3, 3, 7, 2, 0, 0, 0, 0], [1, 1, 0], 0),
)


def make_batch() -> Batch:
    tokens, frame_mask, audio_length = (
        np.array(column) for column in zip(*ROWS, strict=True)
    )
    generator = np.random.default_rng(0)
    return Batch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(10), (3, 10)),
        segment_ids=(tokens != 0).astype(np.int32),
        loss_mask=tokens == 2,
        frames=generator.integers(0, 256, (3, 3, 10, 10, 3), np.uint8),
        frame_mask=frame_mask == 1,
        audio=0.1 * generator.standard_normal((3, 4801)).astype(np.float32),
        audio_length=audio_length,
        index=np.arange(3),
    )


BATCH = make_batch()


GRAPHDEF, ABSTRACT = nnx.split(
    nnx.eval_shape(lambda: DeemoLlama(CONFIG, rngs=nnx.Rngs(0)))
)


def random_params():
    """Weights from numpy: nothing to compile, and no parameter is zero."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: jax.device_put(generator.normal(0.0, 0.3, p.shape).astype(p.dtype)),
        ABSTRACT,
    )


PARAMS = random_params()


@pytest.fixture
def model() -> DeemoLlama:
    return nnx.merge(GRAPHDEF, PARAMS)


@jax.jit
def logits(params, batch):
    return nnx.merge(GRAPHDEF, params)(batch)


@jax.jit
def gradients(params, batch):
    weights = jax.random.normal(jax.random.key(0), (3, 10, 23))
    return jax.grad(lambda params: (logits(params, batch) * weights).sum())(params)


def test_media_take_their_places():
    v, a = VIDEO, AUDIO
    tokens = np.array(
        [
            [1, v, v, a, 7, 8, 9, 2],
            [v, 7, 8, v, 9, 2, 0, 0],
            [1, a, 7, 8, 9, 6, 5, 2],
            [1, 7, 8, 9, 6, 5, 5, 2],
        ]
    )
    expected = np.array(
        # 100 is the text's own, 20k the k-th of the video, 30k of the audio.
        [
            [100, 200, 201, 300, 100, 100, 100, 100],
            [200, 100, 100, 201, 100, 100, 100, 100],
            [100, 300, 100, 100, 100, 100, 100, 100],
            [100, 100, 100, 100, 100, 100, 100, 100],
        ]
    )
    merged = merge(
        jnp.asarray(tokens),
        jnp.ones((4, 8), jnp.int32),
        jnp.full((4, 8, 1), 100.0),
        Media(
            video=jnp.broadcast_to(jnp.array([[[200.0], [201.0]]]), (4, 2, 1)),
            audio=jnp.full((4, 1, 1), 300.0),
        ),
        video_token_id=v,
        audio_token_id=a,
    )
    np.testing.assert_array_equal(merged[..., 0], expected)


def test_each_segment_takes_the_media_of_its_own_clip():
    v, a = VIDEO, AUDIO
    merged = merge(
        jnp.array([[v, v, a, 7, a, 8, v, v, v, 0], [v, v, 9, 0, 0, 0, 0, 0, 0, 0]]),
        jnp.array([[1, 1, 1, 1, 2, 2, 4, 4, 4, 0], [3, 3, 3, 0, 0, 0, 0, 0, 0, 0]]),
        jnp.zeros((2, 10, 1)),
        Media(  # clip g has 10 g + 200 and the next as video, 10 g + 300 as audio
            video=(200.0 + 10 * jnp.arange(8)[:, None] + jnp.arange(2)[None])[
                ..., None
            ],
            audio=300.0 + 10 * jnp.arange(8.0)[:, None, None],
        ),
        video_token_id=v,
        audio_token_id=a,
    )
    assert merged[..., 0].tolist() == [
        [200, 201, 300, 0, 310, 0, 230, 231, 0, 0],
        [260, 261, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_clips_in_one_row_have_the_logits_that_they_have_alone():
    """No attention, no position and no medium crosses from one to another."""
    own = [np.flatnonzero(BATCH.tokens[row]) for row in range(3)]
    tokens, positions, segments = (
        np.concatenate([part[row][own[row]] for row in range(3)])[None]
        for part in (
            np.asarray(BATCH.tokens),
            np.broadcast_to(np.arange(10), (3, 10)),
            np.array([[1], [2], [3]]) * np.ones((1, 10), np.int32),
        )
    )
    packed = dataclasses.replace(
        BATCH,
        tokens=tokens,
        positions=positions,
        segment_ids=segments.astype(np.int32),
        loss_mask=tokens == 2,
    )
    alone = np.concatenate([logits(PARAMS, BATCH)[row][own[row]] for row in range(3)])
    np.testing.assert_allclose(logits(PARAMS, packed)[0], alone, atol=2e-5)


def test_places_beyond_the_media_keep_their_embedding():
    merged = merge(
        jnp.array([[VIDEO, VIDEO, VIDEO]]),
        jnp.ones((1, 3), jnp.int32),
        jnp.full((1, 3, 1), 100.0),
        Media(video=jnp.full((1, 2, 1), 200.0), audio=jnp.full((1, 1, 1), 300.0)),
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
    )
    assert merged[0, :, 0].tolist() == [200.0, 200.0, 100.0]


def test_logits_for_each_place_in_float32():
    found = logits(PARAMS, BATCH)
    assert found.shape == (3, 10, 23)
    assert found.dtype == jnp.float32
    assert np.isfinite(found).all()


def test_media_given_are_not_computed_again(model):
    media = Media(video=jnp.zeros((3, 3, 12)), audio=jnp.zeros((3, 2, 12)))
    embeddings = model.embed_batch(BATCH, media)
    places = np.isin(BATCH.tokens, (VIDEO, AUDIO))
    np.testing.assert_array_equal(np.abs(embeddings).max(axis=2) == 0, places)


def changed(**arrays) -> Batch:
    return dataclasses.replace(BATCH, **arrays)


def test_what_is_masked_does_not_matter():
    frames = np.where(BATCH.frame_mask[:, :, None, None, None], BATCH.frames, 255)
    heard = np.arange(BATCH.audio.shape[1])[None] < BATCH.audio_length[:, None]
    audio = np.where(heard, BATCH.audio, 7.0).astype(np.float32)
    for other in (changed(frames=frames), changed(audio=audio)):
        np.testing.assert_array_equal(logits(PARAMS, other), logits(PARAMS, BATCH))


def test_what_is_not_masked_does():
    frames = BATCH.frames.copy()
    frames[0, 2] = 255 - frames[0, 2]
    audio = BATCH.audio.copy()
    audio[1, :1600] = 0.0
    expected = {"frames": [True, False, False], "audio": [False, True, False]}
    for name, other in {"frames": frames, "audio": audio}.items():
        difference = np.abs(
            logits(PARAMS, changed(**{name: other})) - logits(PARAMS, BATCH)
        )
        assert (difference.max(axis=(1, 2)) > 1e-6).tolist() == expected[name]


def test_media_without_places_do_not_matter():
    # Row 1 has no video places, row 2 no audio places.
    other = changed(
        frame_mask=np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]], bool),
        audio_length=np.array([4801, 3300, 4000], np.int32),
    )
    np.testing.assert_array_equal(logits(PARAMS, other), logits(PARAMS, BATCH))


def test_every_parameter_receives_a_gradient():
    without = "vision_tower/post_layernorm"  # carried for the round trip only
    for path, gradient in nnx.to_flat_state(gradients(PARAMS, BATCH)):
        name = "/".join(map(str, path))
        assert np.isfinite(gradient[...]).all(), name
        reached = bool(np.abs(gradient[...]).max() > 0)
        assert reached == (not name.startswith(without)), name


def test_without_any_media_gradients_are_finite_and_only_text_learns():
    tokens = np.where(np.isin(BATCH.tokens, (VIDEO, AUDIO)), 7, BATCH.tokens)
    batch = changed(
        tokens=tokens,
        frame_mask=np.zeros((3, 3), bool),
        audio_length=np.zeros(3, np.int32),
    )
    for path, gradient in nnx.to_flat_state(gradients(PARAMS, batch)):
        assert np.isfinite(gradient[...]).all(), path
        reached = bool(np.abs(gradient[...]).max() > 0)
        assert reached == (path[0] == "language_model"), path


def test_audio_positions_are_times_whatever_the_padding(model):
    # With every place of the tower looking at itself alone, what is left of padding is
    # the mirrored end, which silence of a window's length keeps apart.
    model.audio_tower.layers.self_attn.attention = lambda q, k, v, mask: v
    length = jnp.array([2400, 1600, 320])
    audio = jnp.asarray(BATCH.audio)[:, :3200]
    hear = model.audio_tower.hear
    encode = jax.jit(lambda audio: model.connect_audio(*hear(audio, length)))
    short, long = encode(audio), encode(jnp.pad(audio, ((0, 0), (0, 3200))))
    np.testing.assert_allclose(long, short, atol=1e-5)


def test_more_frames_than_positions_are_refused(model):
    frames = np.zeros((3, 4, 10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match=r"4 frames .* is 3; lower data.num_frames"):
        model(changed(frames=frames, frame_mask=np.ones((3, 4), bool)))


def test_the_configuration_survives_its_file():
    values = config_to_dict(CONFIG)
    assert config_from_dict(values) == CONFIG
    for key in values:
        if key in ("architectures", "dtype"):
            continue
        with pytest.raises(PretrainedError, match=key):
            config_from_dict({k: v for k, v in values.items() if k != key})
    with pytest.raises(PretrainedError, match="list of three numbers"):
        config_from_dict(values | {"image_mean": [0.5]})


def test_weights_survive_their_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = DeemoLlama.from_pretrained(tmp_path)
    assert again.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


SEVEN_B = DeemoLlamaConfig(
    vision_tower=ClipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    ),
    audio_tower=WhisperEncoderConfig(
        d_model=1280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        num_mel_bins=128,
        max_source_positions=1500,
        activation_function="gelu",
    ),
    video_connector=dataclasses.replace(
        SMALL, hidden_size=768, intermediate_size=3072, encoder_hidden_size=1024
    ),
    audio_connector=dataclasses.replace(
        SMALL, hidden_size=768, intermediate_size=3072, encoder_hidden_size=1280
    ),
    language_model=LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        hidden_act="silu",
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
    ),
    vision_feature_layer=-2,
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    audio_frames_per_position=500,
    video_token_id=VIDEO,
    audio_token_id=AUDIO,
)


def test_seven_billion_parameters_have_the_right_shapes_without_memory():
    model = nnx.eval_shape(lambda: DeemoLlama(SEVEN_B, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    counts = {
        name: sum(p.size for p in jax.tree.leaves(part))
        for name, part in params.items()
    }
    assert counts["language_model"] == 6_738_415_616  # Llama-2-7B
    assert counts["vision_tower"] == 303_179_776  # CLIP ViT-L/14
    assert counts["audio_tower"] == 636_968_960  # Whisper large-v3's encoder

    def logits(params):
        batch = Batch(
            tokens=jnp.zeros((2, 512), jnp.int32),
            positions=jnp.zeros((2, 512), jnp.int32),
            segment_ids=jnp.zeros((2, 512), jnp.int32),
            loss_mask=jnp.zeros((2, 512), bool),
            frames=jnp.zeros((2, 3, 224, 224, 3), jnp.uint8),
            frame_mask=jnp.zeros((2, 3), bool),
            audio=jnp.zeros((2, 480_000)),
            audio_length=jnp.zeros(2, jnp.int32),
            index=jnp.zeros(2, jnp.int32),
        )
        return nnx.merge(graphdef, params)(batch)

    assert jax.eval_shape(logits, params).shape == (2, 512, 32_000)
