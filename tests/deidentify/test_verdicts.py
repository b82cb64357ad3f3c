"""Verdicts on figures that are made up; what is measured has its tests elsewhere."""

import dataclasses

import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import DeidentifiedClip, together
from deemo_jax.deidentify import speakers
from deemo_jax.deidentify.audit import Figures
from deemo_jax.deidentify.settings import Audit
from deemo_jax.deidentify.verdicts import (
    failures,
    judge,
    judged,
    judged_again,
    needs_another_voice,
    unjudged,
)

SMALL = Audit(longest_side=640)
SOUND = Figures(
    longest_side=640, every=3, frames=100, looked=34, frames_with_face=90, faces=31,
    compared=9, voice=0.2,
)  # fmt: skip
OTHERS = "run `deemo deidentify` again for other draws, or choose another config.voice"
TAKEN = "its voice is taken for its original's (0.83)"
HEARD = Figures(longest_side=640, every=3, voice=0.2)  # a clip of sound alone


def of_faces(**faces: int) -> DeidentifiedClip:
    return DeidentifiedClip(
        annotation=Annotation(clip_id="a", media="a.mp4", subject="s"),
        video=None, audio=None, sha256={}, deidentification="x/1",
        verdict="unaudited", faces=faces,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "looser"),
    [
        ({}, []),
        ({"alike": 1.0, "faces_left": 99}, ["faces_left", "alike"]),
        ({"seen": 0.4}, ["seen"]),
        ({"every": 4, "longest_side": 959}, ["longest_side", "every"]),
        ({"every": 1, "longest_side": 1920}, []),
        ({"seen": 0.9, "voice": 0.4}, []),
    ],
)
def test_a_verdict_tells_its_thresholds(changes, looser):
    audit = Audit(**changes)
    how = {"longest_side": audit.longest_side, "every": audit.every}
    told = judged(of_faces(boxes=90), dataclasses.replace(SOUND, **how), audit)
    assert told.audit["looser"] == looser
    assert told.audit["thresholds"] == dataclasses.asdict(audit)
    assert judged_again(told, audit) == told


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
        ({"voice": 0.83}, {}, 100, "failed"),
        ({"voice": 0.83}, {"voice": 0.9}, 100, "passed"),
        ({"voice": float("nan")}, {"voice": 0.9}, 100, "failed"),
        ({"voice": None}, {}, 100, "passed"),  # in silence
        ({"voice": None, "audible": True}, {}, 100, "unaudited"),
        ({"voice": None, "unheard": "no CAM++"}, {}, 100, "unaudited"),
        ({"compared": 0}, {}, 100, "unaudited"),
        ({"compared": 0, "faces_left": 1}, {}, 100, "failed"),
        ({"faces": 9}, {}, 100, "unaudited"),
        ({"faces": 9}, {"seen": 0.09}, 100, "passed"),
        ({"faces": 9, "faces_left": 1}, {}, 100, "failed"),
        ({"faces": 9, "voice": 0.83}, {}, 100, "failed"),
        ({"faces": 34}, {}, 200, "unaudited"),  # one of two, in every frame
        ({"faces": 68}, {}, 200, "passed"),
        ({"faces": 0, "frames_with_face": 0}, {}, 0, "unaudited"),  # both may miss one
    ],
)
def test_verdicts_on_pictures_and_voice(changes, audit, faces, verdict):
    figures = dataclasses.replace(SOUND, **changes)
    found, reasons = judge(figures, Audit(**audit), {"boxes": faces})
    assert found == verdict
    assert bool(reasons) == (verdict != "passed")


@pytest.mark.parametrize(
    ("masked", "seen", "reason"),
    [
        ({2: 100, 3: 100, 4: 100}, (34, 34, 34), None),
        ({2: 100, 3: 100, 4: 100}, (34, 34), "4 faces in 0 of about 34 frames"),
        ({2: 100, 3: 100, 4: 100}, (34, 34, 20), "4 faces in 20 of about 34 frames"),
        ({2: 30}, (), "2 faces in 0 of about 10 frames"),  # one who comes and goes
        ({2: 30}, (8,), None),
        ({2: 12}, (), None),  # false alarms, perhaps
        ({}, (34,), None),
    ],
)
def test_of_those_who_stand_together_each_must_be_seen(masked, seen, reason):
    """However many faces are seen in all."""
    faces = {together(several): frames for several, frames in masked.items()}
    faces |= {"boxes": 100 + sum(masked.values())}
    figures = dataclasses.replace(SOUND, faces=400, together=seen)
    verdict, reasons = judge(figures, Audit(), faces)
    assert verdict == ("unaudited" if reason else "passed")
    assert all(reason in said for said in reasons)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "passed", ()),
        (
            {"voice": 0.83},
            "failed",
            (f"{TAKEN}: {OTHERS}",),
        ),
        (
            {"voice": None, "unheard": "CAM++ is not installed"},
            "unaudited",
            ("its voice was not compared: CAM++ is not installed",),
        ),
        (
            {"voice": None},
            "unaudited",
            ("it has neither pictures nor half a second of a voice",),
        ),
    ],
)  # fmt: skip
def test_verdicts_on_sound_alone(changes, verdict, reason):
    figures = dataclasses.replace(HEARD, **changes)
    assert judge(figures, Audit(), {}) == (verdict, reason)


def test_a_verdict_is_passed_again_on_the_figures_that_are_there():
    figures = dataclasses.replace(SOUND, faces_left=3)
    clip = judged(of_faces(boxes=90), figures, SMALL)
    assert clip.verdict == "failed"
    assert failures([clip]) == ("a failed: 3 of 31 faces are left",)
    lenient = judged_again(clip, Audit(faces_left=3, longest_side=640))
    assert lenient is not None
    assert (lenient.verdict, lenient.audit["reasons"]) == ("passed", [])
    assert judged_again(clip, Audit(longest_side=960)) is None
    assert judged_again(clip, Audit(longest_side=640, every=1)) is None
    assert judged_again(of_faces(), Audit()) is None


def test_a_verdict_of_another_measure_is_kept_only_if_it_failed():
    passed = judged(of_faces(boxes=90), SOUND, SMALL)
    assert judged_again(passed, SMALL) == passed
    earlier = dataclasses.replace(passed, audit=passed.audit | {"measure": "faces/2"})
    assert judged_again(earlier, SMALL) is None
    assert unjudged(earlier).verdict == "unaudited"
    failed = dataclasses.replace(earlier, verdict="failed")
    assert unjudged(failed) == failed


def test_a_voice_is_compared_once_there_is_something_to_compare_it_by(monkeypatch):
    figures = dataclasses.replace(SOUND, voice=None, unheard="CAM++ is not installed")
    clip = judged(of_faces(boxes=90), figures, SMALL)
    monkeypatch.setattr(speakers, "missing", lambda: "CAM++ is not installed")
    assert judged_again(clip, SMALL) == clip
    monkeypatch.setattr(speakers, "missing", lambda: None)
    assert judged_again(clip, SMALL) is None


def test_who_is_recognised_by_voice_needs_another():
    for voice, needed in ((0.83, True), (0.2, False), (None, False)):
        clip = judged(of_faces(), dataclasses.replace(SOUND, voice=voice), SMALL)
        assert needs_another_voice(clip, SMALL) == needed
        assert not needs_another_voice(clip, Audit(voice=0.9))
    assert not needs_another_voice(of_faces(), SMALL)
    both = dataclasses.replace(SOUND, voice=0.83, faces_left=1)  # which none mends
    assert not needs_another_voice(judged(of_faces(), both, SMALL), SMALL)
