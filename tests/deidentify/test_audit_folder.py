"""`deemo audit` of a folder of real frames."""

import dataclasses
import json
import shutil

import pytest

from deemo_jax import cli
from deemo_jax.annotation import Annotation, write_annotations
from deemo_jax.clip import read_deidentified
from deemo_jax.config import ConfigError
from deemo_jax.deidentify import audit_faces, audit_folder
from deemo_jax.deidentify.folder import deidentify_folder
from deemo_jax.deidentify.settings import Audit, Mask, Settings
from deemo_jax.media import iter_frames, write_video

SMALL = Audit(longest_side=352)
SETTINGS = Settings(audit=SMALL)


@pytest.fixture(scope="module")
def folders(carphone, tmp_path_factory):
    """Raw and de-identified: one clip masked, one not; nothing looked at them yet."""
    folder = tmp_path_factory.mktemp("folders")
    raw, output = folder / "raw", folder / "output"
    raw.mkdir()
    write_video(raw / "a.mp4", iter_frames(carphone, 0.0, 0.1))
    write_video(raw / "b.mp4", iter_frames(carphone, 1.0, 1.1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_faces, "missing", lambda: "not asked for")
        for scale in (0.1, 1.4):
            write_annotations(
                raw / "annotations.jsonl",
                [Annotation(clip_id=name, media=f"{name}.mp4", subject=name)
                 for name in "ab"[: 1 + (scale == 0.1)]],
            )  # fmt: skip
            deidentify_folder(
                raw, folder / str(scale), settings=Settings(mask=Mask(scale=scale))
            )
    shutil.copytree(folder / "1.4", output)
    shutil.copy(folder / "0.1" / "media" / "b.mp4", output / "media")
    lines = (folder / "0.1" / "deidentified.jsonl").read_text().splitlines()
    [bare] = [line for line in lines if '"b"' in line]
    with open(output / "deidentified.jsonl", "a") as file:
        file.write(bare + "\n")
    write_annotations(
        raw / "annotations.jsonl",
        [Annotation(clip_id=n, media=f"{n}.mp4", subject=n) for n in "ab"],
    )
    return raw, output


@pytest.fixture
def copied(folders, tmp_path):
    for folder in folders:
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "raw", tmp_path / "output"


def test_an_error_that_nobody_foresaw_is_of_its_clip_alone(copied, monkeypatch, capsys):
    raw, output = copied
    real = audit_folder.audit_clip

    def audit_clip(annotation, *args, **kwargs):
        if annotation.clip_id == "a":
            raise TypeError("incompatible arguments")
        return real(annotation, *args, **kwargs)

    monkeypatch.setattr(audit_folder, "audit_clip", audit_clip)
    found = audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    assert (found.verdicts, found.rejected) == ({"failed": 1}, 1)
    [line] = (output / "audit" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["clip_id"] == "a"
    assert "TypeError: incompatible arguments" in line
    assert "Traceback" in capsys.readouterr().err
    [a, b] = read_deidentified(output)[0]
    assert (a.verdict, b.verdict) == ("unaudited", "failed")


def test_a_folder_gets_verdicts_figures_and_a_report(copied, capsys):
    raw, output = copied
    words = [f"--input={raw}", f"--output={output}", "--workers=2"]
    code = cli.main(["audit", *words, "--config.audit.longest_side=352"])
    said = capsys.readouterr().out
    assert code == 3  # one failed
    assert "audit: 1 failed, 1 passed" in said
    assert "\nb failed: " in said
    assert "no mask is on a face for 3 frames" in said
    assert "faces, naive, rank 1: " in said
    assert "of 2 trials among 2 subjects, by chance 50%" in said
    assert f"report: {output / 'audit' / 'report.html'}" in said
    clips, rejections = read_deidentified(output)
    assert [clip.verdict for clip in clips] == ["passed", "failed"]
    assert rejections == []
    found = json.loads((output / "audit" / "audit.json").read_text())
    assert [clip["verdict"] for clip in found["clips"]] == ["passed", "failed"]
    html = (output / "audit" / "report.html").read_text()
    assert html.count("data:image/jpeg") == 1  # what failed may show a face

    pack = ["pack", f"--input={output}", f"--output={raw / 'packed'}", "--name=mer"]
    assert cli.main(pack) == 3
    [line] = (output / "rejected_by_pack.jsonl").read_text().splitlines()
    assert json.loads(line)["clip_id"] == "b"
    assert not list((raw / "packed").rglob("*audit*"))


def test_an_interrupted_audit_goes_on_and_finds_the_same(copied, monkeypatch):
    raw, output = copied
    whole = output.with_name("whole")
    shutil.copytree(output, whole)
    found = audit_folder.audit_folder(raw, whole, settings=SETTINGS, workers=1)
    audit_clip, looked = audit_folder.audit_clip, []

    def until_b(annotation, *args, **kwargs):
        if annotation.clip_id == "b":
            with open(output / "deidentified.jsonl", "a") as file:
                file.write('{"annotation": {"clip_id": "b')  # torn by the interruption
            raise KeyboardInterrupt
        return audit_clip(annotation, *args, **kwargs)

    def counted(name):
        function = getattr(audit_folder, name)

        def call(annotation, *args, **kwargs):
            looked.append((annotation.clip_id, name == "audit_clip"))
            return function(annotation, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(audit_folder, "audit_clip", until_b)
        with pytest.raises(KeyboardInterrupt):
            audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    verdicts = {c.annotation.clip_id: c.verdict for c in read_deidentified(output)[0]}
    assert verdicts == {"a": "passed", "b": "unaudited"}
    for name in ("audit_clip", "compare_again"):
        monkeypatch.setattr(audit_folder, name, counted(name))
    again = audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    assert looked == [("a", False), ("b", True)]
    assert again == found
    for name in ("deidentified.jsonl", "audit/audit.json", "audit/report.html"):
        assert (output / name).read_text() == (whole / name).read_text()

    looked.clear()  # the report shows what failed, and other settings measure anew
    audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    assert looked == [("a", False), ("b", True)]
    other = Settings(audit=Audit(longest_side=352, every=1))
    audit_folder.audit_folder(raw, output, settings=other, workers=1)
    assert looked[2:] == [("a", True), ("b", True)]


def test_a_clip_that_fails_by_stricter_thresholds_is_shown(copied):
    raw, output = copied
    audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    strict = Settings(audit=dataclasses.replace(SMALL, faces_left=9, gap_frames=9))
    found = audit_folder.audit_folder(raw, output, settings=strict, workers=1)
    assert found.verdicts == {"passed": 1, "failed": 1}  # b is still recognised
    loose = dataclasses.replace(strict.audit, alike=1.0)
    loose = audit_folder.audit_folder(
        raw, output, settings=Settings(audit=loose), workers=1
    )
    assert loose.verdicts == {"passed": 2}
    audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    html = (output / "audit" / "report.html").read_text()
    assert "no mask is on a face" in html
    assert html.count("data:image/jpeg") == 1


def test_figures_that_somebody_edited_are_measured_anew(copied):
    raw, output = copied
    found = audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    path = output / "deidentified.jsonl"
    whole = path.read_text()
    for old, new in [('"compared": 1', '"compared": null'), ('"alike"', '"alik"')]:
        path.write_text(whole.replace(old, new))
        again = audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
        assert again == found
        assert path.read_text() == whole


def test_what_cannot_be_audited_is_listed_and_keeps_its_verdict(copied, monkeypatch):
    raw, output = copied
    monkeypatch.setattr(audit_folder, "audit_clip", None)  # it comes to none
    (raw / "a.mp4").write_bytes((raw / "b.mp4").read_bytes())
    write_annotations(
        raw / "annotations.jsonl",
        [Annotation(clip_id="a", media="a.mp4", subject="a")],
    )
    before = (output / "deidentified.jsonl").read_text()
    summary = audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    assert (summary.verdicts, summary.rejected) == ({}, 2)
    lines = (output / "audit" / "rejected.jsonl").read_text().splitlines()
    reasons = {line["clip_id"]: line["reason"] for line in map(json.loads, lines)}
    assert "is not what it was made from" in reasons["a"]
    assert "no sound line of it" in reasons["b"]
    assert (output / "deidentified.jsonl").read_text() == before
    assert not (output / "audit" / "report.html").exists()  # an earlier one stays
    with pytest.raises(ConfigError, match="--workers is -1"):
        audit_folder.audit_folder(raw, output, workers=-1)
    (output / "deidentified.jsonl").write_text("")
    with pytest.raises(ValueError, match="lists no clip"):
        audit_folder.audit_folder(raw, output)


def test_whose_consent_is_withdrawn_is_told_so(copied, monkeypatch):
    raw, output = copied
    monkeypatch.setattr(audit_folder, "audit_clip", None)  # it comes to none
    row = {"clip_id": "a", "media": "a.mp4", "subject": "a", "consent": "withdrawn"}
    (raw / "annotations.jsonl").write_text(json.dumps(row))
    audit_folder.audit_folder(raw, output, settings=SETTINGS, workers=1)
    first = (output / "audit" / "rejected.jsonl").read_text().splitlines()[0]
    assert "consent is withdrawn" in first
    assert "run `deemo deidentify`" in first


@pytest.mark.parametrize(
    ("input", "output", "words"),
    [
        ("raw", "raw", "write the folder with `deemo deidentify` first"),
        ("nowhere", "output", "put an annotations.jsonl"),
    ],
)
def test_other_folders_are_refused(copied, capsys, input, output, words):
    folder = copied[0].parent
    (folder / input).mkdir(exist_ok=True)
    flags = [f"--input={folder / input}", f"--output={folder / output}"]
    assert cli.main(["audit", *flags]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_without_the_extra_it_says_how_to_get_it(copied, monkeypatch, capsys):
    monkeypatch.setattr(audit_folder, "missing", lambda: "dlib is not there: get it")
    flags = [f"--input={copied[0]}", f"--output={copied[1]}"]
    assert cli.main(["audit", *flags]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "dlib is not there: get it" in line
