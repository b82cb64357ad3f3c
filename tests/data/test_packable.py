import dataclasses
import json

import pytest

from deemo_jax.clip import MEASURE, append_deidentified, read_deidentified
from deemo_jax.data.pack import pack_folder
from deemo_jax.data.source import ShardSource

VERDICTS = ("passed", "failed", "unaudited", "splendid", "generated")


@pytest.mark.parametrize(
    ("allow", "packed"), [(False, {"passed", "generated"}), (True, {*VERDICTS[::2]})]
)
def test_clips_that_no_audit_passed_are_refused(tmp_path, input, allow, packed):
    clips, _ = read_deidentified(input)
    for one, verdict in zip(clips, VERDICTS, strict=False):
        audit: dict = {"measure": MEASURE}
        audit |= {"reasons": ["3 faces are left"]} if verdict == "failed" else {}
        append_deidentified(
            input, dataclasses.replace(one, verdict=verdict, audit=audit)
        )
    folder = tmp_path / "packed"
    summary = pack_folder(input, folder, name="mer", allow_unaudited=allow)
    rows = [row for split in summary.records for row in ShardSource(folder, split)]
    assert {row.verdict for row in rows} == packed | {"generated"}
    found = map(json.loads, (input / "rejected_by_pack.jsonl").read_text().splitlines())
    refused = {line["clip_id"]: line for line in found}
    assert summary.rejected == len(refused) == len(VERDICTS) - len(packed)
    assert refused["clip1"]["reason"] == "its verdict is 'failed' (3 faces are left)"
    assert "clip3" in refused
    if not allow:
        assert "--allow_unaudited" in refused["clip2"]["remedy"]


@pytest.mark.parametrize("allow", [False, True])
def test_what_passed_an_audit_of_long_ago_is_unaudited(input, tmp_path, allow):
    one = read_deidentified(input)[0][0]
    for audit in ({}, {"measure": "faces/1"}):
        append_deidentified(
            input, dataclasses.replace(one, verdict="passed", audit=audit)
        )
        pack_folder(input, tmp_path / "packed", name="mer", allow_unaudited=allow)
        refused = (input / "rejected_by_pack.jsonl").read_text()
        assert ("by another version" in refused) != allow
        card = (tmp_path / "packed" / "README.md").read_text()
        assert "passed" not in card
        assert ("| verdict | unaudited | 1 |" in card) == allow


CLIP0 = '{"clip_id": "clip0", "media": "media/clip0.mp4", "subject": "s"'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (CLIP0 + ', "consent": "withdrawn"}', "consent is withdrawn"),
        (CLIP0 + ', "consent": "revoked"}', "consent 'revoked' is none"),
        (CLIP0 + ', "consent": ""}', "consent is empty"),
        (CLIP0 + ', "consent": false}', "consent is False"),
        (CLIP0 + "}\n" + CLIP0 + ', "consent": "revoked"}', "stands on line 1"),
        (CLIP0 + "}\n" + CLIP0 + ', "consent": "withdrawn"}', "is withdrawn"),
        ("", "no sound line"),
    ],
)
def test_whose_consent_is_not_clear_beside_the_media_is_not_packed(
    input, tmp_path, line, words
):
    path = input / "annotations.jsonl"
    first, _, others = path.read_text().partition("\n")
    assert '"clip0"' in first
    path.write_text(line + "\n" + others)
    summary = pack_folder(input, tmp_path / "packed", name="mer")
    assert (summary.rejected, sum(summary.records.values())) == (1, 11)
    [refused] = (input / "rejected_by_pack.jsonl").read_text().splitlines()
    assert json.loads(refused)["clip_id"] == "clip0"
    assert words in json.loads(refused)["reason"]


@pytest.mark.parametrize(
    "line", [', "consent": "withdrawn",}', ', "consent": "", "consent": "withdrawn"}']
)
def test_a_line_that_cannot_be_read_may_withdraw_a_consent(input, tmp_path, line):
    path = input / "annotations.jsonl"
    path.write_text(path.read_text() + CLIP0 + line + "\n")
    with pytest.raises(ValueError, match="line 13, may withdraw a consent"):
        pack_folder(input, tmp_path / "packed", name="mer")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("name", ["clip0 ", "Clip0"])
def test_a_line_that_withdraws_the_consent_to_no_clip_is_not_passed_over(
    input, tmp_path, name
):
    path, clips = input / "annotations.jsonl", read_deidentified(input)[0]
    line = CLIP0.replace("clip0", name, 1) + ', "consent": "withdrawn"}'
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"line 13, .* none has the id '{name}'"):
        pack_folder(input, tmp_path / "packed", name="mer")
    path.write_text(path.read_text().replace(name, "clip0"))
    (clips[0].audio or input).unlink()  # of a clip that is known and gone, it may stay
    summary = pack_folder(input, tmp_path / "packed", name="mer")
    assert sum(summary.records.values()) == 11


@pytest.mark.parametrize("harm", ["unlink", "dangling"])
def test_without_the_lines_that_withdraw_nothing_is_packed(input, tmp_path, harm):
    path = input / "annotations.jsonl"
    path.unlink()
    if harm == "dangling":
        path.symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match=r"annotations\.jsonl, where .* is missing"):
        pack_folder(input, tmp_path / "packed", name="mer")


@pytest.mark.parametrize(
    ("whole", "broken"),
    [("}\n", ""), ('"verdict"', '"ver'), ('"annotation"', '"annot\u00e4tion"')],
)
def test_a_verdict_that_cannot_be_read_does_not_bring_back_the_one_before(
    input, tmp_path, whole, broken
):
    one = read_deidentified(input)[0][0]
    append_deidentified(input, dataclasses.replace(one, verdict="failed"))
    path = input / "deidentified.jsonl"
    before, last = path.read_text()[:-1].rsplit("\n", 1)
    path.write_text(before + "\n" + (last + "\n").replace(whole, broken))
    with pytest.raises(ValueError, match="line 13, may be of a clip that failed its"):
        pack_folder(input, tmp_path / "packed", name="mer")
