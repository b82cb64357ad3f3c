"""The audit on real frames whose masks are known, and on made ones."""

import dataclasses

import numpy as np
import pytest

from deemo_jax.annotation import Annotation, Refusal
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.audit import (
    Figures,
    audit_clip,
    detail_left,
    failures,
    judge,
    judged,
    judged_again,
    unjudged,
)
from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.masks import paint
from deemo_jax.deidentify.settings import Audit, Mask
from deemo_jax.media import iter_frames, write_video

SIDE = 640
BOX = np.array([8.0, 8.0, 56.0, 56.0], np.float32)


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

    def audit(clear=(), method: str = "blur", scale: float = 1.4):
        mask = Mask(method=method, scale=scale)
        write_video(tmp_path / "raw.mp4", frames)
        masked = (
            (time, rgb if index in clear else paint(rgb, boxes[index], mask))
            for index, (time, rgb) in enumerate(frames)
        )
        write_video(tmp_path / "masked.mp4", masked)
        about = Annotation(clip_id="a", media="raw.mp4", subject="s")
        clip = of_video(tmp_path / "masked.mp4")
        return audit_clip(about, tmp_path / "raw.mp4", clip, SIDE)

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
    assert (figures.frames, figures.frames_with_face, figures.faces) == (12, 12, 12)
    assert (figures.faces_left, figures.gap_frames, figures.alike) == (0, 0, 0)
    assert figures.compared == 2
    assert figures.nearest > 0.65
    assert 0.05 < figures.pixels_altered < 0.25
    assert np.linalg.norm(found.clear - found.masked) > 0.65
    assert [picture.about for picture in found.pictures] == [
        "the nearest to its original"
    ]


def test_an_unmasked_clip_fails_for_every_reason(audited):
    figures = audited(clear=range(12)).figures
    verdict, reasons = judge(figures, Audit(), {})
    assert verdict == "failed"
    assert reasons[:2] == (
        "12 of 12 faces are left",
        "no mask is on a face for 12 frames, 0.40 s from 0.00 s on",
    )
    assert reasons[2].startswith("2 of 2 masked faces are taken for their originals")
    assert figures.pixels_altered < 0.01


def test_a_gap_of_three_frames_fails_and_is_named(audited):
    """Two further frames elsewhere are a shorter gap, and no part of it."""
    found = audited(clear=[1, 2, 5, 6, 7])
    verdict, reasons = judge(found.figures, Audit(), {})
    assert verdict == "failed"
    assert reasons == (
        "5 of 12 faces are left",
        "no mask is on a face for 3 frames, 0.10 s from 0.17 s on",
    )
    shown = {picture.about: picture for picture in found.pictures}
    assert shown["no mask is on a face"].time == pytest.approx(1 / 30, abs=0.01)
    assert shown["a face is left"].masked.startswith(b"\xff\xd8")


def test_a_mask_that_is_too_small_fails(audited):
    verdict, _ = judge(audited(scale=0.3).figures, Audit(), {})
    assert verdict == "failed"


def test_other_frames_are_refused(frames, tmp_path):
    about = Annotation(clip_id="a", media="raw.mp4", subject="s")
    write_video(tmp_path / "raw.mp4", frames[:3])
    write_video(tmp_path / "short.mp4", frames[:2])
    small = [(time, rgb[:100]) for time, rgb in frames[:3]]
    write_video(tmp_path / "small.mp4", small)
    for name in ("short.mp4", "small.mp4"):
        clip = of_video(tmp_path / name)
        with pytest.raises(Refusal, match="other frames than its original"):
            audit_clip(about, tmp_path / "raw.mp4", clip, SIDE)


def test_a_clip_without_pictures_stays_unaudited(tmp_path):
    about = Annotation(clip_id="a", media="raw.wav", subject="s")
    found = audit_clip(about, tmp_path / "raw.wav", of_video(None), SIDE)
    assert found.clear is None
    assert judge(found.figures, Audit(), {}) == ("unaudited", ("it has no pictures",))


SOUND = Figures(longest_side=640, frames=100, frames_with_face=90, faces=95, compared=9)


@pytest.mark.parametrize(
    ("changes", "audit", "faces", "verdict"),
    [
        ({}, {}, 100, "passed"),
        ({"faces_left": 1}, {}, 100, "failed"),
        ({"faces_left": 1}, {"faces_left": 1}, 100, "passed"),
        ({"gap_frames": 2, "gap_start": 0.0}, {"gap_frames": 1}, 100, "failed"),
        ({"gap_frames": 2, "gap_start": 0.0}, {"gap_frames": 2}, 100, "passed"),
        ({"alike": 3, "nearest": 0.5}, {"alike": 0.3}, 100, "failed"),
        ({"alike": 3, "nearest": 0.5}, {"alike": 0.4}, 100, "passed"),
        ({"frames_with_face": 9}, {}, 100, "unaudited"),
        ({"frames_with_face": 9}, {"seen": 0.09}, 100, "passed"),
        ({"frames_with_face": 9, "faces_left": 1}, {}, 100, "failed"),
        ({"frames_with_face": 0}, {}, 0, "unaudited"),  # both may have missed one
    ],
)
def test_verdicts(changes, audit, faces, verdict):
    figures = dataclasses.replace(SOUND, **changes)
    found, reasons = judge(figures, Audit(**audit), {"frames_with_face": faces})
    assert found == verdict
    assert bool(reasons) == (verdict != "passed")


def test_a_verdict_is_passed_again_on_the_figures_that_are_there(tmp_path):
    figures = dataclasses.replace(SOUND, faces_left=3)
    clip = judged(of_video(tmp_path, frames_with_face=90), figures, Audit())
    assert clip.verdict == "failed"
    assert failures([clip]) == ("a failed: 3 of 95 faces are left",)
    lenient = judged_again(clip, Audit(faces_left=3, longest_side=640))
    assert lenient is not None
    assert (lenient.verdict, lenient.audit["reasons"]) == ("passed", [])
    assert judged_again(clip, Audit(longest_side=960)) is None
    assert judged_again(of_video(tmp_path), Audit()) is None


def test_detail_that_is_left_is_its_share():
    rng = np.random.default_rng(0)
    clear = rng.integers(0, 256, (64, 64, 3), np.uint8)
    half = clear.copy()
    half[:, :32] = 127
    grey = np.full_like(clear, 127)
    other = rng.integers(0, 256, (64, 64, 3), np.uint8)
    assert detail_left(clear, clear, BOX) == pytest.approx(1.0)
    assert detail_left(clear, half, BOX) == pytest.approx(0.5, abs=0.1)
    assert detail_left(clear, grey, BOX) == pytest.approx(0.0, abs=0.01)
    assert detail_left(clear, other, BOX) == pytest.approx(0.0, abs=0.1)
    for outside in (BOX - 100, BOX + 100, BOX * 9):
        assert np.isfinite(detail_left(clear, clear, outside))


def test_a_verdict_of_another_measure_is_kept_only_if_it_failed():
    clip = DeidentifiedClip(
        annotation=Annotation(clip_id="a", media="a.mp4", subject="s"),
        video=None, audio=None, sha256={}, deidentification="x/1",
        verdict="unaudited", faces={},
    )  # fmt: skip
    figures = Figures(longest_side=SIDE, frames=9, frames_with_face=9, faces=9)
    passed = judged(clip, figures, Audit(longest_side=SIDE))
    assert judged_again(passed, Audit(longest_side=SIDE)) == passed
    earlier = dataclasses.replace(passed, audit=passed.audit | {"measure": "faces/1"})
    assert judged_again(earlier, Audit(longest_side=SIDE)) is None
    assert unjudged(earlier).verdict == "unaudited"
    failed = dataclasses.replace(earlier, verdict="failed")
    assert unjudged(failed) == failed
