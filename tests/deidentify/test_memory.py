"""What a clip takes of memory does not grow with its length, pictures and voice.

On a machine that does nothing else, two minutes:

    python -m pytest -n 0 -s -m slow tests/deidentify/test_memory.py
"""

import subprocess
import sys
import weakref

import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import Clip
from deemo_jax.deidentify import pipeline, transcript, voice
from deemo_jax.deidentify.pipeline import deidentify_clip, fit
from deemo_jax.deidentify.settings import Audit, Settings, Words
from deemo_jax.media import iter_frames, mux, read_audio, write_audio, write_video

RATE = 16_000
FRAMES_A_SECOND = 2
# Megabytes. Held whole, 240 more seconds would take 320 of frames, and 400 of a voice.
MOST = 80
PEAK = """
import resource, sys
from pathlib import Path
from tests.deidentify.test_memory import deidentified

deidentified(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def deidentified(media, folder, *, redact=False, **kwargs):
    """The clip of a whole file, whose words are written down, too."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    about = Annotation(clip_id="a", media=media.name, subject="s")
    about, _ = fit(Clip(annotation=about, media=media))
    settings = Settings(words=Words(redact=redact), audit=Audit(every=2))
    return deidentify_clip(about, media, folder, settings, **kwargs)


def repeated(frames, count):
    for index in range(count):
        yield index / FRAMES_A_SECOND, frames[index % len(frames)].copy()


@pytest.mark.slow
def test_what_a_process_takes_at_most_is_the_same(wolfgang, speech_file, tmp_path):
    frames = [rgb for _, rgb in iter_frames(wolfgang, 0.0, 2.0)]
    sound = read_audio(speech_file)
    assert sound is not None
    peaks = []
    for seconds in (60, 180, 300):
        write_video(
            tmp_path / "pictures.mp4", repeated(frames, seconds * FRAMES_A_SECOND)
        )
        write_audio(tmp_path / "voice.flac", np.tile(sound, seconds // 30))
        media = tmp_path / f"{seconds}.mp4"
        mux(tmp_path / "pictures.mp4", tmp_path / "voice.flac", media)
        words = [sys.executable, "-c", PEAK, media, tmp_path / f"{seconds}"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout.split()[-1]))
        print(f"{seconds} s: {peaks[-1]:.0f} MB at most")
    assert max(peaks[1:]) - peaks[0] < MOST


def test_frames_are_let_go_of_as_they_are_written(carphone, tmp_path, monkeypatch):
    alive = most = 0

    def gone():
        nonlocal alive
        alive -= 1

    def counted(rgb):
        nonlocal alive, most
        rgb = rgb.copy()  # what has no base is let go of when no part of it is needed
        alive += 1
        most = max(most, alive)
        weakref.finalize(rgb, gone)
        return rgb

    read, paint = pipeline.iter_frames, pipeline.paint
    monkeypatch.setattr(
        pipeline,
        "iter_frames",
        lambda *window: ((time, counted(rgb)) for time, rgb in read(*window)),
    )
    monkeypatch.setattr(pipeline, "paint", lambda *args: counted(paint(*args)))
    frames, found = [rgb for _, rgb in iter_frames(carphone)], []
    for count in (120, 360):
        write_video(tmp_path / f"{count}.mp4", repeated(frames, count))
        clip = deidentified(tmp_path / f"{count}.mp4", tmp_path / f"{count}")
        assert clip.faces["frames_masked"] == clip.faces["frames"] == count
        assert alive == 0
        found.append(most)
    assert found[1] == found[0] < 60


def test_of_a_long_voice_a_piece_is_held_at_a_time(speech, tmp_path, monkeypatch):
    write_audio(tmp_path / "voice.flac", np.tile(speech, 40))  # 160 s
    changed, heard = [], []

    def lower(waveform, rng, drawn):
        changed.append((len(waveform), drawn))
        return waveform / 2

    def transcribe(sound, **kwargs):
        heard.extend(len(piece) for piece in sound)
        in_the_second = transcript.Word("Sheila", 100.0, 100.5)
        return [transcript.Word("words", 0.0, 0.5), in_the_second]

    monkeypatch.setattr(voice, "drift", lower)
    monkeypatch.setattr(transcript, "spoken_words", transcribe)
    told = []
    clip = deidentified(
        tmp_path / "voice.flac", tmp_path, redact=True, progress=told.append
    )
    assert len(told) == 3
    assert told[-1] == pytest.approx(160)  # half of it for its words, before
    assert clip.annotation.transcript == "words [NAME]"
    assert clip.audio is not None
    after = read_audio(clip.audio)
    assert after is not None
    silent = slice(round(99.9 * 16_000), round(100.6 * 16_000))
    lowered = np.tile(speech, 40) / 2
    assert abs(lowered[silent]).max() > 0.01
    lowered[silent] = 0
    np.testing.assert_allclose(after, lowered, atol=1e-4)
    assert len({id(drawn) for _, drawn in changed}) == 1  # one voice for all of it
    assert [length for length, _ in changed] == heard
    assert len(heard) == 3
    assert max(heard) <= 75 * RATE
