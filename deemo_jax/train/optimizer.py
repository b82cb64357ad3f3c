"""What learns and how: the freeze table, and AdamW over what it leaves trainable."""

from collections.abc import Callable
import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float
import optax

from deemo_jax.config import ConfigError, OptimizerConfig
from deemo_jax.sharding import path_of

# Never trained: Whisper's positions are sinusoids by definition; a vision tower's last
# norm, SigLIP's pooling head and HuBERT's vector for masked frames are carried for the
# round trip to PyTorch only, no feature passes through them.
_CONSTANT = (
    (r"audio_tower/embed_positions/.*", False),
    (r"audio_tower/masked_spec_embed", False),
    (r"vision_tower/(post_layernorm|head)/.*", False),
)
_CONNECTORS = r"(video|audio)_connector/.*"
_LORA = r".*/lora_[ab]"
_TOWERS = r"(vision_tower|audio_tower|language_model)/.*"

# Stage -> rows of (path of a parameter, whether it is trained). First match wins. LoRA
# has a row where it may be: `Config` refuses it in the other stages.
FREEZE: dict[str, tuple[tuple[str, bool], ...]] = {
    "align": (*_CONSTANT, (_CONNECTORS, True), (_TOWERS, False)),
    "tune": (*_CONSTANT, (_LORA, True), (_CONNECTORS, True), (_TOWERS, False)),
    "full": (*_CONSTANT, (_CONNECTORS, True), (_TOWERS, True)),
}


def is_trained(stage: str, path: str) -> bool:
    """Whether `stage` trains the parameter at `path`.

    Raises:
      ConfigError: if there is no such stage.
      ValueError: if no row of the stage matches the parameter.
    """
    if stage not in FREEZE:
        known = ", ".join(FREEZE)
        raise ConfigError(
            f"config.train.stage is {stage!r}; it must be one of: {known}"
        )
    for pattern, trained in FREEZE[stage]:
        if re.fullmatch(pattern, path):
            return trained
    raise ValueError(
        f"parameter {path} matches no row of stage {stage!r} in "
        f"deemo_jax.train.optimizer.FREEZE; add a row for it"
    )


def split_params(stage: str, params: nnx.State) -> tuple[nnx.State, nnx.State]:
    """The parameters that `stage` trains, and those it leaves as they are."""

    def trained(path: tuple, _: Any) -> bool:
        return is_trained(stage, "/".join(map(str, path)))

    learning, frozen = nnx.split_state(params, trained, ...)
    return learning, frozen


def learning_rate(
    config: OptimizerConfig, steps: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """The rate of each step, counted from 0, of a run of `steps`.

    It rises on a line through the first `w = warmup_steps` steps, so that already the
    first one moves the parameters, and falls on a half cosine (Loshchilov and Hutter,
    2017) towards `end_fraction` of the peak `p`. A run that is shorter than its
    warm-up ends within it.

        step   0           1           w    …    steps
        rate   p / (w+1)   2p / (w+1)  p    …    p * end_fraction
    """
    rise = optax.schedules.linear_schedule(
        config.learning_rate / (config.warmup_steps + 1),
        config.learning_rate,
        config.warmup_steps,
    )
    fall = optax.schedules.cosine_decay_schedule(
        config.learning_rate,
        max(steps - config.warmup_steps, 1),
        alpha=config.end_fraction,
    )

    def rate(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step)
        value = jnp.where(
            step < config.warmup_steps,
            rise(step),
            fall(jnp.maximum(step - config.warmup_steps, 0)),
        )
        return value.astype(jnp.float32)

    return rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) on gradients clipped by their global norm.

    It is meant to be initialised with, and to be given gradients of, the trained
    parameters alone, so that neither its state nor the norm knows of the others.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def is_decayed(params: Any) -> Any:
    """A bool in place of each parameter: whether weight decay pulls at it.

    It does at matrices and larger kernels, not at biases, scales of norms and other
    vectors. The leading axis of layers that parameters under `layers/` have does not
    make a vector a matrix, and axes of length 1 do not either (HuBERT's gains).
    """

    def decayed(keys: tuple, value: Any) -> bool:
        stacked = "layers" in path_of(keys).split("/")
        return sum(size > 1 for size in value.shape[stacked:]) >= 2

    return jax.tree_util.tree_map_with_path(decayed, params)
