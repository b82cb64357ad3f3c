"""The decoder: LLaMA in Flax NNX (Touvron et al., 2023), with a key-value cache."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from deemo_jax.architecture import LlamaConfig
from deemo_jax.models.attention import (
    Attention,
    causal_mask,
    dot_product_attention,
)
from deemo_jax.models.layers import FAN_IN, NORMAL, activation, linear, scan, stack
from deemo_jax.models.loading import load, read_fields, save
from deemo_jax.models.rope import read_rope, rope, rotate, write_rope
from deemo_jax.pretrained import PretrainedError, Row, read_config
from deemo_jax.sharding import constrain

_LAYER = "model.layers.{layer}."
# Hugging Face's names, as `LlamaForCausalLM` has them, beside ours.
TABLE = (
    Row("model.embed_tokens.weight", "embed_tokens/embedding"),
    *(
        Row(f"{_LAYER}{norm}.weight", f"layers/{norm}/scale")
        for norm in ("input_layernorm", "post_attention_layernorm")
    ),
    *(
        row
        for module in (
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        )
        for path in ["layers/" + module.replace(".", "/")]
        for row in (
            Row(f"{_LAYER}{module}.weight", f"{path}/kernel", "linear"),
            Row(f"{_LAYER}{module}.bias", f"{path}/bias"),
        )
    ),
    Row("model.norm.weight", "norm/scale"),
    Row("lm_head.weight", "lm_head/kernel", "linear"),
)


# Rope's frequencies, which older files carry and which follow from `rope_theta`.
FOREIGN = ("*.rotary_emb.inv_freq",)


def copies(config: LlamaConfig, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Tensors that a file may hold twice: the tied head, a copy of the embedding."""
    if not config.tie_word_embeddings:
        return ()
    return ((f"{prefix}lm_head.weight", f"{prefix}model.embed_tokens.weight"),)


def config_from_dict(values: Mapping[str, Any]) -> LlamaConfig:
    """Reads the values of a Hugging Face `config.json` (or its `text_config`).

    Keys that the format did not have from the beginning mean, where they are absent,
    what files without them have always meant: as many key-value heads as heads, heads
    that divide the width, rope's base 10,000, no biases, an untied head.

    Raises:
      PretrainedError: if a key is missing, or its value is not supported here.
    """
    if values.get("model_type") != "llama":
        raise PretrainedError(
            f"model_type {values.get('model_type')!r} in config.json is not supported "
            f"as a decoder; supported: llama"
        )
    heads = values.get("num_attention_heads")
    width = values.get("hidden_size")
    absent = {
        "num_key_value_heads": heads,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    if isinstance(heads, int) and isinstance(width, int) and width % heads == 0:
        absent["head_dim"] = width // heads
    theta, scaling = read_rope(values)
    rope = {"rope_theta": theta, "rope_scaling": scaling}
    return read_fields(LlamaConfig, {**values, **rope}, absent)


def config_to_dict(config: LlamaConfig) -> dict[str, Any]:
    """The inverse of `config_from_dict`, for older and newer readers alike."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **dataclasses.asdict(config),
        **write_rope(config.rope_theta, config.rope_scaling),
        "dtype": "float32",
    }


class Cache(NamedTuple):
    """Keys and values of the places a decoder has seen, room for more behind them.

    `segment_ids` is 0 for padding and for places not yet filled; `length` places of
    each row are filled. The first axis of keys and values is that of the layers.
    """

    keys: Float[Array, "layers B L H K"]
    values: Float[Array, "layers B L H K"]
    segment_ids: Int[Array, "B L"]
    length: Int[Array, ""]


class LlamaAttention(nnx.Module):
    """Causal self-attention with rotary positions and grouped key-value heads."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        width, head = config.hidden_size, config.head_dim
        queries = config.num_attention_heads * head
        pairs = config.num_key_value_heads * head
        make = {"bias": config.attention_bias, "rngs": rngs, "dtype": dtype}
        self.head_dim = head
        self.attention = attention
        self.q_proj = linear(width, queries, **make)
        self.k_proj = linear(width, pairs, **make)
        self.v_proj = linear(width, pairs, **make)
        self.o_proj = linear(queries, width, **make)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        cosines: Float[Array, "B S 1 K"],
        sines: Float[Array, "B S 1 K"],
        mask: Bool[Array, "B 1 S L"],
        cached: tuple[Array, Array] | None,
        first: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B S D"], tuple[Array, Array] | None]:
        """Mixes places; writes keys and values into `cached` from place `first` on."""
        shape = (*x.shape[:2], -1, self.head_dim)
        heads = ("batch", "sequence", "heads", "head_dim")
        pairs = ("batch", "keys", "kv_heads", "head_dim")
        q = constrain(rotate(self.q_proj(x).reshape(shape), cosines, sines), heads)
        k = constrain(rotate(self.k_proj(x).reshape(shape), cosines, sines), pairs)
        v = constrain(self.v_proj(x).reshape(shape), pairs)
        if cached is not None:
            k, v = cached = (_put(cached[0], k, first), _put(cached[1], v, first))
        mixed = constrain(self.attention(q, k, v, mask=mask), heads)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), cached


class LlamaMLP(nnx.Module):
    """A gated pair of linear maps up and one down (SwiGLU, Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype: DTypeLike):
        width, inner = config.hidden_size, config.intermediate_size
        make = {"bias": config.mlp_bias, "rngs": rngs, "dtype": dtype}
        self.activation = activation(config.hidden_act)
        self.gate_proj = linear(width, inner, **make)
        self.up_proj = linear(width, inner, **make)
        self.down_proj = linear(inner, width, **make)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Each place by itself."""
        inner = self.activation(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(constrain(inner, ("batch", "sequence", "mlp")))


class LlamaLayer(nnx.Module):
    """Attention, then the MLP, each after its norm and added back."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        attention: Attention,
    ):
        self.input_layernorm = _norm(config, rngs, dtype)
        self.self_attn = LlamaAttention(
            config, rngs=rngs, dtype=dtype, attention=attention
        )
        self.post_attention_layernorm = _norm(config, rngs, dtype)
        self.mlp = LlamaMLP(config, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "B S D"], *context: Any) -> tuple[Array, Any]:
        """One layer; `context` is what `LlamaAttention` takes beside `x`."""
        mixed, cached = self.self_attn(self.input_layernorm(x), *context)
        x = x + mixed
        x = x + self.mlp(self.post_attention_layernorm(x))
        return constrain(x, ("batch", "sequence", "embed")), cached


class Llama(nnx.Module):
    """A decoder that reads any `LlamaForCausalLM` folder and gives the same logits.

    New kernels are as `layers.FAN_IN` says, embeddings normal with deviation 0.02
    (Hugging Face's `initializer_range`), biases 0, norms 1. Parameters
    are float32, `dtype` is that of the computation, logits are float32. `remat` is
    "none" or one of `layers.REMAT_POLICIES`.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: Attention = dot_product_attention,
    ):
        self.config = config
        self.dtype = dtype
        self.remat = remat
        vocabulary, width = config.vocab_size, config.hidden_size
        self.embed_tokens = nnx.Embed(
            vocabulary, width, embedding_init=NORMAL, dtype=dtype, rngs=rngs
        )
        self.layers = stack(
            lambda rngs: LlamaLayer(
                config, rngs=rngs, dtype=dtype, attention=attention
            ),
            config.num_hidden_layers,
            rngs,
        )
        self.norm = _norm(config, rngs, dtype)
        if config.tie_word_embeddings:
            self.lm_head = None
        else:
            self.lm_head = nnx.Linear(
                width,
                vocabulary,
                use_bias=False,
                kernel_init=FAN_IN,
                dtype=dtype,
                preferred_element_type=jnp.float32,
                rngs=rngs,
            )

    def __call__(
        self,
        tokens: Int[Array, "B S"] | None = None,
        *,
        embeddings: Float[Array, "B S D"] | None = None,
        positions: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S V"]:
        """Logits for the token after each place, in float32.

        Args:
          tokens: ids, or give `embeddings` instead.
          embeddings: what `embed` returns, media merged in.
          positions: rope's positions; by default each segment counts from 0.
          segment_ids: a place sees earlier places of its own segment; 0 is padding, on
            either side. By default a row is one segment.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings, not both or neither")
        if embeddings is None:
            assert tokens is not None
            embeddings = self.embed(tokens)
        if segment_ids is None:
            segment_ids = jnp.ones(embeddings.shape[:2], jnp.int32)
        mask = causal_mask(segment_ids, segment_ids)
        hidden, _ = self._layers(embeddings, positions, mask, None, 0)
        return self.logits(hidden)

    def embed(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """The tokens' embeddings."""
        return self.embed_tokens(tokens)

    def cache(self, batch: int, length: int) -> Cache:
        """An empty cache with room for `length` places of `batch` rows."""
        config = self.config
        shape = (config.num_hidden_layers, batch, length)
        shape = (*shape, config.num_key_value_heads, config.head_dim)
        return Cache(
            keys=jnp.zeros(shape, self.dtype),
            values=jnp.zeros(shape, self.dtype),
            segment_ids=jnp.zeros((batch, length), jnp.int32),
            length=jnp.zeros((), jnp.int32),
        )

    def extend(
        self,
        cache: Cache,
        embeddings: Float[Array, "B S D"],
        *,
        positions: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden states of the next `S` places and the cache with them in it.

        `logits` of the hidden states are what the whole row would give at these places.
        The cache must have room for them; `positions` go on from the cached ones.
        """
        segments = jax.lax.dynamic_update_slice_in_dim(
            cache.segment_ids, segment_ids, cache.length, axis=1
        )
        mask = causal_mask(segment_ids, segments, cache.length)
        hidden, (keys, values) = self._layers(
            embeddings, positions, mask, (cache.keys, cache.values), cache.length
        )
        length = cache.length + embeddings.shape[1]
        cache = Cache(keys=keys, values=values, segment_ids=segments, length=length)
        return hidden, cache

    def logits(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """The head: the products are of `dtype`, their sums float32."""
        if self.lm_head is None:
            logits = jnp.einsum(
                "bsd,dv->bsv",
                hidden,
                self.embed_tokens.embedding[...].T.astype(hidden.dtype),
                preferred_element_type=jnp.float32,
            )
        else:
            logits = self.lm_head(hidden)
        return constrain(logits, ("batch", "sequence", "vocab"))

    def _layers(self, x, positions, mask, cached, first):
        """Hidden states after the last norm, and what the layers cached."""
        if positions is None:
            # A place's position is the number of places before it that it sees.
            positions = jnp.maximum(mask[:, 0].sum(-1) - 1, 0)
        config = self.config
        turn = rope(positions, config.head_dim, config.rope_theta, config.rope_scaling)
        x = constrain(x.astype(self.dtype), ("batch", "sequence", "embed"))
        x, cached = scan(
            self.layers,
            lambda layer, x, cached: layer(x, *turn, mask, cached, first),
            x,
            cached,
            remat=self.remat,
        )
        return self.norm(x), cached

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> "Llama":
        """Reads a Hugging Face folder; with a mesh, each tensor into its shards.

        Parameters are float32 whatever the file holds; `dtype` is that of the
        computation, float32 if None, as in `Llama`.

        Raises:
          PretrainedError: if the folder is not a LLaMA that is supported here.
        """
        config = config_from_dict(read_config(folder))
        return load(
            lambda: cls(config, rngs=nnx.Rngs(0), dtype=dtype or jnp.float32),
            folder,
            TABLE,
            foreign=FOREIGN,
            copies=copies(config),
            mesh=mesh,
        )

    def save_pretrained(
        self, folder: str | os.PathLike, *, dtype: DTypeLike | None = None
    ) -> None:
        """Writes a Hugging Face folder for `transformers`, its weights in `dtype`."""
        save(self, folder, TABLE, config_to_dict(self.config), dtype=dtype)


def _put(
    cached: Float[Array, "B L H K"],
    new: Float[Array, "B S H K"],
    first: Int[Array, ""] | int,
) -> Float[Array, "B L H K"]:
    return jax.lax.dynamic_update_slice_in_dim(cached, new, first, axis=1)


def _norm(config: LlamaConfig, rngs: nnx.Rngs, dtype: DTypeLike) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.hidden_size, epsilon=config.rms_norm_eps, dtype=dtype, rngs=rngs
    )
