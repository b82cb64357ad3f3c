"""De-identifying a folder whose clips are audited at once: real faces, real speech."""

import dataclasses
import re

import pytest

from deemo_jax.clip import read_deidentified
from deemo_jax.deidentify import audit_faces, pipeline, speakers
from deemo_jax.deidentify import folder as room
from deemo_jax.deidentify.settings import Audit, Mask, Settings, Voice, Words
from deemo_jax.media import iter_frames, mux, write_audio, write_video
from deemo_jax.refusals import Refusal
from tests.deidentify.folders import GOOD, annotate, deidentify_folder


def test_without_the_extra_clips_stay_unaudited_and_later_are_audited(
    raw, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    annotate(raw, {"three": GOOD["three"], "voice": GOOD["voice"]})
    with monkeypatch.context() as patch:
        patch.setattr(audit_faces, "missing", lambda: "dlib is not there: get it")
        summary = deidentify_folder(raw, output)
    assert summary.verdicts == {"unaudited": 2}
    assert "audit: 2 unaudited (dlib is not there: get it)" in summary.describe()
    written = (output / "media" / "three.mp4").read_bytes()

    small = Settings(audit=Audit(longest_side=352))
    summary = deidentify_folder(raw, output, settings=small)
    assert (summary.clips, summary.resumed) == (2, 2)
    assert summary.verdicts == {"passed": 1, "unaudited": 1}
    assert (output / "media" / "three.mp4").read_bytes() == written
    [three, voice], _ = read_deidentified(output)
    assert three.audit["frames_with_face"] == three.audit["frames"] == 3
    assert voice.audit["reasons"] == [
        "its voice was not compared: it has no half a second of speech"
    ]

    monkeypatch.setattr(room, "audit_clip", None)  # figures are there
    strict = Settings(audit=Audit(longest_side=352, seen=1.0))
    assert deidentify_folder(raw, output, settings=strict).verdicts["passed"] == 1
    # What passed another audit than is asked for has to be audited anew.
    monkeypatch.setattr(audit_faces, "missing", lambda: "dlib is not there: get it")
    closer = Settings(audit=Audit(longest_side=352, every=1))
    summary = deidentify_folder(raw, output, settings=closer)
    assert (summary.resumed, summary.verdicts) == (2, {"unaudited": 2})


def test_what_was_made_is_kept_though_its_audit_is_interrupted(
    raw, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    annotate(raw, {"three": GOOD["three"], "other": GOOD["three"]})
    settings = Settings(audit=Audit(longest_side=352))
    audit_clip, audited = room.audit_clip, []

    def interrupted(annotation, *args, **kwargs):
        if audited:
            raise KeyboardInterrupt
        audited.append(annotation.clip_id)
        return audit_clip(annotation, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(room, "audit_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deidentify_folder(raw, output, settings=settings)
    clips, _ = read_deidentified(output)
    verdicts = {clip.annotation.clip_id: clip.verdict for clip in clips}
    assert verdicts == {"three": "passed", "other": "unaudited"}
    monkeypatch.setattr(room, "deidentify_clip", None)  # both are there
    summary = deidentify_folder(raw, output, settings=settings)
    assert (summary.resumed, summary.verdicts) == (2, {"passed": 2})


def test_a_clip_that_fails_its_audit_is_named(raw, tmp_path):
    annotate(raw, {"three": GOOD["three"]})
    settings = Settings(mask=Mask(scale=0.1), audit=Audit(longest_side=352))
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert summary.verdicts == {"failed": 1}
    assert "three failed: 2 of 2 faces are left; no mask is on" in summary.describe()


def test_a_voice_that_is_recognised_fails_and_is_drawn_again(
    raw, tmp_path, monkeypatch, speech
):
    write_audio(raw / "voice.flac", speech)
    annotate(raw, {"voice": {"media": "voice.flac"}})
    settings = Settings(words=Words(transcribe=False))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "another_voice", lambda voice: lambda wave: wave)
        summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert summary.verdicts == {"failed": 1}
    assert re.search(
        r"voice failed: its voice is taken for its original's \((1.00|0.99)\): "
        "run `deemo deidentify` again for other draws",
        summary.describe(),
    )
    for judges in (audit_faces, speakers):  # without which another is not judged
        with monkeypatch.context() as patch:
            patch.setattr(judges, "missing", lambda: "it is not there: get it")
            summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
        assert (summary.resumed, summary.verdicts) == (1, {"failed": 1})
    again = dataclasses.replace(settings, look_again=1)  # which changes no file
    with monkeypatch.context() as patch:
        patch.setattr(audit_faces, "missing", lambda: "it is not there: get it")
        assert deidentify_folder(raw, tmp_path / "output", settings=again).resumed == 1
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert (summary.resumed, summary.verdicts) == (0, {"passed": 1})
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert (summary.resumed, summary.verdicts) == (1, {"passed": 1})


@pytest.mark.parametrize(
    ("voice", "alike", "draws", "verdict"),
    [
        (Voice(), room.DRAWS - 1, room.DRAWS, "passed"),
        (Voice(), 99, room.DRAWS, "failed"),
        # One for everybody gives the same voice again.
        (Voice(method="mcadams", coefficients=(0.8, 0.8)), 99, 1, "failed"),
    ],
)
def test_another_voice_is_drawn_at_once_a_few_times(
    raw, tmp_path, monkeypatch, speech, voice, alike, draws, verdict
):
    """And for nobody else; a clip with one listed once says what it has now."""
    write_audio(raw / "voice.flac", speech)
    annotate(raw, {"three": GOOD["three"], "voice": {"media": "voice.flac"}})
    settings = Settings(
        voice=voice, words=Words(transcribe=False), audit=Audit(longest_side=352)
    )
    drawn, made = [], []
    another_voice, deidentify_clip = pipeline.another_voice, room.deidentify_clip

    def draw(voice):
        drawn.append(voice)
        return another_voice(voice) if len(drawn) > alike else lambda wave: wave

    def make(annotation, *args, **kwargs):
        made.append(annotation.clip_id)
        return deidentify_clip(annotation, *args, **kwargs)

    monkeypatch.setattr(pipeline, "another_voice", draw)
    monkeypatch.setattr(room, "deidentify_clip", make)
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert made == ["three"] + ["voice"] * draws
    assert summary.resumed == 0
    clips, wrong = read_deidentified(tmp_path / "output")
    assert wrong == []
    verdicts = {clip.annotation.clip_id: clip.verdict for clip in clips}
    assert verdicts == {"three": "passed", "voice": verdict}


def test_what_is_made_anew_is_not_of_an_earlier_run(raw, tmp_path, monkeypatch, speech):
    """Though an earlier one, which had no audit, made it."""
    write_audio(raw / "voice.flac", speech)
    annotate(raw, {"voice": {"media": "voice.flac"}})
    settings = Settings(words=Words(transcribe=False))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "another_voice", lambda voice: lambda wave: wave)
        patch.setattr(audit_faces, "missing", lambda: "dlib is not there: get it")
        deidentify_folder(raw, tmp_path / "output", settings=settings)
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert (summary.resumed, summary.verdicts) == (0, {"passed": 1})


def test_what_cannot_be_made_again_is_no_longer_listed(
    raw, tmp_path, monkeypatch, speech
):
    """Its files may be of two draws by then."""
    write_audio(raw / "voice.flac", speech)
    annotate(raw, {"voice": {"media": "voice.flac"}})
    deidentify_clip, made = room.deidentify_clip, []

    def make(*args, **kwargs):
        if made:
            raise Refusal("it is gone", "bring it back")
        made.append(deidentify_clip(*args, **kwargs))
        return made[0]

    monkeypatch.setattr(pipeline, "another_voice", lambda voice: lambda wave: wave)
    monkeypatch.setattr(room, "deidentify_clip", make)
    settings = Settings(words=Words(transcribe=False))
    summary = deidentify_folder(raw, tmp_path / "output", settings=settings)
    assert (summary.clips, summary.rejected) == (0, 1)
    assert read_deidentified(tmp_path / "output") == ([], [])


def test_pictures_and_voice_must_both_pass(
    raw, tmp_path, monkeypatch, speech, carphone
):
    write_audio(raw / "voice.flac", speech[16_000:])
    write_video(raw / "second.mp4", iter_frames(carphone, 0.0, 1.0))
    mux(raw / "second.mp4", raw / "voice.flac", raw / "both.mp4")
    annotate(raw, {"both": {"media": "both.mp4"}})
    settings = Settings(words=Words(transcribe=False), audit=Audit(longest_side=352))
    output = tmp_path / "output"
    with monkeypatch.context() as patch:
        patch.setattr(speakers, "missing", lambda: "CAM++ is not installed")
        summary = deidentify_folder(raw, output, settings=settings)
        [clip], _ = read_deidentified(output)
        assert "audit: 1 unaudited (CAM++ is not installed)" in summary.describe()
        assert clip.audit["reasons"] == [
            "its voice was not compared: CAM++ is not installed"
        ]
    summary = deidentify_folder(raw, output, settings=settings)
    assert (summary.resumed, summary.verdicts) == (1, {"passed": 1})
    [clip], _ = read_deidentified(output)
    assert clip.audit["voice"] < settings.audit.voice
    again = output.with_name("again")
    monkeypatch.setattr(pipeline, "another_voice", lambda voice: lambda wave: wave)
    assert deidentify_folder(raw, again, settings=settings).verdicts == {"failed": 1}
