"""One recorded step run again, to the last bit: was it the data, or the machine?"""

from collections.abc import Callable
import dataclasses
import json
import math

import jax
import numpy as np

from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import Config, ConfigError, differences, read_stored
from deemo_jax.distributed import first_alone
from deemo_jax.sharding import check_rows, make_mesh, place
from deemo_jax.storage import AnyPath
from deemo_jax.train.ledger import check_records
from deemo_jax.train.log import CHANGEABLE, means, read_rows
from deemo_jax.train.prepare import open_split, prepare_data, prepare_tokenizer
from deemo_jax.train.start import first_state, make_batches
from deemo_jax.train.step import make_train_step

COMPARED = ("loss", "grad_norm", "accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a step gave when it was recorded and when it was run again.

    `start` is the step of the checkpoint that it was reached from, `clips` those of
    this process's rows.
    """

    step: int
    start: int
    recorded: dict[str, float | None]
    found: dict[str, float | None]
    clips: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every figure is the same to the last bit."""
        return self.recorded == self.found

    def describe(self) -> str:
        """A line for each figure, and the clips."""
        lines = [f"step {self.step}, run again from step {self.start}"]
        for name in COMPARED:
            before, now = self.recorded[name], self.found[name]
            words = "the same" if before == now else "DIFFERENT"
            lines += [f"  {name:10} recorded {before!r}, now {now!r}: {words}"]
        return "\n".join([*lines, f"  clips {', '.join(self.clips)}"])


def replay(
    config: Config, workdir: AnyPath, step: int, *, say: Callable[[str], None] = print
) -> Replayed:
    """Runs a step of `metrics.jsonl` again, from the newest whole checkpoint before it.

    Nothing in the workdir is changed. On the same devices and mesh, with the same
    versions, a sound machine gives the same bits.

    Raises:
      ConfigError: if the step is not recorded, or `config` or the data is not the
        run's.
    """
    changed = differences(read_stored(workdir), config, CHANGEABLE)
    if changed:
        raise ConfigError(f"{workdir} holds another run ({'; '.join(changed)})")
    rows = {row["step"]: row for row in read_rows(workdir)}
    if step not in rows:
        known = f"{min(rows)} to {max(rows)}" if rows else "none"
        raise ConfigError(
            f"--replay is {step}, which is no step in {workdir / 'metrics.jsonl'}; "
            f"recorded are {known}, every config.train.log_every-th"
        )
    mesh = make_mesh(config.mesh)
    check_rows(config.train.batch_size, mesh)
    with first_alone("replay"):
        source = open_split(config, prepare_data(config, workdir), "train")
        check_records(workdir, source.manifest)
        tokenizer = prepare_tokenizer(config, workdir, source)
    batches = make_batches(config, mesh, source, tokenizer)
    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir / "checkpoints", keep=1, say=say) as checkpoints,
    ):
        state, start = first_state(config, mesh, checkpoints, before=step)
        train_step = make_train_step(config, mesh)
        batch = sums = None
        iterator = batches.iterate(start)
        for _ in range(start, step):
            batch = next(iterator)
            state, sums = train_step(
                state, place(batch, mesh, rows=config.train.batch_size)
            )
        assert batch is not None  # `start` is before `step`
        assert sums is not None
        found = means(jax.device_get(sums))
    index = np.asarray(batch.index)
    return Replayed(
        step=step,
        start=start,
        recorded={name: rows[step][name] for name in COMPARED},
        # As the log has it: JSON keeps every bit of a number, and has none that is not.
        found={
            name: json.loads(json.dumps(found[name]))
            if math.isfinite(found[name])
            else None
            for name in COMPARED
        },
        clips=tuple(source.entries[i].clip_id for i in index if i >= 0),
    )
