"""One training step as a pure function of state and batch, and how its state lies."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from deemo_jax.architecture import DeemoLlamaConfig
from deemo_jax.batch import Batch
from deemo_jax.config import Config, LayoutConfig, LoraConfig, OptimizerConfig
from deemo_jax.loss import cross_entropy_sums
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.lora import add_lora, with_dropout
from deemo_jax.sharding import parameter_shardings, row_sharding
from deemo_jax.train.optimizer import learning_rate, make_optimizer, split_params

Sums = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that a step changes.

    `params` holds trained and frozen parameters, `opt_state` the optimizer's state of
    the trained ones alone, `step` (int32) the number of steps done, which is also the
    position in the data. Leaves are arrays, or their shapes, or their shardings.
    """

    params: nnx.State
    opt_state: Any
    step: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """All that a model is made and drawn from.

    What is traced and compiled for one is kept for every run that agrees in it: for
    those that are resumed, or compared, in one process.
    """

    kind: type[DeemoLlama]
    seed: int
    model: DeemoLlamaConfig
    lora: LoraConfig
    layout: LayoutConfig
    dtype: str
    remat: str

    @classmethod
    def of(cls, config: Config) -> "Making":
        """That of a run."""
        return cls(
            kind=DeemoLlama,
            seed=config.seed,
            model=config.model,
            lora=config.lora,
            layout=config.layout,
            dtype=config.train.dtype,
            remat=config.train.remat,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """All that a training step depends on but state and batch; kept as `Making` is."""

    making: Making
    stage: str
    steps: int
    optimizer: OptimizerConfig

    @classmethod
    def of(cls, config: Config) -> "Learning":
        """That of a run."""
        return cls(
            making=Making.of(config),
            stage=config.train.stage,
            steps=config.train.steps,
            optimizer=config.optimizer,
        )


def make_model(config: Config, rngs: nnx.Rngs) -> DeemoLlama:
    """The model as a run trains it."""
    return _make(Making.of(config), rngs)


def _make(making: Making, rngs: nnx.Rngs) -> DeemoLlama:
    model = making.kind(
        making.model,
        rngs=rngs,
        dtype=jnp.dtype(making.dtype),
        remat=making.remat,
        layout=making.layout,
    )
    return add_lora(model, making.lora, rngs)


def split_model(config: Config) -> tuple[nnx.GraphDef, nnx.State]:
    """The model's structure, and its parameters as shapes; nothing is computed."""
    return _split(Making.of(config))


# Tracing takes a second, and many ask. Here and below, what is kept is shared: nobody
# changes what they get.
@functools.lru_cache(maxsize=8)
def _split(making: Making) -> tuple[nnx.GraphDef, nnx.State]:
    model = nnx.eval_shape(lambda: _make(making, nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    return graphdef, params


def train_step(
    state: TrainState, batch: Batch, *, learning: Learning
) -> tuple[TrainState, Sums]:
    """Moves the trained parameters once, down the gradient of the batch's mean loss.

    Where loss or gradient are not finite, the step is skipped: it counts, and nothing
    but the count changes.

    Returns:
      The next state, and of this batch under the given state: the sums of
      `loss.cross_entropy_sums`, `row_tokens` (all tokens of its rows but padding,
      int32), the `grad_norm` before clipping and the `learning_rate` (float32), and
      whether it was `skipped` (int32).
    """
    making, (graphdef, _) = learning.making, _split(learning.making)
    optimizer = make_optimizer(learning.optimizer, learning.steps)
    trained, frozen = split_params(learning.stage, state.params)

    def mean_loss(trained: nnx.State) -> tuple[jax.Array, Sums]:
        model = nnx.merge(graphdef, trained, frozen)
        if making.lora.dropout:
            # Of seed and step alone: a run gone on with drops what it would have.
            key = jax.random.fold_in(jax.random.key(making.seed), state.step)
            model = with_dropout(model, key)
        tokens = jnp.asarray(batch.tokens)
        sums = cross_entropy_sums(model(batch), tokens, jnp.asarray(batch.loss_mask))
        # A batch without anything to predict has loss 0, not 0 / 0.
        return sums["loss"] / jnp.maximum(sums["tokens"], 1), sums

    gradients, sums = jax.grad(mean_loss, has_aux=True)(trained)
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
    updates, moved = optimizer.update(gradients, state.opt_state, trained)

    def unless_skipped(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    opt_state = jax.tree.map(unless_skipped, moved, state.opt_state)
    trained = jax.tree.map(
        lambda old, update: unless_skipped(old + update, old), trained, updates
    )
    rate = learning_rate(learning.optimizer, learning.steps)
    sums |= {
        "row_tokens": (jnp.asarray(batch.segment_ids) != 0).sum(dtype=jnp.int32),
        "grad_norm": grad_norm,
        # A skipped step did not move the schedule.
        "learning_rate": rate(state.opt_state[-1].count),
        "skipped": (~finite).astype(jnp.int32),
    }
    params = nnx.merge_state(trained, frozen)
    return TrainState(params=params, opt_state=opt_state, step=state.step + 1), sums


def make_train_step(
    config: Config, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """`train_step` of a run, compiled for the mesh; it takes over the state's memory.

    Call it under `jax.set_mesh(mesh)`, which `sharding.constrain` reads.
    """
    return _stepping(Learning.of(config), mesh)


@functools.lru_cache(maxsize=2)
def _stepping(
    learning: Learning, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, _abstract(learning, mesh))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(train_step, learning=learning),
        donate_argnums=0,
        out_shardings=(shardings, everywhere),
    )


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """The state of a run as shapes and shardings; nothing is computed.

    The optimizer's moments of a parameter lie as the parameter does.
    """
    return _abstract(Learning.of(config), mesh)


@functools.lru_cache(maxsize=8)
def _abstract(learning: Learning, mesh: Mesh) -> TrainState:
    _, params = _split(learning.making)
    shardings = parameter_shardings(params, mesh, learning.making.layout)
    everywhere = NamedSharding(mesh, PartitionSpec())
    optimizer = make_optimizer(learning.optimizer, learning.steps)
    trained, _ = split_params(learning.stage, params)
    placed, _ = split_params(learning.stage, shardings)
    opt_state = jax.eval_shape(optimizer.init, trained)
    return TrainState(
        params=jax.tree.map(_lay, params, shardings),
        opt_state=optax.tree.map_params(
            optimizer,
            _lay,
            opt_state,
            placed,
            transform_non_params=lambda leaf: _lay(leaf, everywhere),
        ),
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
    )


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """A batch of `config.train.batch_size` rows as shapes and shardings."""
    data, rows = config.data, config.train.batch_size
    size, clips = (data.image_size, data.image_size, 3), data.clips_per_row
    one = Batch(
        tokens=np.zeros((1, data.max_length), np.int32),
        positions=np.zeros((1, data.max_length), np.int32),
        segment_ids=np.zeros((1, data.max_length), np.int32),
        loss_mask=np.zeros((1, data.max_length), bool),
        frames=np.zeros((clips, data.num_frames, *size), np.uint8),
        frame_mask=np.zeros((clips, data.num_frames), bool),
        audio=np.zeros((clips, data.num_samples), np.float32),
        audio_length=np.zeros(clips, np.int32),
        index=np.zeros(clips, np.int32),
    )
    if data.features:
        one = _encoded(config, one)
    sharding = row_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (rows * leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=sharding
        ),
        one,
    )


def _encoded(config: Config, batch: Batch) -> Batch:
    """The batch with what the towers make of its media in place of these, as shapes."""
    graphdef, params = split_model(config)
    found = jax.eval_shape(lambda p: nnx.merge(graphdef, p).features(batch), params)
    dtype = jnp.dtype(config.data.features)
    return dataclasses.replace(
        batch,
        frames=batch.frames[:, :, :0, :0],
        audio=batch.audio[:, :0],
        video_features=np.zeros(found.video.shape, dtype),
        audio_features=np.zeros(found.audio.shape, dtype),
    )


def init_state(
    config: Config, mesh: Mesh, params: nnx.State | None = None
) -> TrainState:
    """The state before the first step, made in its shards.

    Given no `params`, they are drawn from `config.seed`: the same on any mesh.
    """
    if params is None:
        params = draw_params(config, mesh)
    assert params is not None
    opt_state, step = _beginning(Learning.of(config), mesh)(params)
    return TrainState(params=params, opt_state=opt_state, step=step)


@functools.lru_cache(maxsize=4)
def _beginning(
    learning: Learning, mesh: Mesh
) -> Callable[[nnx.State], tuple[Any, jax.Array]]:
    """Of the optimizer's state and of the count of steps."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, _abstract(learning, mesh))
    optimizer = make_optimizer(learning.optimizer, learning.steps)

    def begin(params: nnx.State) -> tuple[Any, jax.Array]:
        trained, _ = split_params(learning.stage, params)
        return optimizer.init(trained), jnp.zeros((), jnp.int32)

    return jax.jit(begin, out_shardings=(shardings.opt_state, shardings.step))


def draw_params(config: Config, mesh: Mesh, only: Any = nnx.Param) -> nnx.State:
    """New parameters of a run, those of the NNX filter `only`, made in their shards.

    A parameter depends on `config.seed`, not on the mesh or on what else is drawn.
    """
    return _drawing(Making.of(config), mesh, only)(jax.random.key(config.seed))


@functools.lru_cache(maxsize=2)
def _drawing(making: Making, mesh: Mesh, only: Any) -> Callable[[jax.Array], nnx.State]:
    shardings = parameter_shardings(_split(making)[1], mesh, making.layout)

    def draw(key: jax.Array) -> nnx.State:
        return nnx.state(_make(making, nnx.Rngs(key)), only)

    # It runs once or twice: optimising it would take longer than it saves.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(
        draw,
        out_shardings=nnx.filter_state(shardings, only),
        compiler_options=options,
    )


def _lay(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
