"""What a run writes about itself: config, environment, metrics, a bar."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path
import platform
import subprocess
import time
from typing import Any

import jax
from jaxtyping import Float
import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from deemo_jax.checkpoint import MANIFEST
from deemo_jax.chips import chip_of
from deemo_jax.config import Config, ConfigError, differences, read_stored, to_dict
from deemo_jax.distributed import is_first
from deemo_jax.exits import DONE, exit_code_of
from deemo_jax.spool import growing
from deemo_jax.storage import AnyPath, in_bucket, write_whole
from deemo_jax.train.ledger import LEDGER
from deemo_jax.train.wandb_board import WandbBoard, wandb_is_asked_for

# Settings that may change when a run is gone on with. A packed folder may have moved:
# that it holds the same records is checked by its manifest.
CHANGEABLE = (
    r"train\.(steps|log_every|save_every|save_seconds|keep|keep_every|local_\w+)|"
    r"train\.(stall_seconds|max_skipped_steps)|evaluate\..*|mesh\..*|layout\..*|"
    r"data\.(path|workers|prefetch)"
)
# Settings that the corpus and the tokenizer in a workdir follow from.
MADE_FROM = r"seed$|data\.(name|synthetic)|model\.language_model\.vocab_size$"
PACKAGES = (
    "deemo-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
    "numpy", "transformers", "libtpu",
)  # fmt: skip


def say_in(workdir: AnyPath, *, everyone: bool = False) -> Callable[[str], None]:
    """A function that prints a line and adds it, with the time, to `train.log`.

    Of the processes of a run, the first one's does; those of the others are silent,
    unless `everyone` speaks; in a bucket, each of those has a `train.PROCESS.log`.
    """
    process = jax.process_index()
    # Several append to one file, but an object in a bucket is one writer's.
    apart = f".{process}" if in_bucket(workdir) and process else ""
    path = workdir / f"train{apart}.log"

    def say(text: str) -> None:
        if not (everyone or is_first()):
            return
        print(text, flush=True)
        with open(growing(path), "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")

    return say


def adopt_config(config: Config, workdir: AnyPath) -> None:
    """Writes `config.json`, or compares with the one that stands there.

    That one is replaced by `write_config`, when all else that might refuse has not.
    Until a checkpoint is there, all may change but what the files of the workdir were
    made from: `MADE_FROM`.

    Raises:
      ConfigError: if the workdir is that of another run: something other than
        `CHANGEABLE` differs.
    """
    path = workdir / "config.json"
    if path.exists():
        before = read_stored(workdir)
        allowed = CHANGEABLE
        kept = any(workdir.glob(f"checkpoints/*/{MANIFEST}"))
        # Of what is kept on the hosts' own disks, the ledger alone knows here.
        if not kept and not (workdir / LEDGER).exists():
            allowed = rf"(?!{MADE_FROM}).*"
        if changed := differences(before, config, allowed):
            raise ConfigError(
                f"{workdir} holds another run ({'; '.join(changed)}); "
                f"choose another --workdir, or the old settings to go on with it"
            )
        return
    write_config(config, workdir)


def write_config(config: Config, workdir: AnyPath) -> None:
    """Writes `config.json`; the first process does."""
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_dict(config), indent=2) + "\n"
        write_whole(workdir / "config.json", text)


def write_environment(workdir: AnyPath) -> None:
    """Writes `environment.json`: versions, commit (if in a checkout) and devices."""
    devices = jax.devices()
    found = {
        "python": platform.python_version(),
        "versions": {
            name: version
            for name in PACKAGES
            if (version := _version(name)) is not None
        },
        "commit": _commit(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
    }
    write_whole(workdir / "environment.json", json.dumps(found, indent=2) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dispatched:
    """A step under way: its number (from 1), its sums on the device, its records.

    `wishes` are those of all processes, see `preemption.Asked`.
    """

    step: int
    sums: Mapping[str, jax.Array]
    index: np.ndarray
    data_seconds: float
    wishes: Float[Any, "process 3"]


class Metrics:
    """`metrics.jsonl` and boards of a run, from `start` steps on.

    Rows of steps after `start`, and a torn last line, are cut from what a killed run
    left. TensorBoard is written where the package is installed. Every process waits
    for its steps; the first one writes.
    `flops` are the operations of a step (`flops.train_flops`): where the devices' peak
    is known (`chips.CHIPS`), a row says the share of it that they come to, `mfu`.
    """

    def __init__(
        self, workdir: AnyPath, *, start: int, log_every: int, flops: float = 0.0
    ):
        self._flops = flops
        chip = chip_of(jax.devices()[0].device_kind)
        self._peak = None if chip is None else chip.flops * jax.device_count()
        self._file = None
        self._boards: list[Any] = []  # of `board.Board` and its like
        if is_first():
            self._open(workdir, start)
        self._log_every = log_every
        self._finished = self._logged = time.perf_counter()
        self._tokens = 0

    def _open(self, workdir: AnyPath, start: int) -> None:
        path = growing(workdir / "metrics.jsonl")
        lines = _whole_lines(path)
        kept = [line for line in lines if json.loads(line)["step"] <= start]
        write_whole(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if importlib.util.find_spec("tensorboard") is not None:
            from deemo_jax.train.board import Board

            folder = growing(workdir / "tensorboard", folder=True)
            self._boards.append(Board(folder, start=start))
        if wandb_is_asked_for():
            self._boards.append(WandbBoard(workdir))

    def __enter__(self) -> "Metrics":
        """The same."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Closes the files; boards are told how it ended."""
        if self._file is not None:
            self._file.close()
        for board in self._boards:
            board.close(DONE if error is None else exit_code_of(error))

    def finish(self, done: Dispatched) -> dict[str, int | float]:
        """Waits for a step, and logs it if its turn has come, or if it was skipped.

        Loss and accuracy are means over the step's answer tokens; `tokens` counts all
        its tokens but padding; `tokens_per_second` is over the time since the row
        before, which for the first row includes compilation. Of several processes, the
        row names the one whose host was busy for longest before it could wait for the
        devices, and says how long the one in the middle was.
        """
        found = means(jax.device_get(done.sums))
        now = time.perf_counter()
        self._tokens += found["tokens"]
        seconds = now - self._finished
        row = {
            "step": done.step,
            **found,
            "tokens_per_second": self._tokens / (now - self._logged),
            "step_seconds": seconds,
            "data_seconds": done.data_seconds,
        }
        if self._peak is not None:
            row["mfu"] = self._flops / seconds / self._peak
        if len(done.wishes) > 1:
            busy = np.asarray(done.wishes)[:, 2]
            row["slowest_process"] = int(busy.argmax())
            row["slowest_busy_seconds"] = float(busy.max())
            row["median_busy_seconds"] = float(np.median(busy))
        self._finished = now
        if done.step % self._log_every == 0 or row["skipped"]:
            if self._file is not None:
                # JSON has no NaN.
                known = {k: v if math.isfinite(v) else None for k, v in row.items()}
                self._file.write(json.dumps(known) + "\n")
                self._file.flush()
            self.board(done.step, row)
            self._logged, self._tokens = now, 0
        return row

    def board(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the numbers among `values` in TensorBoard and its like."""
        for board in self._boards:
            board.write(step, numbers(values))


@contextlib.contextmanager
def training_bar(
    start: int, steps: int
) -> Iterator[Callable[[Mapping[str, int | float]], None]]:
    """A bar with loss, tokens a second and time left; it is given each finished row."""
    columns = (
        SpinnerColumn(),
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not is_first()) as progress:
        task = progress.add_task(
            "training", total=steps, completed=start, loss=math.nan, speed=0.0
        )

        def show(row: Mapping[str, int | float]) -> None:
            progress.update(
                task,
                completed=row["step"],
                loss=row["loss"],
                speed=row["tokens_per_second"],
            )

        yield show


def means(sums: Mapping[str, Any]) -> dict[str, int | float]:
    """The figures of a step from its sums: means over its answer tokens, and others."""
    values = {name: value.item() for name, value in sums.items()}
    count = max(values["tokens"], 1)
    return {
        "loss": values["loss"] / count,
        "accuracy": values["correct"] / count,
        "learning_rate": values["learning_rate"],
        "grad_norm": values["grad_norm"],
        "tokens": values["row_tokens"],
        "answer_tokens": values["tokens"],
        "skipped": values["skipped"],
    }


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """The numbers in nested groups, by dotted names: `recognition.parsing.accuracy`."""
    found: dict[str, int | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found


def read_rows(workdir: AnyPath) -> list[dict[str, Any]]:
    """The whole rows of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in _whole_lines(workdir / "metrics.jsonl")]


def _whole_lines(path: AnyPath) -> list[str]:
    """The lines of a JSON Lines file that were written to their end."""
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    kept = []
    for line in lines:
        with contextlib.suppress(ValueError):
            json.loads(line)
            if line.endswith("\n"):
                kept.append(line.rstrip("\n"))
    return kept


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file is part of, + if it was changed."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie below somebody else's checkout.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "-uno") else commit
