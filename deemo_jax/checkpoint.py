"""Checkpoints that are whole or do not count: Orbax's files, then a manifest."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import json
import math
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from deemo_jax.config import ConfigError
from deemo_jax.distributed import broadcast, exchange, is_first, meet
from deemo_jax.storage import (
    SEEN_SECONDS,
    AnyPath,
    checksum,
    files_below,
    remove_folder,
    write_whole,
)

MANIFEST = "manifest.json"
BEST = "best.json"
NONE = -1  # in place of a step
SEAL_SECONDS = 4 * 3600  # the watchdog, which is sooner, names who does not get on
FORMAT = "deemo-checkpoint/1"
# Of an array that several devices hold, each writes a slice, if it is as large as this.
# Orbax slices all arrays unless told: a program to compile for every shape, and a file
# operation for every slice, which for small ones takes longer than to write them.
SLICE_BYTES = 16 * 2**20


def _register() -> None:
    """Has Orbax handle arrays as said above."""
    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SLICE_BYTES
    )
    said = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it warns of what is meant
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    logging.set_verbosity(said)


_register()


class Checkpoints:
    """The checkpoints of a run, `FOLDER/STEP/`, saved while the training goes on.

    A checkpoint is a group of named pytrees (`params`, `opt_state`), each in a folder
    of its own, so that one can be read without the others. Orbax writes the files in
    the background; when all are there, `manifest.json` with the checksum of each is
    written beside them, and before a restore each is compared: the processes share the
    files, and in a bucket the store knows the checksums. A checkpoint without manifest,
    or with a file that is not what the manifest says, does not count.

    The newest `keep` checkpoints are kept, those of every `keep_every`-th step, if that
    is not 0, and the `Best`. `say` is told, in words, what is passed over or cleared
    away. Used as a context, it waits at its end for what is being written.
    """

    def __init__(
        self,
        folder: AnyPath,
        *,
        keep: int,
        keep_every: int = 0,
        say: Callable[[str], None] = print,
    ):
        # Orbax takes no others; in a bucket all are.
        self.folder = folder.absolute() if isinstance(folder, Path) else folder
        self._keep = keep
        self._keep_every = keep_every
        self._say = say
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        """The same."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being written, and lets go of the threads."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._orbax.close()

    def save(self, step: int, items: Mapping[str, Any]) -> None:
        """Saves pytrees of arrays under `step`; what stood there is replaced.

        It returns when the arrays are copied, before they are written: they may be
        given to a donating function at once. It waits for the save before this one.
        """
        self.wait()
        path = self.folder / str(step)
        if is_first():
            # The manifest goes first: what is half removed must not count.
            (path / MANIFEST).unlink(missing_ok=True)
        trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._orbax.save(path, args=ocp.args.Composite(**trees), force=True)
        self._pending = self._pool.submit(self._seal, step)

    def enter_best(self, entry: Mapping[str, Any]) -> None:
        """Writes `best.json` when the checkpoint under way, if there is one, is whole.

        It returns at once; the first process writes.
        """
        before = self._pending

        def write() -> None:
            if before is not None:
                before.result()
            if is_first():
                write_whole(self.folder / BEST, json.dumps(entry) + "\n")

        self._pending = self._pool.submit(write)

    def wait(self) -> None:
        """Returns when nothing is being written; raises what went wrong meanwhile."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises what went wrong with the save under way; it does not wait for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def newest(self, *, before: int | None = None, after: int = NONE) -> int | None:
        """The step of the newest whole checkpoint; those passed over are named.

        Those of step `before` and later, if it is not None, and those up to step
        `after` are left out.
        """
        self.wait()
        asked = iter(self._candidates(before, after) if is_first() else [])
        # The first process says which are there; what any finds holds for all.
        while (step := broadcast(next(asked, NONE))) != NONE:
            path = self.folder / str(step)
            share = (jax.process_index(), jax.process_count())
            _wait_until_seen(path / MANIFEST)
            fault = find_fault(path, share=share)
            if not np.asarray(
                exchange(np.array([fault is not None], np.float32))
            ).any():
                return step
            if is_first():  # for the words, if it was not the one that found it
                self._say(f"checkpoint {path} is passed over: {find_fault(path)}")
        return None

    def _candidates(self, before: int | None, after: int) -> list[int]:
        """The steps that were sealed, newest first; the others are named."""
        found = []
        for step in sorted(_steps(self.folder), reverse=True):
            if step <= after or (before is not None and step >= before):
                continue
            if (self.folder / str(step) / MANIFEST).exists():
                found.append(step)
                continue
            path = self.folder / str(step)
            self._say(f"checkpoint {path} is passed over: {find_fault(path)}")
        return found

    def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The pytrees of a checkpoint that are asked for, in the shardings asked for.

        Args:
          step: of a checkpoint that `newest` found whole.
          abstract: like the items that were saved, or some of them, with a
            `jax.ShapeDtypeStruct` that has a sharding in place of each array; the mesh
            need not be that of the save.

        Raises:
          ValueError: if a pytree is not built as the one that was saved.
        """
        self.wait()
        trees = {
            name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()
        }
        path = self.folder / str(step)
        try:
            restored = self._orbax.restore(path, args=ocp.args.Composite(**trees))
        except (ValueError, KeyError, TypeError) as error:
            said = str(error).partition("\n")[0].partition(". ")[0]
            raise ValueError(
                f"checkpoint {path} is of another model, stage or optimizer than "
                f"config describes ({said}); give the run its own checkpoints back, or "
                f"begin in a new --workdir with config.init_from"
            ) from error
        return {name: restored[name] for name in abstract}

    def clear_remains(self) -> None:
        """Removes what a killed save left behind; the first process does."""
        if not is_first():
            return
        unfinished = sorted(self.folder.glob("*.orbax-checkpoint-tmp*"))
        sealed = self.sealed()
        # In a bucket, and between Orbax's end and the seal, they have no such name.
        unfinished += [
            self.folder / str(step)
            for step in sorted(_steps(self.folder))
            if step not in sealed and step < max(sealed, default=NONE)
        ]
        for path in unfinished:
            self._say(f"{path}, an unfinished checkpoint, is removed")
            remove_folder(path)

    def _seal(self, step: int) -> None:
        """Waits for Orbax, writes the manifest, and removes checkpoints out of date."""
        self._orbax.wait_until_finished()
        if is_first():
            write_manifest(self.folder / str(step), step)
            self._remove_old(step)
        # The first one may hash for minutes: had others ended, JAX would end it.
        meet(f"sealed {step} of {self.folder}", seconds=SEAL_SECONDS)

    def sealed(self) -> list[int]:
        """The steps of checkpoints that were finished, whole or not by now."""
        return [
            step for step in _steps(self.folder)
            if (self.folder / str(step) / MANIFEST).exists()
        ]  # fmt: skip

    def _remove_old(self, step: int) -> None:
        # Later ones were passed over when the run resumed: they are no reason to remove
        # a good one.
        whole = [each for each in self.sealed() if each <= step]
        best = read_best(self.folder)
        for old in sorted(whole)[: -self._keep]:
            if self._keep_every and old % self._keep_every == 0:
                continue
            if best is not None and best["step"] == old:
                continue
            (self.folder / str(old) / MANIFEST).unlink()
            remove_folder(self.folder / str(old))


class Best:
    """`best.json` of checkpoints: the one that an evaluation found best, kept for good.

    Args:
      checkpoints: of the run.
      metric: the name of a number that evaluations give, of which more is better; ""
        means that none is kept for that. The best one before is kept no longer.
      start: the step that the run goes on from: what was found of later ones will be
        found again.
    """

    def __init__(self, checkpoints: Checkpoints, metric: str, *, start: int = 0):
        self._checkpoints = checkpoints
        self._metric = metric
        self._value = -math.inf
        found = read_best(checkpoints.folder)
        # Of another metric, it says nothing.
        if found is not None and found["metric"] == metric and found["step"] <= start:
            self._value = found["value"]

    def beaten(self, step: int, numbers: Mapping[str, int | float]) -> bool:
        """Whether the evaluation of `step` gave more than any before.

        Raises:
          ConfigError: if it gave no number of that name.
        """
        if not self._metric:
            return False
        if self._metric not in numbers:
            raise ConfigError(
                f"config.evaluate.best is {self._metric!r}, which the evaluation of "
                f"step {step} does not give; it gives {', '.join(sorted(numbers))}"
            )
        return numbers[self._metric] > self._value

    def enter(self, step: int, numbers: Mapping[str, int | float]) -> None:
        """Makes the checkpoint of `step`, saved or being saved, the best one."""
        self._value = numbers[self._metric]
        entry = {"step": step, "metric": self._metric, "value": self._value}
        self._checkpoints.enter_best(entry)


def read_best(folder: AnyPath) -> dict[str, Any] | None:
    """What `best.json` says: `step`, `metric` and `value`; None if there is none."""
    path = folder / BEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_manifest(path: AnyPath, step: int) -> None:
    """Writes the checksum of every file below `path`; from now on they are final."""
    files = {name: checksum(path / name) for name in _names(path)}
    manifest = {"format": FORMAT, "step": step, "files": files}
    write_whole(path / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def find_fault(path: AnyPath, *, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with a checkpoint, in words; None if every byte is as written.

    Of `share` (i, n), the bytes of every n-th file from the i-th on are compared.
    """
    if not (path / MANIFEST).exists():
        return f"it has no {MANIFEST}, so its save did not finish"
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        written, step = manifest["files"], manifest["step"]
        files = dict(written)
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is damaged"
    if manifest.get("format") != FORMAT or str(step) != path.name:
        return f"its {MANIFEST} is damaged, or that of another checkpoint"
    found = set(_names(path))
    names = sorted(files.keys() | found)
    for name in names:
        if name not in found:
            return f"its file {name} is missing"
        if name not in files:
            return f"its file {name} is not in its {MANIFEST}"
    for name in names[share[0] :: share[1]]:
        try:
            found_sum = checksum(path / name, like=files[name])
        except OSError as error:
            return f"its file {name} cannot be read ({error.strerror or error})"
        if files[name] != found_sum:
            return f"its file {name} is damaged: not the checksum in its {MANIFEST}"
    return None


def _wait_until_seen(path: AnyPath) -> None:
    """Waits for a file that another process sees: network file systems are late."""
    until = time.monotonic() + SEEN_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)


def _names(path: AnyPath) -> list[str]:
    beside = f".{MANIFEST}.partial"
    return [name for name in files_below(path) if name not in (MANIFEST, beside)]


def _steps(folder: AnyPath) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
