"""What the files under `launch/` are tried with: the small run of `tests/faults`."""

from pathlib import Path

import pytest

from tests.faults.conftest import launch as launch

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture
def undisturbed(launch, tmp_path):
    """The losses of a run of two processes that `launch/local.sh` started."""

    def run(**changes):
        alone = launch(tmp_path / "undisturbed", 2, 2, **changes)
        assert alone.end() == 0, alone.said
        return alone.workdir

    return run
