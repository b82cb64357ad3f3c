import pytest

from deemo_jax.annotate import imigue
from deemo_jax.annotate.lines import Line
from deemo_jax.annotate.media_files import MediaFiles, plain
from deemo_jax.refusals import Rejection
from tests.annotate.conftest import filmed

LABELS = """video_id,class,start_frame,end_frame,subject_id,win_or_lose,remark
184,23,3,12,17,Win,
184,99,20,20.0,17,Win,"two hands, both up"
0012,1,0,5,4,Lose,

184,31,9,4,17,Win,
184,0,1,2,17,Win,
184,32,1,2,17,Win,
184,x,1,2,17,Win,
184,3,,2,17,Win,
184,3,1,2,17,Draw,
184,3,1
"""


@pytest.fixture
def media(tmp_path):
    filmed(tmp_path / "media" / "184.mp4")
    filmed(tmp_path / "media" / "12_1.5_2.5_31.mp4")
    return MediaFiles(tmp_path / "media")


def read(path, media):
    found = list(imigue.read(path, media))
    lines = [line for line in found if isinstance(line, Line)]
    return lines, [each for each in found if isinstance(each, Rejection)]


def gestures(lines):
    return [
        (line.name, g.label, g.start, g.end, g.in_frames)
        for line in lines
        if (g := line.gesture)
    ]


def test_the_labels_of_the_data_set(tmp_path, media):
    path = tmp_path / "labels_20200831.csv"
    path.write_text(LABELS)
    lines, rejections = read(path, media)
    assert gestures(lines) == [
        ("184", "rubbing or holding hands", 3, 12, True),
        ("184", "illustrative hand gestures", 20, 20, True),
        ("12", "turtle neck", 0, 5, True),
    ]
    assert [(line.subject, line.emotion) for line in lines] == [
        ("17", "positive"), ("17", "positive"), ("4", "negative"),
    ]  # fmt: skip
    told = [
        (r.line, r.reason.removeprefix("labels_20200831.csv: ")) for r in rejections
    ]
    assert told == [
        (6, "end_frame 4 is before start_frame 9"),
        (7, "class 0 is unknown"),
        (8, "class 32 is unknown"),
        (9, "class is 'x'"),
        (10, "start_frame is empty"),
        (11, "win_or_lose is 'Draw'"),
        (12, "3 cells, the columns are 7"),
    ]
    assert all(r.remedy for r in rejections)


def test_the_files_of_the_challenges_one_a_video(tmp_path, media):
    for video, text in (("0184", "23,3,12\n\n99,20,20\n"), ("0012", "1,0,5\n7,1\n")):
        path = tmp_path / "train" / video / f"{video}_label.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (path.parent / f"{video}_light_hand.csv").write_text("0.1,0.2\n")
    lines, rejections = read(tmp_path / "train", media)
    assert gestures(lines) == [
        ("12", "turtle neck", 0, 5, True),
        ("184", "rubbing or holding hands", 3, 12, True),
        ("184", "illustrative hand gestures", 20, 20, True),
    ]
    assert [(r.line, r.clip_id) for r in rejections] == [(2, "0012")]
    assert read(tmp_path / "train" / "0184" / "0184_label.csv", media)[0] == lines[1:]
    with pytest.raises(ValueError, match="holds no NUMBER_label.csv"):
        read(media.folder, media)


def test_lists_of_clips_that_others_cut(tmp_path, media):
    (tmp_path / "train.txt").write_text(
        "184_24.0763_27.4979_22.mp4 22\n\n012_1.5_2.5_31.mp4 31\n12_1.5_2.5_31.mp4 31\n"
        "184_1_2_3.mp4 4\n184_1_2_32.mp4 32\n184_2_2_3.mp4 3\nholiday.mp4 3\n"
    )
    lines, rejections = read(tmp_path / "train.txt", media)
    label = "illustrative hand gestures"
    assert gestures(lines) == [
        ("184", "rubbing or holding hands", 24.0763, 27.4979, False),
        ("12", label, 1.5, 2.5, False),
        ("12_1.5_2.5_31", label, 0.0, 1.0, False),  # it lies there by itself
    ]
    assert [r.line for r in rejections] == [5, 6, 7, 8]
    (tmp_path / "clip.csv").write_text('clip,caption\n184_1_2_3.mp4,"Head, touched."\n')
    assert gestures(read(tmp_path / "clip.csv", media)[0]) == [
        ("184", "touching or scratching head", 1.0, 2.0, False)
    ]


def test_a_number_of_thousands_of_digits_is_refused_with_its_row(tmp_path, media):
    path = tmp_path / "labels.csv"
    head, sound = LABELS.splitlines()[:2]
    path.write_text(f"{head}\n{sound}\n{sound.replace('12', '9' * 5000)}\n")
    lines, rejections = read(path, media)
    assert len(lines) == 1
    assert [r.line for r in rejections] == [3]
    assert plain("0" * 5000 + "12") == "12"


def test_the_list_of_classes_is_no_list_of_instances(tmp_path, media):
    (tmp_path / "Clip_label.csv").write_text("id,name\n0,Turtle neck\n")
    with pytest.raises(
        ValueError, match="lists no instances, its columns are id, name"
    ):
        read(tmp_path / "Clip_label.csv", media)
