import dataclasses
import json

import numpy as np
import pytest

from deemo_jax.annotation import Annotation, Interval
from deemo_jax.clip import (
    MANIFEST,
    Clip,
    DeidentifiedClip,
    append_deidentified,
    file_digest,
    read_deidentified,
    replace_deidentified,
)
from deemo_jax.media import write_audio, write_video
from deemo_jax.refusals import Refusal


def make(folder, clip_id: str, *, video=True, audio=True) -> DeidentifiedClip:
    (folder / "media").mkdir(exist_ok=True)
    files = {}
    if video:
        files["video"] = folder / "media" / f"{clip_id}.mp4"
        frames = [(i / 10, np.full((16, 16, 3), 9 * i, np.uint8)) for i in range(3)]
        write_video(files["video"], frames)
    if audio:
        files["audio"] = folder / "media" / f"{clip_id}.flac"
        write_audio(files["audio"], np.zeros(4800, np.float32))
    return DeidentifiedClip(
        annotation=Annotation(
            clip_id=clip_id,
            media=f"media/{clip_id}.mp4",
            subject="s",
            end=0.3,
            nfbl=(Interval(label="folding arms", start=0.0, end=0.2),),
        ),
        video=files.get("video"),
        audio=files.get("audio"),
        sha256={part: file_digest(path) for part, path in files.items()},
        deidentification="generated/1",
        verdict="generated",
        faces={"frames": 3},
        source="abc",
    )


def append_line(folder, fields: object) -> None:
    with open(folder / MANIFEST, "a") as file:
        file.write(json.dumps(fields) + "\n")


def test_what_is_appended_is_read(tmp_path):
    clips = [
        make(tmp_path, "a"),
        make(tmp_path, "b", audio=False),
        make(tmp_path, "c", video=False),
    ]
    for clip in clips:
        append_deidentified(tmp_path, clip)
    assert read_deidentified(tmp_path) == (clips, [])


def test_a_torn_line_is_reported_then_cut_off(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    append_deidentified(tmp_path, a)
    with open(tmp_path / MANIFEST, "a") as file:
        file.write(json.dumps(b.to_json(tmp_path))[:50])
    clips, rejections = read_deidentified(tmp_path)
    assert (clips, [r.line for r in rejections]) == ([a], [2])
    append_deidentified(tmp_path, b)
    assert read_deidentified(tmp_path) == ([a, b], [])


def test_a_last_line_without_an_end_is_kept(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    append_deidentified(tmp_path, a)
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text.rstrip("\n"))  # as some editors leave it
    append_deidentified(tmp_path, b)
    assert read_deidentified(tmp_path) == ([a, b], [])


def test_the_last_line_of_a_clip_counts(tmp_path):
    old = make(tmp_path, "a")
    append_deidentified(tmp_path, old)
    append_deidentified(tmp_path, make(tmp_path, "b"))
    new = dataclasses.replace(old, verdict="passed")
    append_deidentified(tmp_path, new)
    clips, _ = read_deidentified(tmp_path)
    assert [(c.annotation.clip_id, c.verdict) for c in clips] == [
        ("a", "passed"),
        ("b", "generated"),
    ]
    append_line(tmp_path, new.to_json(tmp_path) | {"sha256": {}})
    clips, rejections = read_deidentified(tmp_path)
    assert [c.annotation.clip_id for c in clips] == ["b"]
    assert [r.clip_id for r in rejections] == ["a"]


@pytest.mark.parametrize("part", ["video", "audio"])
def test_an_edited_or_missing_file_is_refused_by_name(tmp_path, part):
    clip, other = make(tmp_path, "a"), make(tmp_path, "b")
    append_deidentified(tmp_path, clip)
    append_deidentified(tmp_path, other)
    path = getattr(clip, part)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    clips, (rejection,) = read_deidentified(tmp_path)
    assert clips == [other]
    assert rejection.clip_id == "a"
    assert f"media/{path.name} is not the file" in rejection.reason
    path.unlink()
    _, (rejection,) = read_deidentified(tmp_path)
    assert path.name in rejection.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"video": "../a.mp4"},
        {"video": 3},
        {"video": None, "audio": None},
        {"sha256": None},
        {"sha256": {"audio": "0"}},
        {"faces": []},
        {"faces": {"boxes": "3"}},
        {"words": {"NAME": None}},
        {"audit": None},
        {"audit": {"reasons": 5}},
        {"audit": {"reasons": [5]}},
        {"verdict": ["passed"]},
        {"deidentification": 3},
        {"source": None},
        {"surplus": 1},
        {"annotation": None},
        {"annotation": {"clip_id": "a"}},
        {"annotation": {"clip_id": 3}},
    ],
)
def test_what_is_no_such_clip_is_refused(tmp_path, changes):
    append_line(tmp_path, make(tmp_path, "a").to_json(tmp_path) | changes)
    clips, rejections = read_deidentified(tmp_path)
    assert clips == []
    assert [r.line for r in rejections] == [1]
    for key in ("video", "verdict"):
        fields = make(tmp_path, "b").to_json(tmp_path)
        del fields[key]
        append_line(tmp_path, fields)
    clips, rejections = read_deidentified(tmp_path)
    assert (clips, len(rejections)) == ([], 2)


def test_clips_are_replaced_and_other_lines_stay(tmp_path):
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    append_deidentified(tmp_path, a)
    append_deidentified(tmp_path, b)
    append_line(tmp_path, {"surplus": 1})
    before = (tmp_path / MANIFEST).read_text().splitlines()
    new = dataclasses.replace(a, verdict="failed", audit={"reasons": ["left"]})
    replace_deidentified(tmp_path, [new])
    assert (tmp_path / MANIFEST).read_text().splitlines()[1:] == before[1:]
    clips, rejections = read_deidentified(tmp_path)
    assert clips == [new, b]
    assert len(rejections) == 1


def test_the_digest_is_of_the_media_and_of_the_part(tmp_path):
    media = tmp_path / "a.mp4"
    media.write_bytes(b"one")
    about = make(tmp_path, "a").annotation
    whole = Clip(annotation=about, media=media).digest()
    part = Clip(annotation=dataclasses.replace(about, start=0.5), media=media).digest()
    told = dataclasses.replace(about, transcript="Yes.")
    assert Clip(annotation=told, media=media).digest() == whole
    media.write_bytes(b"two")
    other = Clip(annotation=about, media=media).digest()
    assert len({whole, part, other}) == 3
    with pytest.raises(Refusal, match=r"gone\.mp4 cannot be read \(No such file"):
        Clip(annotation=about, media=tmp_path / "gone.mp4").digest()


def test_a_folder_without_manifest_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="deemo deidentify"):
        read_deidentified(tmp_path)
