"""What the files under `launch/` are tried with: the small run of `tests/faults`."""

from pathlib import Path

import pytest

from tests.faults.conftest import launch as launch

LAUNCH = Path(__file__).parents[2] / "launch"
# For BASH_ENV: the file of this name is asked to stop when it says it starts again.
BETWEEN_STARTS = """
if [[ $0 = */{name} ]]; then
    echo() {{ kill -TERM $$; builtin echo "$@"; }}
fi
"""


@pytest.fixture
def undisturbed(launch, tmp_path):
    """The losses of a run of two processes that `launch/local.sh` started."""

    def run(**changes):
        alone = launch(tmp_path / "undisturbed", 2, 2, **changes)
        assert alone.end() == 0, alone.said
        return alone.workdir

    return run
