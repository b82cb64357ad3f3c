"""Frames a second of a whole folder by two processes, for `configs/deidentify.md`.

On a machine that does nothing else:

    python -m pytest -n 0 -s -m slow tests/deidentify/test_speed.py
"""

import json
import os
import time

import pytest

from deemo_jax.deidentify import audit_faces
from deemo_jax.deidentify.folder import deidentify_folder
from deemo_jax.deidentify.settings import Settings, Words
from deemo_jax.media import mux

CLIPS, SECONDS, WORKERS = 24, 4.0, 2
LEAST = 25  # frames a second: as quick as most of what is filmed


@pytest.mark.slow
@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ, reason="others take the cores: give -n 0"
)
def test_pictures_take_no_longer_than_they_are_shown(
    wolfgang, speech_file, tmp_path, monkeypatch
):
    """A close-up of 640 x 360 with speech; the start of the processes counts, too."""
    source = tmp_path / "raw"
    source.mkdir()
    mux(wolfgang, speech_file, source / "woman.mp4")
    lines = [
        {"clip_id": f"c{i}", "media": "woman.mp4", "subject": "s",
         "start": i % 4 * SECONDS, "end": (i % 4 + 1) * SECONDS}
        for i in range(CLIPS)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (source / "annotations.jsonl").write_text(text)

    def rate(name: str, *, words: bool, audit: bool = False) -> float:
        settings = Settings(words=Words(transcribe=words, silence=words))
        begin = time.perf_counter()
        done = deidentify_folder(
            source, tmp_path / name, settings=settings, workers=WORKERS
        )
        found = done.faces["frames"] / (time.perf_counter() - begin)
        assert (done.clips, done.rejected) == (CLIPS, 0)
        assert done.faces["left"] == 0
        assert audit == (done.unaudited_for is None)
        print(f"{name}: {found:.1f} frames a second")
        return found

    rate("with an audit and words", words=True, audit=True)
    monkeypatch.setattr(audit_faces, "missing", lambda: "left out")
    rate("with words", words=True)
    assert max(rate(f"pictures and voice, {k}", words=False) for k in (1, 2)) > LEAST
