import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.summary import summarise


def clip(name: str, verdict: str = "passed", **changes) -> DeidentifiedClip:
    about = Annotation(
        clip_id=name, media=f"{name}.mp4", subject="s", start=0.0, end=1.5
    )  # fmt: skip
    what = {
        "video": None, "audio": None, "sha256": {}, "deidentification": "x/1",
        "faces": {}, "words": {},
    }  # fmt: skip
    return DeidentifiedClip(annotation=about, verdict=verdict, **what | changes)


def summary(*clips: DeidentifiedClip, **changes):
    what = {
        "resumed": 0, "rejected": 0, "unaudited_for": None,
    }  # fmt: skip
    return summarise(list(clips), **what | changes)


def test_counts_are_summed():
    faces = {"frames": 4, "boxes": 3, "frames_with_face": 2, "looked": 4, "left": 1}
    found = summary(
        clip("a", faces=faces, words={"NAME": 2, "silenced": 3}),
        clip("b", faces=faces | {"looked": 2}, words={"NAME": 1, "silenced": 1}),
        resumed=1,
        rejected=5,
    )
    assert (found.faces["looked"], found.words["NAME"]) == (6, 3)
    lines = found.describe().splitlines()
    assert lines[0] == (
        "2 clips of 3.0 s de-identified (1 of them earlier), 5 inputs refused"
    )
    assert lines[1] == (
        "faces: 6 found in 4 of 8 frames, 2 left in 6 looked at again by the same "
        "detector"
    )
    assert lines[3] == "audit: 2 passed"


def test_clips_in_which_nothing_was_masked_are_named_a_few_of_them():
    clips = [clip(f"none{i}", faces={"frames_unmasked": 4}) for i in range(7)]
    found = summary(*clips, clip("face", faces={"frames_unmasked": 0}))
    assert found.unmasked == tuple(f"none{i}" for i in range(7))
    assert "no face was known of in 28 frames" in found.describe()
    assert "none4 and 2 more clips" in found.describe()
    assert "no face" not in summary(clip("face")).describe()


def test_clips_whose_names_were_not_heard_are_named():
    clips = [clip(name, words={"unmatched": n}) for n, name in enumerate("abc")]
    found = summary(*clips)
    assert found.unmatched == ("b", "c")
    assert "3 words that are redacted in transcripts were not heard" in found.describe()
    assert "listen to b, c" in found.describe()
    assert "not heard" not in summary(clips[0]).describe()


def test_clips_that_are_mostly_silent_are_named():
    found = summary(*[clip(name, words={"mostly_silenced": 1}) for name in "abcdefg"])
    assert "what is said: a, b, c, d, e and 2 more clips; if" in found.describe()
    assert "silent" not in summary(clip("a", words={"NAME": 1})).describe()


@pytest.mark.parametrize(
    ("audit", "unaudited_for", "told"),
    [
        ({}, None, None),
        ({}, "dlib is not there", "dlib is not there"),
        ({"unheard": "CAM++ is not there"}, None, "CAM++ is not there"),
        ({"unheard": "CAM++ is not there"}, "dlib is not there", "dlib is not there"),
    ],
)
def test_what_the_audit_lacks_is_told(audit, unaudited_for, told):
    found = summary(clip("a", "unaudited", audit=audit), unaudited_for=unaudited_for)
    expected = "audit: 1 unaudited" + (f" ({told})" if told else "")
    assert found.describe().splitlines()[-1] == expected


def test_what_failed_comes_last():
    found = summary(clip("a"), clip("b", "failed", audit={"reasons": ["a", "b"]}))
    assert found.describe().splitlines()[-2:] == [
        "audit: 1 failed, 1 passed",
        "b failed: a; b",
    ]
