import itertools

import av
import numpy as np
import pytest

from deemo_jax.annotation import Annotation, Interval
from deemo_jax.clip import Clip, together
from deemo_jax.deidentify import transcript
from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.pipeline import (
    COUNTS,
    _count,
    deidentify_clip,
    faces_left,
    fit,
)
from deemo_jax.deidentify.settings import Mask, Settings, Words
from deemo_jax.deidentify.tracks import Moment
from deemo_jax.deidentify.voice import audible
from deemo_jax.media import (
    MediaError,
    iter_frames,
    mux,
    probe,
    read_audio,
    write_audio,
    write_video,
)
from deemo_jax.refusals import Refusal


@pytest.fixture(scope="module")
def talking(carphone, speech, tmp_path_factory):
    """A real face and a real voice in one file."""
    folder = tmp_path_factory.mktemp("talking")
    write_audio(folder / "speech.flac", speech)
    mux(carphone, folder / "speech.flac", folder / "talking.mp4")
    return folder / "talking.mp4"


def annotation(**fields) -> Annotation:
    return Annotation(clip_id="a", media="talking.mp4", subject="s", **fields)


def fitted(media, **fields) -> Annotation:
    return fit(Clip(annotation=annotation(**fields), media=media))[0]


def interval(start: float, end: float) -> tuple[Interval, ...]:
    return (Interval(label="folding arms", start=start, end=end),)


@pytest.fixture(scope="module")
def done(talking, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    (folder / "media").mkdir()
    about = fitted(talking, start=1.0, end=3.0, nfbl=interval(0.25, 1.0))
    return deidentify_clip(about, talking, folder, Settings(), source="x")


def test_half_of_the_progress_is_for_the_words(
    talking, carphone, tmp_path, monkeypatch
):
    """Where there are any that are to be listened to."""

    def transcribe(waveform, *, progress, **_):
        for seconds in (0.5, 1.0):
            progress(seconds)
        return [transcript.Word("Hello.", 0.2, 0.6)]

    monkeypatch.setattr(transcript, "spoken_words", transcribe)
    (tmp_path / "media").mkdir()
    for given in (None, "Hello."):  # which names may be heard beside
        about, told = fitted(talking, start=1.0, end=2.0, transcript=given), []
        deidentify_clip(about, talking, tmp_path, Settings(), progress=told.append)
        assert told == sorted(told)
        assert told[:3] == pytest.approx([0.25, 0.5, 0.5], abs=0.01)
        assert 0.95 < told[-1] < 1.0  # all frames are masked
    unheard = Settings(words=Words(silence=False))
    for media, settings in ((talking, unheard), (carphone, Settings())):
        about, told = fitted(media, start=1.0, end=2.0, transcript="Hello."), []
        deidentify_clip(about, media, tmp_path, settings, progress=told.append)
        assert told == sorted(told)
        assert told[0] == pytest.approx(0.0, abs=0.01)
        assert 0.9 < told[-1] < 1.0


def test_faces_that_are_sure_are_counted_by_how_many_are_at_once():
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    rgb = np.zeros((8, 8, 3), np.uint8)
    for scores in ((0.9, 0.6, 0.3), (0.7,), (0.8, 0.8), ()):
        found = np.array([[0, 0, 4, 4, s] for s in scores], np.float32).reshape(-1, 5)
        _count(
            counts, Moment(time=0.0, rgb=rgb, found=found, masked=list(found[:, :4]))
        )
    assert (counts["boxes"], counts["frames_with_face"]) == (6, 3)
    assert counts[together(2)] == 2
    assert together(3) not in counts


def test_names_are_silenced_and_nothing_else(speech_file, tmp_path):
    (tmp_path / "media").mkdir()
    about = fit(Clip(annotation=annotation(start=13.0, end=22.0), media=speech_file))[0]
    clip = deidentify_clip(about, speech_file, tmp_path, Settings())
    assert clip.audio is not None
    before, after = read_audio(speech_file, 13.0, 22.0), read_audio(clip.audio)
    assert before is not None
    assert after is not None
    assert len(before) == len(after)
    for name in ("Sheila", "Jersey", "Texas", "Chicago"):
        assert name in transcript.transcribe(before)
        assert name not in transcript.transcribe(after)
    assert 0.2 < np.mean(after == 0) < 0.6  # of 27 words, 9 are names
    assert clip.words["silenced"] >= 5
    assert clip.annotation.transcript is not None
    assert "originally from [PLACE]" in clip.annotation.transcript


def test_names_in_every_piece_of_a_long_voice_are_silenced(
    speech, tmp_path, monkeypatch
):
    """The seconds of words are the clip's, not a piece's; a tenth more on each side."""
    write_audio(tmp_path / "long.flac", np.tile(speech, 20))  # 80 s, two pieces
    names = [transcript.Word("Sheila", at, at + 0.5) for at in (10.0, 77.0)]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: names)
    (tmp_path / "media").mkdir()
    about = Annotation(clip_id="a", media="long.flac", subject="s", end=80.0)
    clip = deidentify_clip(about, tmp_path / "long.flac", tmp_path, Settings())
    assert clip.audio is not None
    sound = read_audio(clip.audio)
    assert sound is not None
    runs = np.flatnonzero(~audible(sound))
    edges = np.flatnonzero(np.diff(runs) > 1)
    starts = runs[np.concatenate([[0], edges + 1])] / 16_000
    ends = (runs[np.concatenate([edges, [-1]])] + 1) / 16_000
    assert starts == pytest.approx([9.9, 76.9], abs=1e-3)
    assert ends == pytest.approx([10.6, 77.6], abs=1e-3)


def test_every_face_is_found_and_none_is_left(done):
    assert done.faces == {
        "frames": 60,
        "frames_with_face": 60,
        "boxes": 60,
        "frames_masked": 60,
        "frames_unmasked": 0,
        "looked": 6,
        "left": 0,
    }
    detector = FaceDetector()
    assert not any(len(detector(rgb)) for _, rgb in iter_frames(done.video))


def test_the_clip_is_the_window_and_nothing_else(done, talking):
    assert (done.annotation.start, done.annotation.end) == (0.0, 2.0)
    assert done.annotation.nfbl == interval(0.25, 1.0)
    assert done.annotation.media == "media/a.mp4"
    assert (done.verdict, done.source) == ("unaudited", "x")
    before = list(iter_frames(talking, 1.0, 3.0))
    after = list(iter_frames(done.video))
    np.testing.assert_allclose(
        [time for time, _ in after][1:], [time for time, _ in before][1:], atol=1e-4
    )
    assert not probe(done.video).has_audio
    assert probe(done.audio).duration == pytest.approx(2.0)
    with av.open(str(done.video)) as container:
        assert len(container.streams) == 1


def test_what_is_no_face_stays(done, talking):
    for (_, raw), (_, new) in zip(
        iter_frames(talking, 1.0, 3.0), iter_frames(done.video), strict=True
    ):
        difference = np.abs(raw.astype(int) - new).mean(axis=-1)
        assert difference[:, 140:].mean() < 4  # the window of the car
        assert difference[40:90, 70:110].mean() > 8  # the face


def test_the_voice_is_another_and_as_loud(done, talking):
    raw, new = read_audio(talking, 1.0, 3.0), read_audio(done.audio)
    assert raw is not None
    assert new is not None
    assert len(raw) == len(new)
    assert np.std(new) == pytest.approx(np.std(raw), rel=0.05)
    assert np.corrcoef(raw, new)[0, 1] < 0.98


def test_faces_left_sees_what_was_not_masked(carphone, tmp_path):
    frames = list(iter_frames(carphone, 0.0, 0.3))
    write_video(tmp_path / "a.mp4", frames)
    detector = FaceDetector()
    boxes = [detector(rgb)[:, :4] for _, rgb in frames]
    assert len(frames) == 9
    for every, looked in ((1, 9), (2, 5), (4, 3)):
        found = faces_left(tmp_path / "a.mp4", boxes, detector, every=every)
        assert found == {"looked": looked, "left": looked}
    elsewhere = [box + 300 for box in boxes]
    found = faces_left(tmp_path / "a.mp4", elsewhere, detector, every=1)
    assert found == {"looked": 9, "left": 0}


def test_faces_left_of_a_close_up_are_sought_in_fewer_pixels(carphone, tmp_path):
    """Faces four times as large as the network needs them to be found."""
    near = [
        (time, rgb.repeat(4, axis=0).repeat(4, axis=1))
        for time, rgb in itertools.islice(iter_frames(carphone), 3)
    ]
    write_video(tmp_path / "a.mp4", near)
    detector = FaceDetector(longest_side=704)
    boxes = [detector(rgb)[:, :4] for _, rgb in near]
    seen = []

    class Noting(FaceDetector):
        def __call__(self, rgb, *, side=None):
            seen.append(side)
            return super().__call__(rgb, side=side)

    found = faces_left(tmp_path / "a.mp4", boxes, Noting(longest_side=704), every=1)
    assert found == {"looked": 3, "left": 3}
    assert all(1.2 * 704 < side < 2.5 * 704 for side in seen)
    seen.clear()
    small = [np.concatenate([box, [[5.0, 5.0, 40.0, 40.0]]]) for box in boxes]
    found = faces_left(tmp_path / "a.mp4", small, Noting(longest_side=704), every=1)
    assert found["left"] == 3
    assert seen == [704] * 3  # the smallest counts


def test_a_mask_setting_is_used(talking, tmp_path):
    (tmp_path / "media").mkdir()
    about = fitted(talking, end=0.3)
    settings = Settings(mask=Mask(scale=0.1), look_again=1)
    assert deidentify_clip(about, talking, tmp_path, settings).faces["left"] == 9


def test_what_is_missing_is_none(carphone, talking, tmp_path):
    (tmp_path / "media").mkdir()
    silent = deidentify_clip(fitted(carphone, end=0.2), carphone, tmp_path, Settings())
    assert silent.audio is None
    assert silent.sha256.keys() == {"video"}
    write_audio(tmp_path / "a.flac", np.zeros(16_000, np.float32))
    heard = deidentify_clip(
        fitted(tmp_path / "a.flac"), tmp_path / "a.flac", tmp_path, Settings()
    )
    assert heard.video is None
    assert (heard.faces, heard.annotation.media) == ({}, "media/a.flac")


def test_three_frames_are_enough(carphone, tmp_path):
    (tmp_path / "media").mkdir()
    clip = deidentify_clip(fitted(carphone, end=0.1), carphone, tmp_path, Settings())
    assert (clip.faces["frames"], clip.faces["frames_with_face"]) == (3, 3)


def test_an_annotation_is_fitted_to_its_media(talking):
    length = probe(talking).duration
    assert fitted(talking).end == pytest.approx(length)
    assert fitted(talking, end=length + 0.4).end == pytest.approx(length)
    within = fitted(talking, start=1.0, end=3.0, nfbl=interval(1.0, 2.3))
    assert within.nfbl == interval(1.0, 2.0)
    assert fitted(talking, nfbl=()).nfbl == ()
    assert fitted(talking, nfbl=None).nfbl is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"start": 9.0}, "start 9 is after the media's end"),
        ({"end": 5.0}, "end 5 is after the media's end"),
        ({"nfbl": interval(4.5, 5.0)}, "goes beyond the clip's"),
        ({"end": 2.0, "nfbl": interval(1.0, 3.0)}, "goes beyond the clip's 2.00 s"),
    ],
)
def test_what_does_not_fit_is_refused(talking, fields, reason):
    with pytest.raises(Refusal, match=reason):
        fitted(talking, **fields)


def test_nothing_between_start_and_end_is_refused(carphone, tmp_path):
    (tmp_path / "media").mkdir()
    about = annotation(start=3.99, end=4.0)
    with pytest.raises(MediaError, match="holds nothing from 3.99 to 4 s"):
        deidentify_clip(about, carphone, tmp_path, Settings())
    assert list((tmp_path / "media").iterdir()) == []
