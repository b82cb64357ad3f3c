from pathlib import Path

from deemo_jax.annotate.lines import Gesture, Line, gather
from deemo_jax.refusals import Rejection

ONE, TWO = Path("one.txt"), Path("two.json")
NOD = Gesture(label="nod", start=1.0, end=2.0)


def line(name, number: int | None = 1, path=ONE, **said):
    return Line(path=path, number=number, name=name, **said)


def test_files_say_different_things_of_a_clip():
    clips, rejections = gather(
        [
            line("b", emotion="sad"),
            line("a.mp4", 2, emotion="happy"),
            line("a", None, TWO, reasoning="She laughs.", emotion="happy"),
        ]
    )
    assert [clip.name for clip in clips] == ["b", "a"]
    assert clips[1].text("emotion") == "happy"
    assert clips[1].text("reasoning") == "She laughs."
    assert clips[1].text("subject") is None
    assert not rejections


def test_a_line_that_comes_again_is_refused():
    gestures = [line("a", n, gesture=NOD) for n in (1, 2)]
    clips, rejections = gather([*gestures, line("b", 3), line("b", 4, emotion="sad")])
    assert [len(clip.gestures) for clip in clips] == [1, 0]
    assert clips[1].text("emotion") is None
    assert [(r.line, r.clip_id) for r in rejections] == [(2, "a"), (4, "b")]
    assert rejections[1].reason == "one.txt: it stands on line 3 already"


def test_a_contradicted_clip_is_left_out():
    clips, rejections = gather(
        [
            line("a", 1, emotion="sad"),
            line("b", 2, emotion="sad"),
            line("a", 5, TWO, emotion="happy", reasoning="She laughs."),
        ]
    )
    assert [clip.name for clip in clips] == ["b"]
    (rejection,) = rejections
    assert "emotion is 'happy', and 'sad' on line 1 of one.txt" in rejection.reason


def test_what_was_refused_earlier_is_passed_on():
    before = Rejection(line=7, reason="r", remedy="m")
    assert gather([before]) == ([], [before])
