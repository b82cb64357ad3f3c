"""TensorBoard's files, as TensorBoard's own reader reads them."""

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from deemo_jax.train.board import Board


def events(folder):
    """Every event of the files in a folder, in order."""
    [path] = folder.iterdir()
    return list(LegacyEventFileLoader(str(path)).Load())


def test_numbers_stand_under_their_names(tmp_path):
    board = Board(tmp_path / "tensorboard", start=4)
    board.write(5, {"step": 5, "loss": 0.5, "recognition.parsing.accuracy": 1})
    board.close(0)
    version, began, shown = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert began.step == 5
    assert began.session_log.status == 1  # START: what was shown of later steps goes
    assert shown.step == 5
    values = {value.tag: value.simple_value for value in shown.summary.value}
    assert values == {"loss": 0.5, "recognition.parsing.accuracy": 1.0}


def test_a_disk_that_is_full_is_told_at_once(tmp_path, monkeypatch):
    board = Board(tmp_path, start=0)

    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(board._events, "flush", full)
        with pytest.raises(OSError, match="No space left"):
            board.write(1, {"loss": 0.5})
    board.close(0)
