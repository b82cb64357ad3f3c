"""From the files of others to a folder that every later step takes."""

import json
import os
import re

import pytest

from deemo_jax.annotate.folder import annotate_folder
from deemo_jax.annotate.who import Who, read_who
from deemo_jax.annotation import folder_taxonomy, load_taxonomy, read_annotations
from deemo_jax.config import ConfigError
from deemo_jax.deidentify.folder import deidentify_folder
from tests.annotate.conftest import filmed

EACH = Who(per_clip=True)
TRAIN = "sample_00000023 angry\nsample_00000046 happy\nsample_00000054 happy\n"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def accepted(folder):
    """What was written, as every later step reads it; nothing of it is refused."""
    annotations, rejections = read_annotations(
        folder / "annotations.jsonl", folder_taxonomy(folder)
    )
    assert rejections == []
    return annotations


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "MERR_fine_grained.txt"
    path.write_text(TRAIN)
    return path


@pytest.fixture
def labels(tmp_path):
    """Two videos of iMiGUE's form, of two people, one of them unevenly timed."""
    filmed(tmp_path / "videos" / "0007.mp4")
    filmed(tmp_path / "videos" / "0184.mp4", frames=25)
    path = tmp_path / "labels.csv"
    path.write_text(
        "video_id,subject_id,class,start_frame,end_frame,win_or_lose\n"
        "7,3,23,10,19,Win\n7,3,1,0,4,Win\n7,3,1,39,60,Win\n7,3,1,40,60,Win\n"
        "184,9,99,2,2,Lose\n9,9,1,2,3,Lose\n"
    )
    return path


def test_merr_becomes_a_folder_that_is_read_whole(tmp_path, media, train):
    reasons = tmp_path / "MERR_fine_grained.json"
    reasons.write_text(
        json.dumps({"sample_00000023": {"smp_reason_caption": "Brows."}})
    )
    said = tmp_path / "transcription_en_all.csv"
    said.write_text("name,sentence\nsample_00000046,I won.\nsample_9,Not here.\n")
    steps = []
    summary = annotate_folder(
        [train, reasons], media, format="merr", who=EACH, transcripts=said,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    one, two, three = accepted(media)
    assert (one.media, one.emotion, one.reasoning) == (
        "sample_00000023.mp4", "angry", "Brows.",
    )  # fmt: skip
    assert (two.transcript, two.subject) == ("I won.", "sample_00000046")
    assert three.media == "video/sample_00000054.mp4"
    assert (one.nfbl, two.nfbl, three.nfbl) == (None, None, None)  # nobody looked
    assert folder_taxonomy(media).emotions == ("angry", "happy")
    assert folder_taxonomy(media).nfbl == load_taxonomy().nfbl
    assert (summary.clips, summary.rejected, summary.without_emotion) == (3, 0, 0)
    assert "every clip counts as a subject" in summary.describe()
    assert steps == [("finding media", k, 3) for k in range(4)]
    assert lines(media / "rejected.jsonl") == []


def test_frames_become_seconds_by_the_media(tmp_path, labels):
    videos = tmp_path / "videos"
    summary = annotate_folder([labels], videos, format="imigue", who=Who())
    seven, other = accepted(videos)
    assert (seven.clip_id, seven.media, seven.subject) == ("7", "0007.mp4", "3")
    assert [(i.label, i.start, i.end) for i in seven.nfbl or ()] == [
        ("turtle neck", 0.0, 0.5),
        ("rubbing or holding hands", 1.0, 2.0),
        ("turtle neck", 3.9, 4.0),  # cut where the video ends
    ]
    assert (other.emotion, seven.emotion) == ("negative", "positive")
    assert [(i.start, i.end) for i in other.nfbl or ()] == [(0.2, 0.3)]
    assert (summary.subjects, summary.gestures, summary.rejected) == (2, 4, 2)
    assert "clips of which a line was refused: 1;" in summary.describe()
    beyond, missing = lines(videos / "rejected.jsonl")
    assert (beyond["line"], beyond["clip_id"]) == (5, "7")
    assert "reach beyond the 40 of its media" in beyond["reason"]
    assert "no media are named '9'" in missing["reason"]


def test_frames_far_beyond_the_media_are_of_other_media(tmp_path, labels):
    labels.write_text(labels.read_text().replace("1,39,60", "1,39,70"))
    annotate_folder([labels], tmp_path / "videos", format="imigue", who=Who())
    refused = [line["reason"] for line in lines(tmp_path / "videos" / "rejected.jsonl")]
    assert "frames 39 to 70 reach beyond the 40 of its media" in refused[0]


def test_frames_become_seconds_by_the_rate_that_is_given(tmp_path, labels):
    videos = tmp_path / "videos"
    annotate_folder([labels], videos, format="imigue", who=Who(), fps=20.0)
    found = {(i.start, i.end) for a in accepted(videos) for i in a.nfbl or ()}
    assert {(0.5, 1.0), (0.0, 0.25), (0.1, 0.15)} < found


def test_zeros_before_a_number_do_not_matter_in_tables(tmp_path, labels):
    text = labels.read_text().replace("7,3,", "0007,,").replace("184,9,", "184,,")
    labels.write_text(text)
    said, whose = tmp_path / "said.csv", tmp_path / "who.csv"
    said.write_text("name,sentence\n0007,I won.\n184,Well.\n8,Lost.\n9,\n")
    whose.write_text("name,subject\n0007.mp4,ann\n0184,bo\n")
    summary = annotate_folder(
        [labels], tmp_path / "videos", format="imigue",
        who=read_who("", whose, False), transcripts=said,
    )  # fmt: skip
    found = [
        (a.clip_id, a.transcript, a.subject) for a in accepted(tmp_path / "videos")
    ]
    assert found == [("7", "I won.", "ann"), ("184", "Well.", "bo")]
    assert summary.unmet == 1
    assert "transcripts that met no clip: 1;" in summary.describe()


def test_clips_that_fell_back_on_themselves_are_told(tmp_path, labels):
    labels.write_text(labels.read_text().replace("7,3,", "7,,"))
    summary = annotate_folder([labels], tmp_path / "videos", format="imigue", who=EACH)
    assert [a.subject for a in accepted(tmp_path / "videos")] == ["7", "9"]
    told = "a clip of which no subject is stated counts as a subject of its own (1)"
    assert told in summary.describe()


def test_nobody_is_made_a_subject_unasked(media, train):
    with pytest.raises(ConfigError, match="nothing says who is in the clips"):
        annotate_folder([train], media, format="merr", who=Who())
    assert not (media / "annotations.jsonl").exists()
    pattern = Who(pattern=re.compile(r"^sample_0000000*(\d)"))
    annotate_folder([train], media, format="merr", who=pattern)
    assert [a.subject for a in accepted(media)] == ["2", "4", "5"]


def test_clips_that_are_refused_are_not_of_unknown_people(tmp_path, labels):
    """All rows name their person; what is wrong with the one clip is another thing."""
    head, row, other, *_ = labels.read_text().splitlines()
    contrary = other.replace("Win", "Lose")
    labels.write_text("\n".join([head, row, contrary]) + "\n")
    with pytest.raises(ValueError, match=r"nothing is left of .*rejected\.jsonl"):
        annotate_folder([labels], tmp_path / "videos", format="imigue", who=Who())
    [refused] = lines(tmp_path / "videos" / "rejected.jsonl")
    assert "emotion is 'negative', and 'positive' on line 2" in refused["reason"]


def test_clips_that_nobody_is_known_of_are_refused(tmp_path, media, train):
    (tmp_path / "who.csv").write_text("name,subject\nsample_00000023,ann\n,bo\n")
    who = read_who("", tmp_path / "who.csv", False)
    summary = annotate_folder([train], media, format="merr", who=who)
    assert [a.subject for a in accepted(media)] == ["ann"]
    assert summary.rejected == 3
    assert "every clip" not in summary.describe()
    told = lines(media / "rejected.jsonl")
    assert told[0]["reason"] == "who.csv: name is empty"
    assert "--subjects has no 'sample_00000046'" in told[1]["reason"]


def test_in_another_folder_media_are_linked(tmp_path, media, train):
    output = tmp_path / "mer"
    annotate_folder([train], media, output, format="merr", who=EACH)
    found = accepted(output)
    assert [a.media for a in found] == [
        "media/sample_00000023.mp4", "media/sample_00000046.mp4",
        "media/sample_00000054.mp4",
    ]  # fmt: skip
    assert os.path.samefile(output / found[0].media, media / "sample_00000023.mp4")
    (output / "annotations.jsonl").unlink()
    annotate_folder([train], media, output, format="merr", who=EACH)
    assert accepted(output) == found


def test_nothing_that_is_there_is_written_over(tmp_path, media, train):
    output = tmp_path / "mer"
    (output / "media").mkdir(parents=True)
    (output / "media" / "sample_00000023.mp4").write_bytes(b"mine")
    annotate_folder([train], media, output, format="merr", who=EACH)
    assert (output / "media" / "sample_00000023.mp4").read_bytes() == b"mine"
    assert [a.clip_id for a in accepted(output)] == [
        "sample_00000046", "sample_00000054",
    ]  # fmt: skip
    assert "cannot be linked" in lines(output / "rejected.jsonl")[0]["reason"]
    before = (output / "annotations.jsonl").read_bytes()
    with pytest.raises(ValueError, match="is there already: remove it"):
        annotate_folder([train], media, output, format="merr", who=EACH)
    assert (output / "annotations.jsonl").read_bytes() == before


def test_a_taxonomy_that_is_there_is_kept(tmp_path, media, train):
    own, other = media / "taxonomy.json", tmp_path / "taxonomy.json"
    own.write_text('{"emotions": ["sad", "happy"], "nfbl": []}')
    other.write_text('{"emotions": ["happy"], "nfbl": []}')
    with pytest.raises(ValueError, match="is there already and differs from"):
        annotate_folder([train], media, format="merr", who=EACH, taxonomy=other)
    annotate_folder([train], media, format="merr", who=EACH)
    assert folder_taxonomy(media).emotions == ("sad", "happy")
    assert {a.emotion for a in accepted(media)} == {"happy"}


def test_a_given_taxonomy_refuses_what_it_lacks(tmp_path, media, train):
    path = tmp_path / "taxonomy.json"
    path.write_text('{"emotions": ["happy", "sad"], "nfbl": []}')
    summary = annotate_folder([train], media, format="merr", who=EACH, taxonomy=path)
    assert folder_taxonomy(media).emotions == ("happy", "sad")
    assert {a.emotion for a in accepted(media)} == {"happy"}
    assert summary.rejected == 1
    assert "emotion 'angry' is none" in lines(media / "rejected.jsonl")[0]["reason"]


def test_capitals_of_a_given_taxonomy_are_kept(tmp_path, media, train):
    path = tmp_path / "taxonomy.json"
    path.write_text('{"emotions": ["Happy", "angry", "Angry"], "nfbl": []}')
    train.write_text(TRAIN.replace("happy", "HAPPY"))
    summary = annotate_folder([train], media, format="merr", who=EACH, taxonomy=path)
    assert [a.emotion for a in accepted(media)] == ["angry", "Happy", "Happy"]
    assert summary.rejected == 0


def test_clips_of_which_nothing_is_said_are_refused(tmp_path, media):
    path = tmp_path / "track2_train_ovmerd.csv"
    path.write_text('name,openset\nsample_00000023,"[a, b]"\nsample_00000046,[calm]\n')
    summary = annotate_folder([path], media, format="affectgpt", who=EACH)
    assert [a.emotion for a in accepted(media)] == ["calm"]
    assert summary.rejected == 1
    (media / "annotations.jsonl").unlink()
    more = tmp_path / "track3_train_ovmerd.csv"
    more.write_text("name,reason\nsample_00000023,He sighs.\n")
    summary = annotate_folder([path, more], media, format="affectgpt", who=EACH)
    assert (summary.clips, summary.without_emotion) == (2, 1)


def test_what_is_written_can_be_deidentified(tmp_path, labels):
    videos = tmp_path / "videos"
    annotate_folder([labels], videos, format="imigue", who=Who())
    summary = deidentify_folder(videos, tmp_path / "deidentified", workers=1)
    assert (summary.clips, summary.rejected) == (2, 0)
    before, after = accepted(videos), accepted(tmp_path / "deidentified")
    assert [a.nfbl for a in after] == [a.nfbl for a in before]


def test_a_file_without_rows_is_told_as_one(tmp_path, media):
    path = tmp_path / "labels.csv"
    path.write_text("video_id,class,start_frame,end_frame\n")
    with pytest.raises(ValueError, match=r"labels\.csv lists no clip: is it of this"):
        annotate_folder([path], media, format="imigue", who=EACH)


def test_where_nothing_is_left_nothing_is_written(tmp_path, media, train):
    train.write_text("sample_1 happy\n")
    with pytest.raises(ValueError, match="nothing is left of 1 clips: see"):
        annotate_folder([train], media, format="merr", who=EACH)
    assert not (media / "annotations.jsonl").exists()
    assert "no media are named" in lines(media / "rejected.jsonl")[0]["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "iemocap"}, "--format is 'iemocap'; it must be one of imigue"),
        ({"language": "german"}, "--language is 'german'; it must be one of english"),
    ],
)
def test_unknown_words_are_refused_first(media, train, changes, message):
    with pytest.raises(ConfigError, match=message):
        annotate_folder([train], media, **{"format": "merr", "who": EACH} | changes)
