import fcntl
import functools
import json
import os
import shutil

import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import read_deidentified
from deemo_jax.config import ConfigError
from deemo_jax.deidentify import audit_faces, redaction, transcript
from deemo_jax.deidentify import folder as room
from deemo_jax.deidentify.jobs import do_all
from deemo_jax.deidentify.pipeline import VERSION
from deemo_jax.deidentify.settings import Mask, Settings, Words
from deemo_jax.deidentify.words import REDACTED, SILENCED
from deemo_jax.media import mux, read_audio, write_audio, write_video
from deemo_jax.refusals import Rejection
from deemo_jax.storage import StorageError
from tests.deidentify.folders import GOOD, annotate, deidentify_folder, read_lines

METHODS = f"centerface+drift/{VERSION}"  # those of the defaults


@pytest.fixture(autouse=True)
def _no_audit(monkeypatch):
    """Most of these tests are of what is de-identified: nothing looks at it again."""
    monkeypatch.setattr(audit_faces, "missing", lambda: "dlib-bin is not installed")


BAD = {
    "empty": ({"media": "empty.mp4"}, "empty.mp4 is empty"),
    "text": ({"media": "text.mp4"}, "text.mp4 cannot be read as media"),
    "cut": ({"media": "cut.mp4"}, "cut.mp4 is cut off"),
    "tail": ({"media": "tail.mp4"}, "tail.mp4 cannot be read as media"),
    "missing": ({"media": "none.mp4"}, "there is no file 'none.mp4'"),
    "label": ({"emotion": "joyful"}, "emotion 'joyful'"),
    "before": ({"start": 0.4, "end": 0.2}, "end 0.2 is not after start 0.4"),
    "late": ({"start": 7}, "start 7 is after the media's end at 0.50 s"),
    "long": ({"end": 7}, "end 7 is after the media's end at 0.50 s"),
    "climb": ({"media": "../outside.mp4"}, "leads out of the folder"),
    "link": ({"media": "link.mp4"}, "leads out of the folder"),
    "withdrawn": ({"consent": "withdrawn"}, "consent is withdrawn"),
}


def test_what_is_refused_is_listed_and_the_rest_goes_on(raw, tmp_path):
    output = tmp_path / "output"
    bad = {clip_id: fields for clip_id, (fields, _) in BAD.items()}
    second = '{"clip_id": "face", "media": "three.mp4", "subject": "t"}'
    annotate(raw, bad | GOOD, second, '{"clip_id": "torn", "med')
    summary = deidentify_folder(raw, output)

    assert (summary.clips, summary.resumed, summary.rejected) == (3, 0, len(BAD) + 2)
    rejected = read_lines(output / "rejected.jsonl")
    assert all(line["remedy"] for line in rejected)
    reasons = {
        line.get("clip_id", line.get("line")): line["reason"] for line in rejected
    }
    for clip_id, (_, reason) in BAD.items():
        assert reason in reasons[clip_id]
    assert "already stands on line 13" in reasons["face"]
    assert "malformed JSON" in reasons[len(BAD) + 5]

    clips, rejections = read_deidentified(output)
    assert [clip.annotation.clip_id for clip in clips] == list(GOOD)
    assert rejections == []
    assert [clip.annotation.subject for clip in clips] == ["s", "s", "s"]
    assert sorted(path.name for path in (output / "media").iterdir()) == [
        "face.mp4", "three.mp4", "voice.flac",
    ]  # fmt: skip
    assert summary.faces["frames"] == summary.faces["frames_with_face"] == 18
    assert summary.faces["left"] == 0
    assert summary.seconds == pytest.approx(0.5 + 0.1 + 1.0, abs=0.01)
    assert "18 found in 18 of 18 frames, 0 left" in summary.describe()


def test_several_processes_write_what_one_writes(raw, tmp_path):
    """But for the voice, which is another one each time."""
    bad = {clip_id: BAD[clip_id][0] for clip_id in ("cut", "long")}
    annotate(raw, bad | GOOD)
    found, told = [], []
    for workers in (1, 3):
        output = tmp_path / str(workers)
        summary = deidentify_folder(
            raw, output, workers=workers, progress=lambda *said: told.append(said)
        )
        pictures = [
            (output / "media" / f"{name}.mp4").read_bytes()
            for name in ("face", "three")
        ]
        lines = read_lines(output / "deidentified.jsonl")
        for line in lines:
            line["sha256"].pop("audio", None)
        found.append((summary, pictures, lines, read_lines(output / "rejected.jsonl")))
    assert found[0] == found[1]
    assert found[0][0].clips == 3
    assert told[-1][1:] == (1, 2)  # whole seconds
    assert deidentify_folder(raw, output, workers=3).resumed == 3


def test_a_clip_that_a_process_refuses_is_listed(tmp_path):
    """It was sound when it was looked at, and is gone when it is read."""
    about = Annotation(clip_id="three", media="gone.mp4", subject="s", end=1.0)
    job = room._Job(
        annotation=about, media=tmp_path / "gone.mp4", output=tmp_path,
        settings=Settings(), source="",
    )  # fmt: skip
    work = functools.partial(room._deidentify, 1)
    [refused] = do_all(work, [job], workers=1, what="", progress=None)
    assert isinstance(refused, Rejection)
    assert refused.clip_id == "three"
    assert "there is no file gone.mp4" in refused.reason


def test_the_output_is_a_folder_of_clips_itself(raw, tmp_path):
    annotate(raw, GOOD)
    deidentify_folder(raw, tmp_path / "output")
    rows = read_lines(tmp_path / "output" / "annotations.jsonl")
    assert [
        (row["media"], row.get("transcript"), row.get("split")) for row in rows
    ] == [
        ("media/face.mp4", "We won.", None),
        ("media/three.mp4", None, None),
        ("media/voice.flac", None, "test"),
    ]
    again = deidentify_folder(tmp_path / "output", tmp_path / "twice")
    assert (again.clips, again.rejected) == (3, 0)


def test_no_name_of_a_raw_file_is_left(raw, tmp_path):
    (raw / "face.mp4").rename(raw / "jane_doe.mp4")
    annotate(raw, {"a": {"media": "jane_doe.mp4"}})
    deidentify_folder(raw, tmp_path / "output")
    for path in (tmp_path / "output").rglob("*"):
        assert "jane" not in path.name
        assert path.is_dir() or b"jane" not in path.read_bytes()


def test_no_name_that_was_said_is_left(raw, tmp_path, speech_file):
    sound = read_audio(speech_file, 13.0, 22.0)
    assert sound is not None
    write_audio(raw / "talk.flac", sound)
    given = {"transcript": "Thank you Priya!", "reasoning": "Priya smiles in Chicago."}
    annotate(raw, {"talk": {"media": "talk.flac"}, "face": given})
    summary = deidentify_folder(raw, tmp_path / "output")
    for path in (tmp_path / "output").rglob("*.*"):
        for name in (b"Priya", b"Diane", b"Sheila", b"Jersey", b"Texas", b"Chicago"):
            assert name not in path.read_bytes(), path
    clips, _ = read_deidentified(tmp_path / "output")
    assert "originally from [PLACE]" in (clips[0].annotation.transcript or "")
    assert clips[1].annotation.transcript == "Thank you [NAME]!"
    assert clips[1].annotation.reasoning == "[NAME] smiles in [PLACE]."
    assert clips[1].words["NAME"] == 2
    made = {METHODS + REDACTED + SILENCED}
    assert {clip.deidentification for clip in clips} == made
    assert summary.words["transcribed"] == 1
    assert f"{summary.words['NAME']} names" in summary.describe()

    assert deidentify_folder(raw, tmp_path / "output").resumed == 2
    kept = Settings(words=Words(redact=False))
    assert deidentify_folder(raw, tmp_path / "output", settings=kept).resumed == 0
    clips, _ = read_deidentified(tmp_path / "output")
    assert clips[1].annotation.transcript == "Thank you Priya!"
    assert {clip.deidentification for clip in clips} == {METHODS}


@pytest.mark.parametrize("lost", [transcript, redaction])
def test_where_names_cannot_be_told_nothing_is_made(
    raw, tmp_path, speech_file, monkeypatch, lost
):
    """Nor made anew, however often it is asked for, and whatever is missing."""
    sound = read_audio(speech_file, 13.0, 22.0)
    assert sound is not None
    write_audio(raw / "talk.flac", sound)
    output = tmp_path / "output"
    annotate(raw, {"talk": {"media": "talk.flac"}, "three": GOOD["three"]})
    summary = deidentify_folder(raw, output)
    assert summary.words["silenced"] > 4
    audio = output / "media" / "talk.flac"
    with monkeypatch.context() as patch:
        patch.setattr(lost, "CARRIER", ("no-such-distribution", "model"))
        with pytest.raises(ValueError, match="not installed"):
            deidentify_folder(raw, tmp_path / "without")
        assert not [p for p in (tmp_path / "without").rglob("*") if p.is_file()]
        gone = GOOD["three"] | {"consent": "withdrawn"}
        changed = {"media": "talk.flac", "emotion": "positive"}
        annotate(raw, {"talk": changed, "three": gone})
        audio.unlink()
        three = output / "media" / "three.mp4"
        assert three.exists()
        with pytest.raises(ValueError, match="not installed"):
            deidentify_folder(raw, output)
        assert not three.exists()  # consent comes first
        for name in ("deidentified.jsonl", "annotations.jsonl"):
            text = (output / name).read_text()
            assert ('"talk"' in text, '"three"' in text) == (True, False)
        before = {p: p.read_bytes() for p in output.rglob("*.*")}
        for _ in range(2):
            with pytest.raises(ValueError, match="not installed"):
                deidentify_folder(raw, output)
        assert before == {p: p.read_bytes() for p in output.rglob("*.*")}
    assert deidentify_folder(raw, output).words["silenced"] > 4


def test_a_redactor_that_is_none_ends_the_run_and_loses_nothing(raw, tmp_path, speech):
    """Pictures are not masked anew, either."""
    output = tmp_path / "output"
    write_audio(raw / "voice.flac", speech[:16_000])
    mux(raw / "face.mp4", raw / "voice.flac", raw / "both.mp4")
    annotate(raw, {"both": {"media": "both.mp4", "transcript": "Priya won."}})
    deidentify_folder(raw, output)
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    (tmp_path / "none").mkdir()
    for words, why in (
        (
            Words(redactor=str(tmp_path / "none")),
            "cannot be read as a pipeline of spaCy",
        ),
        (Words(model=str(tmp_path / "none")), "cannot be read as CTranslate2 weights"),
    ):
        (tmp_path / "none" / "model.bin").write_bytes(b"nothing")
        anew = Settings(words=words, mask=Mask(method="solid"))
        with pytest.raises(ConfigError, match=why):
            deidentify_folder(raw, output, settings=anew)
        assert before == {path: path.read_bytes() for path in output.rglob("*.*")}


def test_a_second_run_does_nothing(raw, tmp_path):
    annotate(raw, GOOD)
    deidentify_folder(raw, tmp_path / "output")
    before = {path: path.read_bytes() for path in tmp_path.rglob("output/**/*.*")}
    times = {path: path.stat().st_mtime_ns for path in before if "media" in path.parts}
    summary = deidentify_folder(raw, tmp_path / "output")
    assert (summary.clips, summary.resumed) == (3, 3)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("output/**/*.*")}
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_an_interrupted_run_goes_on_where_it_was(raw, tmp_path, monkeypatch):
    annotate(raw, GOOD)
    output = tmp_path / "output"
    real, done = room.deidentify_clip, []

    def failing(annotation, *rest, **keywords):
        if annotation.clip_id == "voice" and not (output / "again").exists():
            (output / "media" / ".gone.mp4.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(annotation.clip_id)
        return real(annotation, *rest, **keywords)

    monkeypatch.setattr(room, "deidentify_clip", failing)
    with pytest.raises(KeyboardInterrupt):
        deidentify_folder(raw, output, workers=1)
    with open(output / "deidentified.jsonl", "a") as file:
        file.write('{"annotation": {"clip_id": "voi')  # torn by the interruption
    (output / "again").touch()
    summary = deidentify_folder(raw, output, workers=1)
    assert done == ["face", "three", "voice"]
    assert (summary.clips, summary.resumed) == (3, 2)
    assert [c.annotation.clip_id for c in read_deidentified(output)[0]] == list(GOOD)
    assert read_deidentified(output)[1] == []
    assert not list((output / "media").glob(".*"))


def test_what_changed_is_done_anew(raw, tmp_path):
    output = tmp_path / "output"
    annotate(raw, GOOD)
    deidentify_folder(raw, output)
    annotate(raw, GOOD | {"three": {"media": "three.mp4", "emotion": "negative"}})
    shutil.copy(raw / "three.mp4", raw / "face.mp4")
    (output / "media" / "voice.flac").write_bytes(b"edited")
    summary = deidentify_folder(raw, output)
    assert (summary.clips, summary.resumed) == (3, 0)
    clips, rejections = read_deidentified(output)
    assert [clip.faces.get("frames") for clip in clips] == [3, 3, None]
    assert clips[1].annotation.emotion == "negative"
    assert rejections == []
    other = Settings(mask=Mask(method="solid"))
    assert deidentify_folder(raw, output, settings=other).resumed == 0


def test_withdrawn_consent_deletes_what_was_written(raw, tmp_path):
    output = tmp_path / "output"
    annotate(raw, GOOD)
    deidentify_folder(raw, output)
    (output / "audit").mkdir()
    (output / "audit" / "report.html").write_text("pictures")
    annotate(raw, GOOD | {"face": {"consent": "withdrawn"}})
    assert deidentify_folder(raw, output).clips == 2
    assert not (output / "media" / "face.mp4").exists()
    assert not (output / "audit").exists()
    text = (output / "deidentified.jsonl").read_text()
    assert '"face"' not in text
    assert "We won" not in text + (output / "annotations.jsonl").read_text()


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({"media": "gone.mp4", "consent": "withdrawn"}, ()),
        ({"emotion": "joyful", "consent": "withdrawn"}, ()),
        ({"media": "../outside.mp4", "misspelt": 1, "consent": "withdrawn"}, ()),
        ({}, ('{"clip_id": "face", "consent": "withdrawn"}',)),
    ],
)
def test_withdrawn_consent_comes_before_every_other_fault(raw, tmp_path, fields, lines):
    output = tmp_path / "output"
    annotate(raw, GOOD)
    deidentify_folder(raw, output)
    annotate(raw, GOOD | {"face": fields}, *lines)
    assert deidentify_folder(raw, output).clips == 2
    assert not (output / "media" / "face.mp4").exists()
    for name in ("deidentified.jsonl", "annotations.jsonl"):
        assert '"face"' not in (output / name).read_text()
    rejected = read_lines(output / "rejected.jsonl")
    assert {line["clip_id"] for line in rejected} == {"face"}
    assert {line["reason"] for line in rejected} == {"consent is withdrawn"}


def test_a_withdrawn_id_that_climbs_deletes_nothing(raw, tmp_path):
    annotate(raw, {"../../outside": {"consent": "withdrawn"}})
    (tmp_path / "output" / "media").mkdir(parents=True)
    deidentify_folder(raw, tmp_path / "output")
    assert (tmp_path / "outside.mp4").exists()


def test_frames_in_which_nothing_was_masked_are_told(raw, tmp_path):
    grey = np.full((48, 64, 3), 127, np.uint8)
    write_video(raw / "none.mp4", ((i / 10, grey) for i in range(4)))
    annotate(raw, GOOD | {f"none{i}": {"media": "none.mp4"} for i in range(7)})
    summary = deidentify_folder(raw, tmp_path / "output")
    assert (summary.clips, summary.rejected) == (10, 0)
    assert summary.unmasked == tuple(f"none{i}" for i in range(7))
    text = summary.describe()
    assert "no face was known of in 28 frames" in text
    assert "none4 and 2 more clips" in text
    annotate(raw, GOOD)
    assert "no face was" not in deidentify_folder(raw, tmp_path / "output").describe()


def test_while_another_process_writes_to_it_nothing_of_it_is_touched(raw, tmp_path):
    annotate(raw, {"three": GOOD["three"]})
    output = tmp_path / "output"
    (output / "media").mkdir(parents=True)
    partial = output / "media" / ".face.mp4.partial"
    partial.touch()
    handle = os.open(output, os.O_RDONLY)  # a lock is of what was opened
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StorageError, match="being written to by another process"):
        deidentify_folder(raw, output)
    os.close(handle)
    assert partial.exists()
    assert deidentify_folder(raw, output).clips > 0
    assert not partial.exists()


def test_a_list_of_nothing_drops_nothing(raw, tmp_path):
    """It is a slip rather than the wish to have none."""
    annotate(raw, {"three": GOOD["three"]})
    deidentify_folder(raw, tmp_path / "output")
    listed = (tmp_path / "output" / "deidentified.jsonl").read_bytes()
    (raw / "annotations.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"annotations\.jsonl lists no clip"):
        deidentify_folder(raw, tmp_path / "output")
    assert (tmp_path / "output" / "deidentified.jsonl").read_bytes() == listed


def test_progress_is_told_in_seconds(raw, tmp_path):
    annotate(raw, {"a": {}, "b": {"media": "voice.wav"}})
    told = []
    deidentify_folder(
        raw, tmp_path / "output", progress=lambda *args: told.append(args)
    )
    assert told == sorted(told)
    assert {what for what, *_ in told} == {"de-identifying (seconds)"}
    assert (told[0][1:], told[-1][1:]) == ((0, 2), (1, 2))  # of 1.5 s, whole ones


def test_the_folders_taxonomy_counts(raw, tmp_path):
    text = '{"emotions": ["calm", "tense"], "nfbl": []}'
    (raw / "taxonomy.json").write_text(text)
    annotate(raw, {"a": {"emotion": "calm"}, "b": {"emotion": "positive"}})
    assert deidentify_folder(raw, tmp_path / "output").rejected == 1
    written = json.loads((tmp_path / "output" / "taxonomy.json").read_text())
    assert written == json.loads(text)


def test_usage_errors_name_the_remedy(raw, tmp_path):
    annotate(raw, GOOD)
    with pytest.raises(ValueError, match="name another --output"):
        deidentify_folder(raw, tmp_path / "x" / ".." / "raw")
    # Its media would be written over those of the input, if they are named alike.
    for nested in (tmp_path, raw / "output"):
        with pytest.raises(ConfigError, match="one is within the other"):
            deidentify_folder(raw, nested)
    with pytest.raises(ConfigError, match="--workers is -1; give 1 or more"):
        deidentify_folder(raw, tmp_path / "output", workers=-1)
    other = tmp_path / "other"
    other.mkdir()
    annotate(other, GOOD)
    with pytest.raises(ConfigError, match="its clips may be originals"):
        deidentify_folder(raw, other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"put an annotations\.jsonl"):
        deidentify_folder(tmp_path / "empty", tmp_path / "output")
    with pytest.raises(ValueError, match=r"put an annotations\.jsonl"):
        deidentify_folder(tmp_path / "nowhere", tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_a_clip_that_breaks_a_codec_stops_no_other(raw, tmp_path, monkeypatch):
    annotate(raw, {"a": {}, "b": {}})
    work = room.deidentify_clip

    def broken(annotation, *given, **named):
        if annotation.clip_id == "a":
            raise RuntimeError("the encoder\nsays no")
        return work(annotation, *given, **named)

    monkeypatch.setattr(room, "deidentify_clip", broken)
    found = deidentify_folder(raw, tmp_path / "output", workers=1)
    assert (found.clips, found.rejected) == (1, 1)
    [line] = (tmp_path / "output" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "RuntimeError: the encoder says no"


def test_names_cannot_be_tried_against_what_is_listed(raw, tmp_path):
    """What is listed of a transcript hangs on the media, which only its owner has."""
    annotate(raw, {"a": {"transcript": "Priya was there."}})
    listed = []
    for name in ("one", "other"):
        deidentify_folder(raw, tmp_path / name)
        [line] = read_lines(tmp_path / name / "deidentified.jsonl")
        listed.append(line["source"].split("-")[1])
        shutil.copyfile(raw / "three.mp4", raw / "face.mp4")
    assert listed[0] != listed[1]
