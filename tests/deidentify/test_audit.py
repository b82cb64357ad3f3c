"""The audit on real frames whose masks are known, and on made ones."""

import dataclasses
import itertools

import av
import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import DeidentifiedClip, together
from deemo_jax.deidentify import audit as room
from deemo_jax.deidentify import speakers
from deemo_jax.deidentify.audit import audit_clip, compare_again
from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.pipeline import deidentify_clip
from deemo_jax.deidentify.settings import Audit, Mask, Settings, Voice
from deemo_jax.deidentify.verdicts import judge
from deemo_jax.deidentify.voice import another_voice
from deemo_jax.media import iter_frames, write_audio, write_video
from deemo_jax.refusals import Refusal

SMALL = Audit(longest_side=352)


@pytest.fixture(scope="module")
def frames(carphone) -> list[tuple[float, np.ndarray]]:
    """A dozen frames of a talking man, 30 a second; odd in height and width."""
    return [(time, rgb[1:, 1:]) for time, rgb in iter_frames(carphone, 0.0, 0.4)]


@pytest.fixture(scope="module")
def boxes(frames) -> list[np.ndarray]:
    """What the detector that masks finds in each."""
    detector = FaceDetector()
    return [detector(rgb)[:, :4] for _, rgb in frames]


@pytest.fixture
def audited(frames, boxes, tmp_path):
    """Audits the frames against themselves, masked but in some of them."""

    def audit(
        clear=(), method: str = "blur", scale: float = 1.4, count: int = 12, **how
    ):
        mask = Mask(method=method, scale=scale)
        write_video(tmp_path / "raw.mp4", frames[:count])
        masked = (
            (time, rgb if index in clear else paint(rgb, boxes[index], mask))
            for index, (time, rgb) in enumerate(frames[:count])
        )
        write_video(tmp_path / "masked.mp4", masked)
        about = Annotation(clip_id="a", media="raw.mp4", subject="s")
        clip = of_video(tmp_path / "masked.mp4")
        settings = dataclasses.replace(SMALL, **how)
        return audit_clip(about, tmp_path / "raw.mp4", clip, settings)

    return audit


def of_video(path, **faces: int) -> DeidentifiedClip:
    return DeidentifiedClip(
        annotation=Annotation(clip_id="a", media="masked.mp4", subject="s"),
        video=path, audio=None, sha256={}, deidentification="x/1",
        verdict="unaudited", faces=faces,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["blur", "solid"])
def test_a_masked_clip_passes(audited, method):
    found = audited(method=method)
    figures = found.figures
    assert judge(figures, Audit(), {"frames_with_face": 12}) == ("passed", ())
    assert (figures.frames, figures.frames_with_face) == (12, 12)
    assert (figures.looked, figures.faces) == (5, 5)  # every third frame, and the last
    assert (figures.faces_left, figures.gap_frames, figures.alike) == (0, 0, 0)
    assert figures.compared == 1
    assert figures.nearest > 0.65
    assert 0.05 < figures.pixels_altered < 0.25
    assert np.linalg.norm(found.clear - found.masked) > 0.65
    assert [picture.about for picture in found.pictures] == [
        "the nearest to its original"
    ]


@pytest.mark.parametrize(("height", "width"), [(144, 175), (143, 176), (143, 175)])
def test_sides_may_be_odd(frames, boxes, tmp_path, height, width):
    """Of the masked clip none is: a row or column is repeated there."""
    times, shown = zip(*[(t, rgb[:height, :width]) for t, rgb in frames], strict=True)
    raw = tmp_path / "raw.mkv"
    with av.open(str(raw), "w") as out:
        stream = out.add_stream("ffv1", rate=30, options={"slices": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for rgb in shown:
            whole = np.ascontiguousarray(rgb)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))
        out.mux(stream.encode(None))
    assert next(iter_frames(raw))[1].shape == (height, width, 3)
    masked = map(paint, shown, boxes, itertools.repeat(Mask(scale=1.4)))
    write_video(tmp_path / "masked.mp4", zip(times, masked, strict=True))
    about = Annotation(clip_id="a", media="raw.mkv", subject="s")
    found = audit_clip(about, raw, of_video(tmp_path / "masked.mp4"), SMALL)
    assert judge(found.figures, Audit(), {"frames_with_face": 12}) == ("passed", ())
    assert found.figures.compared == 1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_faces_that_nobody_knows_are_not_compared(frames, turns, tmp_path):
    """They lie on their side, or stand on their head: whether by mask or not."""
    upside = [(time, np.rot90(rgb, turns).copy()) for time, rgb in frames]
    detector = FaceDetector()
    write_video(tmp_path / "raw.mp4", upside)
    masked = [
        (t, paint(rgb, detector(rgb)[:, :4], Mask(scale=1.6))) for t, rgb in upside
    ]
    write_video(tmp_path / "masked.mp4", masked)
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    clip = of_video(tmp_path / "masked.mp4")
    found = audit_clip(about, tmp_path / "raw.mp4", clip, SMALL)
    verdict, reasons = judge(found.figures, Audit(), {})
    assert (found.figures.compared, found.figures.alike, found.clear) == (0, 0, None)
    assert verdict == "unaudited"
    assert "face" in reasons[0]


def test_an_unmasked_clip_fails_for_every_reason(audited):
    figures = audited(clear=range(12)).figures
    verdict, reasons = judge(figures, Audit(), {})
    assert verdict == "failed"
    assert reasons[:2] == (
        "5 of 5 faces are left",
        "no mask is on a face for 12 frames, 0.40 s from 0.00 s on",
    )
    assert reasons[2].startswith("1 of 1 masked faces are taken for their originals")
    assert figures.pixels_altered < 0.01


def test_a_gap_of_three_frames_fails_and_is_named(audited):
    """Two further frames elsewhere are a shorter gap, and no part of it."""
    found = audited(clear=[1, 2, 5, 6, 7])
    verdict, reasons = judge(found.figures, Audit(), {})
    assert verdict == "failed"
    assert reasons == (
        "1 of 5 faces are left",
        "no mask is on a face for 3 frames, 0.10 s from 0.17 s on",
    )
    shown = {picture.about: picture for picture in found.pictures}
    assert shown["no mask is on a face"].time == pytest.approx(1 / 30, abs=0.01)
    assert shown["a face is left"].masked.startswith(b"\xff\xd8")


def test_a_mask_that_is_too_small_fails(audited):
    verdict, _ = judge(audited(scale=0.3).figures, Audit(), {})
    assert verdict == "failed"


def test_faces_that_are_seen_together_are_counted(frames, tmp_path):
    """One beside himself, and in three frames a third time."""
    beside = [
        (time, np.concatenate([rgb, rgb, rgb if index < 3 else 0 * rgb], axis=1))
        for index, (time, rgb) in enumerate(frames[:9])
    ]
    write_video(tmp_path / "raw.mp4", beside)
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    how = Audit(longest_side=640, every=1)
    found = audit_clip(about, tmp_path / "raw.mp4", of_video(tmp_path / "raw.mp4"), how)
    assert (found.figures.faces, found.figures.together) == (21, (9, 3))
    (tmp_path / "media").mkdir()
    whole = dataclasses.replace(about, end=0.3)
    faces = deidentify_clip(whole, tmp_path / "raw.mp4", tmp_path, Settings()).faces
    assert (faces[together(2)], faces[together(3)]) == (9, 3)
    assert together(4) not in faces


def test_other_frames_are_refused(frames, tmp_path):
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    write_video(tmp_path / "raw.mp4", frames[:3])
    write_video(tmp_path / "short.mp4", frames[:2])
    small = [(time, rgb[:100]) for time, rgb in frames[:3]]
    write_video(tmp_path / "small.mp4", small)
    for name in ("short.mp4", "small.mp4"):
        clip = of_video(tmp_path / name)
        with pytest.raises(Refusal, match="other frames than its original"):
            audit_clip(about, tmp_path / "raw.mp4", clip, SMALL)


@pytest.mark.parametrize(
    "count", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 5))]
)
def test_the_last_frame_of_a_clip_is_looked_at(audited, count):
    figures = audited(clear=[count - 1], count=count).figures
    assert (figures.frames, figures.frames_with_face) == (count, count)
    assert figures.looked == {1: 1, 2: 2, 3: 2, 4: 2, 5: 3}[count]
    assert (figures.faces_left, figures.gap_frames) == (1, 1)
    assert audited(count=count).figures.gap_frames == 0


@pytest.mark.parametrize(
    ("every", "looked"),
    [
        (2, 7),
        (20, 2),
        pytest.param(1, 12, marks=pytest.mark.slow),
        pytest.param(5, 4, marks=pytest.mark.slow),
    ],
)
def test_a_gap_is_seen_however_rarely_faces_are_looked_for(audited, every, looked):
    figures = audited(clear=[5, 6], every=every).figures
    assert (figures.every, figures.looked, figures.faces) == (every, looked, looked)
    assert figures.frames_with_face == 12
    assert figures.gap_frames == 2
    assert audited(every=every).figures.gap_frames == 0


def test_several_threads_find_what_one_finds(frames, boxes, tmp_path):
    write_video(tmp_path / "raw.mp4", frames)
    write_video(tmp_path / "masked.mp4", frames[:5] + [
        (time, paint(rgb, box, Mask()))
        for (time, rgb), box in zip(frames[5:], boxes[5:], strict=True)
    ])  # fmt: skip
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    one, three = (
        audit_clip(
            about, tmp_path / "raw.mp4", of_video(tmp_path / "masked.mp4"), SMALL,
            threads=threads,
        ).figures
        for threads in (1, 3)
    )  # fmt: skip
    assert one == three
    assert one.gap_frames == 5


def test_faces_are_compared_again_in_the_same_frames(
    frames, boxes, tmp_path, monkeypatch
):
    """Of a clip whose first frames show nobody; the embeddings are the same."""
    monkeypatch.setattr(room, "COMPARED_EVERY", 4)
    nobody = [(time, np.full_like(rgb, 90)) for time, rgb in frames[:4]]
    write_video(tmp_path / "raw.mp4", nobody + frames[4:])
    write_video(tmp_path / "masked.mp4", nobody + [
        (time, paint(rgb, box, Mask()))
        for (time, rgb), box in zip(frames[4:], boxes[4:], strict=True)
    ])  # fmt: skip
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    what = (about, tmp_path / "raw.mp4", of_video(tmp_path / "masked.mp4"), SMALL)
    first = audit_clip(*what)
    assert first.figures.compared_in == (6, 11)
    seen = []
    again = compare_again(*what, first.figures, progress=seen.append)
    assert again.figures == first.figures
    np.testing.assert_array_equal(again.clear, first.clear)
    np.testing.assert_array_equal(again.masked, first.masked)
    assert [picture.about for picture in again.pictures] == [room.NEAREST]
    assert len(seen) == 12
    none = dataclasses.replace(first.figures, compared_in=())
    assert compare_again(*what, none).clear is None


@pytest.fixture
def heard(tmp_path, speech):
    """Audits a clip of sound alone, of a real voice."""

    def audit(after):
        write_audio(tmp_path / "raw.flac", speech)
        write_audio(tmp_path / "clip.flac", after)
        about = Annotation(clip_id="a", media="raw.flac", subject="s")
        clip = dataclasses.replace(of_video(None), audio=tmp_path / "clip.flac")
        return audit_clip(about, tmp_path / "raw.flac", clip, SMALL).figures

    return audit


def test_a_voice_is_listened_to(heard, speech):
    figures = heard(another_voice(Voice())(speech))
    assert judge(figures, SMALL, {}) == ("passed", ())
    figures = heard(speech)
    assert figures.voice > 0.95
    assert judge(figures, SMALL, {})[0] == "failed"


def test_a_voice_that_nothing_can_recognise_stays_unaudited(heard, speech, monkeypatch):
    monkeypatch.setattr(speakers, "missing", lambda: "CAM++ is not installed")
    figures = heard(speech)
    assert (figures.voice, figures.unheard) == (None, "CAM++ is not installed")
    assert judge(figures, SMALL, {})[0] == "unaudited"
