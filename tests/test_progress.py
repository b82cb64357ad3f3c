"""Bars on a terminal: one a step, moved by what the steps report."""

import io

from rich.console import Console

from deemo_jax.progress import bars


def test_a_bar_a_description_with_how_far_it_is():
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    with bars(console) as progress:
        progress("packing clips", 3, 4)
        progress("packing clips", 4, 4)
        progress("masking faces", 1, None)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert shown.count("packing clips") == 1
    assert "4/4" in shown
    assert "masking faces" in shown
