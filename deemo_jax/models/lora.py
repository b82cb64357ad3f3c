"""LoRA (Hu et al., 2021): frozen linear maps, each with a learned one of low rank."""

import itertools
import re
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deemo_jax.config import ConfigError, LoraConfig
from deemo_jax.pretrained import Params

Model = TypeVar("Model", bound=nnx.Module)

PARAMETERS = ("lora_a", "lora_b")


class DropoutKey(nnx.Variable):
    """The random key of one step; it stands in a model for that step, in no state."""


class LoraLinear(nnx.Linear):
    """A linear map `W` that gives `x W + b + alpha / r * dropout(x) A B`.

    `kernel` (W) and `bias` (b) are those of the map it takes the place of, under the
    same paths. New `lora_a` (A, normal with deviation one over the root of its inputs)
    and `lora_b` (B, zero) have rank r. In a stack all of them have a leading axis of
    layers. Without a `dropout_key`, nothing is dropped.
    """

    def __init__(self, linear: nnx.Linear, config: LoraConfig, *, rngs: nnx.Rngs):
        for name, value in vars(linear).items():
            if not name.startswith("_pytree__"):  # NNX's own bookkeeping
                setattr(self, name, value)
        *layers, inputs, outputs = linear.kernel.shape
        shape = (*layers, inputs, config.rank)
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout
        self.dropout_key: DropoutKey | None = nnx.data(None)
        self.lora_a = nnx.Param(
            jax.random.normal(rngs.params(), shape, jnp.float32) * inputs**-0.5
        )
        self.lora_b = nnx.Param(jnp.zeros((*layers, config.rank, outputs), jnp.float32))

    def __call__(self, inputs: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        """What the map gives, and what LoRA adds to it."""
        outputs = super().__call__(inputs)
        x, a, b = self.promote_dtype(
            (inputs, self.lora_a[...], self.lora_b[...]), dtype=self.dtype
        )
        if self.dropout_key is not None:
            kept = jax.random.bernoulli(
                self.dropout_key[...], 1 - self.dropout, x.shape
            )
            x = jnp.where(kept, x / (1 - self.dropout), 0)
        low = jnp.matmul(x, a)
        return outputs + self.scale * jnp.matmul(
            low, b, preferred_element_type=outputs.dtype
        )


def add_lora(model: Model, config: LoraConfig, rngs: nnx.Rngs) -> Model:
    """`model` with LoRA on every `nnx.Linear` whose path a target matches whole.

    It computes what `model` computes until it is trained, and shares its parameters,
    whose paths stay. A map of a stack is one target, with LoRA in each of its layers.
    With rank 0, `model` comes back as it is.

    Raises:
      ConfigError: naming a target that matches no linear map of the model.
    """
    if config.rank == 0:
        return model
    linears = [
        _name(path)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.Linear)
    ]
    for target in config.targets:
        if not any(re.fullmatch(target, name) for name in linears):
            known = ", ".join(linears)
            raise ConfigError(
                f"config.lora.targets has {target!r}, which matches no linear map of "
                f"the model; a regular expression has to match one of these paths "
                f"whole: {known}"
            )

    def adapt(path: tuple, node: Any) -> Any:
        if isinstance(node, nnx.Linear) and any(
            re.fullmatch(target, _name(path)) for target in config.targets
        ):
            return LoraLinear(node, config, rngs=rngs)
        return node

    return nnx.recursive_map(adapt, model)


def with_dropout(model: Model, key: jax.Array) -> Model:
    """`model` with dropout in front of every LoRA, as `key` decides."""
    numbers = itertools.count()

    def start(_: tuple, node: Any) -> Any:
        if isinstance(node, LoraLinear):
            own = jax.random.fold_in(key, next(numbers))
            layers = node.kernel.shape[:-2]
            node.dropout_key = DropoutKey(
                jax.random.split(own, layers) if layers else own
            )
        return node

    return nnx.recursive_map(start, model)


def merge_lora(model: nnx.Module) -> Params:
    """The parameters of `model`, its LoRA added to the kernels and gone as such.

    They are those of the same model without LoRA, which computes the same with them.
    """
    params = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, module in nnx.iter_modules(model):
        if isinstance(module, LoraLinear):
            a, b = (params.pop((*path, name)) for name in PARAMETERS)
            kernel = params[*path, "kernel"]
            added = jnp.matmul(a[...], b[...], precision=jax.lax.Precision.HIGHEST)
            params[*path, "kernel"] = kernel.replace(kernel[...] + module.scale * added)
    return nnx.from_flat_state(params.items())


def is_lora(path: tuple, _: Any) -> bool:
    """Whether the parameter at `path` is LoRA's; a filter for NNX."""
    return path[-1] in PARAMETERS


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
