"""The notebooks show what they ran, nothing of whose machine it was, and still run."""

import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w./:<])/\w[\w.-]*/")  # a path from the root on
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[dict]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_they_stand_in_the_order_in_which_they_are_run():
    assert [path.stem.partition("_")[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@by_name
def test_they_were_run_once_from_above_to_below(path):
    cells = code(path)
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"


@by_name
def test_they_are_small_and_tell_of_no_folder_but_their_own(path):
    assert path.stat().st_size < 600_000
    for cell in code(path):
        for output in cell["outputs"]:
            said = output.get("text", output.get("data", {}).get("text/plain", []))
            assert not ABSOLUTE.findall("".join(said))


@pytest.mark.slow
def test_they_run_one_after_another(tmp_path):
    """Without Jupyter: the cells of a notebook are one script."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for path in NOTEBOOKS:
        script = "\n".join("".join(cell["source"]) for cell in code(path))
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=folder,
            env=os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{path.name}: {done.stderr}"
