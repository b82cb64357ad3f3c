"""Checkpoints on the disks of the hosts: often and fast, for a restart in place.

What is kept durably (`checkpoint.py`) is written by all processes to one place, which
all can reach. Here each process writes what its own devices hold to a disk of its own
host, and reads it back after a restart with the same processes, mesh and model. When a
host is lost, or anything else differs, the newest durable checkpoint serves.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import hashlib
import json
from pathlib import Path
import secrets
import shutil
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from deemo_jax.distributed import exchange, is_first
from deemo_jax.storage import AnyPath, checksum, write_whole

RUN_ID = "run_id"
KEPT = 2  # while the newer one is written, the older one is whole
NONE = -1  # in place of a step


class LocalCheckpoints:
    """Checkpoints of this process's shards, `FOLDER/RUN_ID/PROCESS/STEP.safetensors`.

    Beside each lies `STEP.json` with its checksum and with what it fits; it is written
    last. Processes may share a folder, and so may runs. Used as a context, it waits at
    its end for what is being written.

    Args:
      folder: on a disk of this host; None keeps none.
      workdir: of the run, whose `run_id` keeps runs apart.
    """

    def __init__(self, folder: Path | None, workdir: AnyPath):
        self.restored = False  # whether the run goes on from one of these
        self._folder = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="local")
        self._pending: Future[None] | None = None
        if folder is not None:
            run_id = (workdir / RUN_ID).read_text(encoding="utf-8").strip()
            self._folder = folder / run_id / str(jax.process_index())

    def __enter__(self) -> "LocalCheckpoints":
        """The same."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being written."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def wait(self) -> None:
        """Returns when nothing is being written; raises what went wrong meanwhile."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises what went wrong with the save under way; it does not wait for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def save(self, step: int, items: Mapping[str, Any]) -> None:
        """Keeps this process's shards of pytrees of arrays under `step`.

        It returns when they are copied to the host, and waits for the save before.
        """
        if self._folder is None:
            return
        self.wait()
        shards = {
            _name(path, shard.index): shard.data
            for path, leaf in _leaves(items)
            for shard in leaf.addressable_shards
        }
        # Copies on several devices have one name, and are kept once.
        arrays = jax.device_get(shards)
        self._pending = self._pool.submit(self._write, step, arrays, _fits(items))

    def _write(self, step: int, arrays: dict[str, np.ndarray], fits: str) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{step}.safetensors"
        beside = path.with_suffix(".partial")
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, beside)
        digest = checksum(beside)
        path.with_suffix(".json").unlink(missing_ok=True)
        beside.replace(path)
        entry = {"step": step, "checksum": digest, "fits": fits}
        write_whole(path.with_suffix(".json"), json.dumps(entry) + "\n")
        for old in sorted(self._steps())[:-KEPT]:
            self._remove(old)

    def newest(self, abstract: Mapping[str, Any]) -> int | None:
        """The newest step of which every process has its shards, whole and fitting.

        `abstract` is as for `Checkpoints.restore`.
        """
        if self._folder is None:
            return None
        fits = _fits(abstract)
        left = sorted(self._steps(), reverse=True)
        while True:
            while left and not self._is_whole(left[0], fits):
                left.pop(0)
            mine = np.array([left[0] if left else NONE], np.float32)
            everyones = np.asarray(exchange(mine))
            oldest = int(everyones.min())
            if oldest == NONE:
                return None
            if (everyones == oldest).all():
                return oldest
            left = [step for step in left if step <= oldest]

    def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The pytrees of a step that `newest` found, in the shardings asked for."""
        assert self._folder is not None
        self.restored = True
        with safe_open(self._folder / f"{step}.safetensors", framework="np") as file:

            def read(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
                return jax.make_array_from_callback(
                    leaf.shape,
                    leaf.sharding,
                    lambda index: file.get_tensor(_name(path, index)),
                )

            flat = [read(path, leaf) for path, leaf in _leaves(abstract)]
        return jax.tree.unflatten(jax.tree.structure(abstract), flat)

    def drop_after(self, step: int) -> None:
        """Removes what was kept of later steps; the run goes on from `step`.

        Else, of a step that is done twice, hosts could hold parts of both times.
        """
        if self._folder is not None:
            for later in self._steps():
                if later > step:
                    self._remove(later)

    def forget(self) -> None:
        """Removes all that this process has kept of the run."""
        self.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _remove(self, step: int) -> None:
        assert self._folder is not None
        for suffix in (".json", ".safetensors"):  # what says that it is whole, first
            (self._folder / f"{step}{suffix}").unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        assert self._folder is not None
        return [int(path.stem) for path in self._folder.glob("*.json")]

    def _is_whole(self, step: int, fits: str) -> bool:
        assert self._folder is not None
        path = self._folder / f"{step}.safetensors"
        try:
            entry = json.loads(path.with_suffix(".json").read_bytes())
            return entry["fits"] == fits and entry["checksum"] == checksum(path)
        except (OSError, ValueError, KeyError, TypeError):
            return False


def make_run_id(workdir: AnyPath) -> None:
    """Writes a name of its own into a workdir that has none; the first process does."""
    if is_first() and not (workdir / RUN_ID).exists():
        write_whole(workdir / RUN_ID, secrets.token_hex(8) + "\n")


def _leaves(items: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found, _ = jax.tree_util.tree_flatten_with_path(dict(items))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in found]


def _name(path: str, index: tuple[slice, ...] | None) -> str:
    return path + ",".join(f"{part.start or 0}:{part.stop}" for part in index or ())


def _fits(items: Mapping[str, Any]) -> str:
    """A digest of what this process's devices hold: of which arrays which parts."""
    held = [f"process {jax.process_index()} of {jax.process_count()}"]
    for path, leaf in _leaves(items):
        at = leaf.sharding.addressable_devices_indices_map(leaf.shape)
        held += [f"{leaf.dtype}{leaf.shape}{_name(path, i)}" for i in at.values()]
    return hashlib.sha256("\n".join(held).encode()).hexdigest()
