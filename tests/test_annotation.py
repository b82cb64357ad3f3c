import json

import pytest

from deemo_jax.annotation import (
    WITHDRAWN,
    Annotation,
    Interval,
    folder_taxonomy,
    load_taxonomy,
    parse_annotation,
    read_annotations,
    write_annotations,
    write_taxonomy,
)
from deemo_jax.refusals import Refusal, write_rejections

GOOD = {"clip_id": "a", "media": "a.mp4", "subject": "s"}
TAXONOMY = load_taxonomy()


def refusal(**changes) -> str:
    with pytest.raises(Refusal) as caught:
        parse_annotation(GOOD | changes, TAXONOMY)
    assert caught.value.remedy
    return caught.value.reason


def interval(**changes) -> list[dict]:
    return [{"label": "folding arms", "start": 0.5, "end": 1.0} | changes]


def test_shipped_taxonomy_holds_imigues_classes_once():
    assert TAXONOMY.emotions == ("positive", "negative")
    assert len(set(TAXONOMY.nfbl)) == len(TAXONOMY.nfbl) == 32
    grouped = [label for labels in TAXONOMY.nfbl_groups.values() for label in labels]
    assert len(TAXONOMY.nfbl_groups) == 3
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) < set(TAXONOMY.nfbl)


def test_a_folders_taxonomy_replaces_the_shipped_one(tmp_path):
    assert folder_taxonomy(tmp_path) == TAXONOMY
    write_taxonomy(tmp_path / "taxonomy.json", TAXONOMY)
    assert folder_taxonomy(tmp_path) == TAXONOMY
    text = '{"emotions": ["calm", "tense"], "nfbl": [{"label": "nod", "group": "g"}]}'
    (tmp_path / "taxonomy.json").write_text(text)
    assert folder_taxonomy(tmp_path).emotions == ("calm", "tense")
    assert folder_taxonomy(tmp_path).nfbl_groups == {"g": ("nod",)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"emotions": ["a", "b"]}',
        '{"emotions": ["a", "a"], "nfbl": []}',
        '{"emotions": "ab", "nfbl": []}',
        '{"emotions": ["a"], "nfbl": [3]}',
        '{"emotions": ["a"], "nfbl": [{"label": 3}]}',
        '{"emotions": ["a"], "nfbl": [], "groups": {}}',
        '{"emotions": ["a"], "nfbl": [{"label": "None"}]}',
    ],
)
def test_a_broken_taxonomy_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "taxonomy.json").write_text(text)
    with pytest.raises(ValueError, match=r"taxonomy\.json"):
        folder_taxonomy(tmp_path)


def test_an_annotation_survives_its_line():
    annotation = Annotation(
        clip_id="a.b_c-1",
        media="sub/ä.mp4",
        subject="s",
        start=1.5,
        end=4.0,
        transcript="We lost.\nOnce more.",
        emotion="negative",
        reasoning="Arms folded, voice low.",
        nfbl=(Interval(label="folding arms", start=0.5, end=2.0),),
        consent="withdrawn",
        split="val",
    )
    line = json.dumps(annotation.to_json()).encode()
    assert parse_annotation(json.loads(line), TAXONOMY) == annotation
    bare = parse_annotation(GOOD | {"transcript": None, "emotion": None}, TAXONOMY)
    assert parse_annotation(bare.to_json(), TAXONOMY) == bare
    assert (bare.consent, bare.start, bare.end) == ("granted", 0.0, None)
    assert bare.nfbl is None
    none = parse_annotation(GOOD | {"nfbl": []}, TAXONOMY)
    assert none.nfbl == ()
    for one in (bare, none):
        assert parse_annotation(one.to_json(), TAXONOMY) == one
    assert parse_annotation(GOOD | {"transcript": " "}, TAXONOMY).transcript is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"emotion": "angry"}, "'angry' is none of the 2"),
        ({"emotion": 3}, "emotion is 3"),
        ({"nfbl": interval(label="waving")}, "'waving' is none of the 32"),
        ({"nfbl": interval(end=0.5)}, "not after its start"),
        ({"nfbl": interval(begin=1)}, "unknown key 'begin'"),
        ({"nfbl": interval(start="0")}, "start is '0'"),
        ({"nfbl": interval(), "end": 0.4}, "after the clip's 0.4 s"),
        ({"nfbl": "folding arms"}, "nfbl is"),
        ({"nfbl": [1]}, "nfbl holds 1"),
        ({"start": 2, "end": 1}, "end 1 is not after start 2"),
        ({"start": 2, "end": 2}, "end 2 is not after start 2"),
        ({"start": -1}, "start -1 is negative"),
        ({"end": float("nan")}, "end is nan"),
        ({"end": 10**400}, "end is 1000"),
        ({"start": True}, "start is True"),
        ({"clip_id": "../a"}, "cannot name a file"),
        ({"clip_id": ""}, "cannot name a file"),
        ({"clip_id": None}, "clip_id is missing"),
        ({"media": " "}, "media is empty"),
        ({"consent": "maybe"}, "consent 'maybe'"),
        ({"consent": ""}, "consent is empty"),
        ({"consent": None}, "consent is empty"),
        ({"split": "dev"}, "split 'dev'"),
        ({"transcripts": "x"}, "unknown key 'transcripts'"),
        ({"transcript": "\ud800"}, "half a character"),
    ],
)
def test_what_is_wrong_is_said(changes, reason):
    assert reason in refusal(**changes)


def test_near_misses_are_named():
    with pytest.raises(Refusal, match="did you mean 'transcript'"):
        parse_annotation(GOOD | {"transcrpt": "x"}, TAXONOMY)
    with pytest.raises(Refusal, match="did you mean 'folding arms'"):
        parse_annotation(GOOD | {"nfbl": interval(label="folding arm")}, TAXONOMY)


def test_bad_lines_never_stop_the_good_ones(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "in/b.mp4"):
        (tmp_path / name).touch()
    outside = tmp_path.parent / f"{tmp_path.name}.mp4"
    outside.touch()
    (tmp_path / "link.mp4").symlink_to(outside)
    (tmp_path / "way").symlink_to(tmp_path.parent)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    row = '{"clip_id": "%s", "media": "%s", "subject": "s"}'
    lines = [
        (b"\xef\xbb\xbf" + (row % ("a", "a.mp4")).encode(), None),
        (b"", None),
        (b'{"clip_id": "torn", "med', "malformed JSON"),
        (b"[1]", "no object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested|malformed"),
        (b'{"clip_id": "l", "end": ' + b"9" * 5000 + b"}", "a number is too long"),
        ((row % ("a", "in/b.mp4")).encode(), "already stands on line 1"),
        (b'{"clip_id": "b", "consent": "withdrawn", "consent": "granted"}', "twice"),
        ((row % ("c", "none.mp4")).encode(), "there is no file 'none.mp4'"),
        ((row % ("d", "in")).encode(), "there is no file 'in'"),
        ((row % ("e", f"../{outside.name}")).encode(), "out of the folder"),
        ((row % ("f", outside)).encode(), "out of the folder"),
        ((row % ("g", "link.mp4")).encode(), "out of the folder"),
        ((row % ("h", f"way/{outside.name}")).encode(), "out of the folder"),
        ((row % ("i", "loop.mp4")).encode(), "is no path|there is no file"),
        ((row % ("j", "a\\u0000.mp4")).encode(), "is no path"),
        ((row % ("\\ud800", "a.mp4")).encode(), "clip_id holds half a character"),
        ((row % ("k", "in/../in/b.mp4")).encode() + b"\r", None),
    ]
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(b"\n".join(line for line, _ in lines) + b"\n")
    annotations, rejections = read_annotations(path, TAXONOMY)
    assert [a.clip_id for a in annotations] == ["a", "k"]
    expected = [(n, why) for n, (_, why) in enumerate(lines, start=1) if why]
    assert [r.line for r in rejections] == [number for number, _ in expected]
    for rejection, (_, why) in zip(rejections, expected, strict=True):
        assert any(part in rejection.reason for part in why.split("|")), rejection
        assert rejection.remedy
    assert rejections[5].clip_id == "a"
    write_rejections(tmp_path / "rejected.jsonl", rejections)  # whatever is in them
    outside.unlink()


def test_a_second_line_is_refused_even_if_the_first_was(tmp_path):
    (tmp_path / "a.mp4").touch()
    rows = [GOOD | {"emotion": "?"}, GOOD]
    path = tmp_path / "annotations.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    annotations, rejections = read_annotations(path, TAXONOMY)
    assert annotations == []
    assert [(r.line, r.clip_id) for r in rejections] == [(1, "a"), (2, "a")]


def test_no_annotation_file_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"put an annotations\.jsonl"):
        read_annotations(tmp_path / "annotations.jsonl", TAXONOMY)


def test_written_lists_can_be_read(tmp_path):
    (tmp_path / "a.mp4").touch()
    annotation = parse_annotation(GOOD | {"transcript": "ä\u2028b"}, TAXONOMY)
    write_annotations(tmp_path / "annotations.jsonl", [annotation])
    read = read_annotations(tmp_path / "annotations.jsonl", TAXONOMY)
    assert read == ([annotation], [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "annotations.jsonl"]


@pytest.mark.parametrize("consent", ["withdrawn", "Withdrawn", " WITHDRAWN\n"])
def test_a_consent_is_withdrawn_however_it_is_written(tmp_path, consent):
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps(GOOD | {"consent": consent}))
    [rejection] = read_annotations(path, TAXONOMY)[1]
    assert (rejection.clip_id, rejection.reason) == ("a", WITHDRAWN)


def test_a_subject_is_one_however_the_name_is_written():
    names = [
        "Jos\u00e9",
        "Jose\u0301",
        " Jos\u00e9 ",
        "Jos\u00e9\n",
        "\ufeffJo\u200bs\u00e9",
        "\u202aJos\u00e9\u202c\ufe0f",
    ]
    rows = [parse_annotation(GOOD | {"subject": name}, TAXONOMY) for name in names]
    assert {row.subject for row in rows} == {"Jos\u00e9"}
