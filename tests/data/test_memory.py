"""A worker's memory is taken from the system once."""

import multiprocessing
import platform
import resource

import numpy as np
import pytest

from deemo_jax.data.memory import keep_freed_memory

MEGABYTE = 2**20


def pages_cleared(keep: bool) -> int:
    """How often the system had to give a page, while a block was taken ten times."""
    if keep:
        keep_freed_memory()
    blocks = [np.ones(MEGABYTE, np.uint8) for _ in range(4)]
    del blocks
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [np.ones(MEGABYTE, np.uint8) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")
def test_freed_blocks_are_used_again(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)  # huge pages are few
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        kept = pool.apply(pages_cleared, (True,))
        given_back = pool.apply(pages_cleared, (False,))
    assert kept < given_back / 10
