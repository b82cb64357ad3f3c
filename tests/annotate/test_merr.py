import json

import pytest

from deemo_jax.annotate import merr
from deemo_jax.annotate.lines import Line

FINE = {
    "sample_00000023": {
        "AU_list": ["AU04"],
        "visual_prior_list": ["Brows drawn together"],
        "audio_prior_list": "and his tone sounds firm.",
        "peak_index": "20",
        "pseu_emotion": "Angry",
        "text": " Leave it there. ",
        "smp_reason_caption": "He draws his brows together.",
    },
    "sample_00000046": {"caption": "She speaks slowly.", "text": ""},
    "sample_00000047": ["no object"],
    "sample_00000054": {"caption": 3},
}


def told(found):
    return [
        (line.name, line.emotion, line.reasoning, line.transcript)
        if isinstance(line, Line)
        else (line.line, line.clip_id)
        for line in found
    ]


def test_clips_by_name(tmp_path):
    path = tmp_path / "MERR_fine_grained.json"
    path.write_text(json.dumps(FINE))
    found = list(merr.read(path))
    assert told(found) == [
        ("sample_00000023", "angry", "He draws his brows together.", "Leave it there."),
        ("sample_00000046", None, "She speaks slowly.", None),
        (None, "sample_00000047"),
        (None, "sample_00000054"),
    ]


def test_lines_of_two_to_four_words(tmp_path):
    path = tmp_path / "relative_train3_NCEV.txt"
    path.write_text(
        "sample_00000023 angry\r\n\r\nsample_00000046 35 Happy -1.174107\r\n"
        "sample_00000047 35 sad\r\nsample_00000054\r\na b c d e\r\n"
    )
    assert told(merr.read(path)) == [
        ("sample_00000023", "angry", None, None),
        ("sample_00000046", "happy", None, None),
        ("sample_00000047", "sad", None, None),
        (5, "sample_00000054"),
        (6, "a"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {}, "a": {}}', "key 'a' stands twice"),
        ("[]", "a JSON list, no object"),
        ('{"a": // no JSON', "malformed JSON"),
    ],
)
def test_what_is_no_json_is_refused_as_a_whole(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(merr.read(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{}"),
        ("a.json", '{"info": {"version": "1"}, "clips": [1]}'),
        ("a.txt", ""),
        ("a.txt", "This is a text that is about something else.\n"),
        ("labels.csv", "video_id,class\n7,3\n"),
        ("said.csv", "name,sentence\nsample_1,I won.\n"),
    ],
)
def test_other_files_are_refused_as_a_whole(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is no file of MERR"):
        list(merr.read(tmp_path / name))
