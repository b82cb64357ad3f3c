import pytest

from deemo_jax.annotate import affectgpt
from deemo_jax.annotate.lines import Line


def read(tmp_path, text, language="english"):
    (tmp_path / "a.csv").write_bytes(text.encode())
    return [
        (line.name, line.emotion, line.reasoning, line.transcript)
        if isinstance(line, Line)
        else (line.line, line.reason)
        for line in affectgpt.read(tmp_path / "a.csv", language)
    ]


def test_the_first_emer(tmp_path):
    text = (
        "names,emotions,subtitles,reasons\n"
        'sample_00000648,Angry,"Stop, now.","In the video, he says ""stop""."\n'
        "sample_00004422,happy,,He laughs.\n"
        ",happy,,He laughs.\n"
    )
    assert read(tmp_path, text) == [
        ("sample_00000648", "angry", 'In the video, he says "stop".', "Stop, now."),
        ("sample_00004422", "happy", "He laughs.", None),
        (4, "a.csv: names is empty"),
    ]
    chinese = (
        "names,emotions,subtitles,reasons\nsample_00000648,生气,别说了。,他怒吼。\n"
    )
    assert read(tmp_path, chinese) == [
        ("sample_00000648", "生气", "他怒吼。", "别说了。")
    ]


def test_the_second_emer_has_both_languages(tmp_path):
    text = "name,chinese,english\nsample_00000000,他笑了。,He smiles.\n"
    assert read(tmp_path, text) == [("sample_00000000", None, "He smiles.", None)]
    assert read(tmp_path, text, "chinese") == [
        ("sample_00000000", None, "他笑了。", None)
    ]


def test_descriptions_and_discrete_emotions(tmp_path):
    assert read(tmp_path, "name,reason\na,He smiles.\n") == [
        ("a", None, "He smiles.", None)
    ]
    assert read(tmp_path, "name,discrete,valence\na,happy,2.1\n") == [
        ("a", "happy", None, None)
    ]


@pytest.mark.parametrize(
    ("labels", "emotion"),
    [
        ('"[happy, calm]"', None),
        ("\"['happy', 'calm']\"", None),
        ("[Happy]", "happy"),
        ("\"['happy', 'Happy']\"", "happy"),
        ("[]", None),
        ("", None),
    ],
)
def test_of_several_open_vocabulary_labels_none_is_the_emotion(
    tmp_path, labels, emotion
):
    assert read(tmp_path, f"name,openset\na,{labels}\n") == [("a", emotion, None, None)]


def test_other_tables_are_refused_as_a_whole(tmp_path):
    with pytest.raises(ValueError, match="no column name or names, its columns are id"):
        read(tmp_path, "id,reason\na,b\n")
    with pytest.raises(ValueError, match="no column emotions or discrete"):
        read(tmp_path, "name,sentence\na,b\n")
