"""What every tower is built from: activations, and layers stacked and scanned."""

from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

Layer = TypeVar("Layer", bound=nnx.Module)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

# New weights, for towers trained from scratch. A linear map's deviation is one over the
# root of its inputs: at the widths of large models about the 0.02 that Hugging Face's
# configurations share, and at small widths, where 0.02 would drown the signal, more.
FAN_IN = nnx.initializers.lecun_normal()
# Learned positions and queries are not to be drowned by what they are added to.
PLACES = nnx.initializers.normal(0.5)
# Embeddings of tokens, normalised before use.
NORMAL = nnx.initializers.normal(0.02)

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function that `config.json` calls `name`; refuses a name unknown here."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation {name!r} is not supported; supported: {known}")
    return ACTIVATIONS[name]


def linear(
    inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs, dtype: DTypeLike
) -> nnx.Linear:
    """A linear map whose new kernel is `FAN_IN` and whose new bias is 0."""
    return nnx.Linear(
        inputs, outputs, use_bias=bias, kernel_init=FAN_IN, dtype=dtype, rngs=rngs
    )


def layer_norm(
    width: int, epsilon: float, *, rngs: nnx.Rngs, dtype: DTypeLike
) -> nnx.LayerNorm:
    """A layer norm whose variance is taken about the mean, as PyTorch's is."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def within(length: Int[Array, " B"], places: int) -> Bool[Array, "B {places}"]:
    """The first `length` of a row's `places`: those that are not padding."""
    return jnp.arange(places)[None] < length[:, None]


def stack(make: Callable[[nnx.Rngs], Layer], count: int, rngs: nnx.Rngs) -> Layer:
    """`count` layers as one module whose parameters have a leading axis of layers."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Layer:
        return make(rngs)

    return build(rngs)


def scan(
    layers: Layer,
    body: Callable[[Layer, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: str = "none",
) -> tuple[Any, Any]:
    """Runs `carry, y = body(layer, carry, x)` over stacked `layers`, compiled once.

    `xs` is a pytree with a leading axis of layers (a key-value cache, say), and so is
    the stack of `y` that comes back. `remat` names what the backward pass keeps:
    "none" recomputes nothing, "dots" keeps the matrix products, "full" only the carry.

    Raises:
      ValueError: if `remat` is none of these.
    """
    if remat not in ("none", *REMAT_POLICIES):
        known = ", ".join(["none", *REMAT_POLICIES])
        raise ValueError(f"remat {remat!r} is not a policy; choose one of: {known}")
    graphdef, params = nnx.split(layers)

    def step(carry, inputs):
        layer_params, x = inputs
        return body(nnx.merge(graphdef, layer_params), carry, x)

    if remat != "none":
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return jax.lax.scan(step, carry, (params, xs))
