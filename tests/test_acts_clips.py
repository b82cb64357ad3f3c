"""What the verbs that make records of clips do with what they are given."""

import json

import numpy as np
import pytest

from deemo_jax import cli
from deemo_jax.data.consent import read_withdrawn
from deemo_jax.media import write_video
from tests.small import make_corpus

FRAME = np.zeros((16, 16, 3), np.uint8)


def test_refused_inputs_exit_3_and_are_listed(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "annotations.jsonl").write_text("not json\n")
    words = ["deidentify", f"--input={raw}", f"--output={tmp_path / 'out'}"]
    assert cli.main(words) == 3
    out = capsys.readouterr().out
    assert "1 refused" in out
    listed = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(listed[0])["line"] == 1


def test_annotations_of_others_that_were_refused_exit_3(tmp_path, capsys):
    media = tmp_path / "clips"
    media.mkdir()
    write_video(media / "7.mp4", ((k / 10, FRAME) for k in range(10)))
    labels = tmp_path / "labels.csv"
    head = "video_id,subject_id,class,start_frame,end_frame"
    labels.write_text(f"{head}\n7,3,1,0,4\n7,3,1,x,4\n")
    words = ["annotate", "--format=imigue", f"--input={labels}", f"--media={media}"]
    assert cli.main([*words, "--fps=0"]) == 2
    assert "--fps is '0'; give a number above 0" in capsys.readouterr().err
    assert cli.main(words) == 3
    out = capsys.readouterr().out
    assert "1 clips of 1 subjects, 1 instances of body language" in out
    assert f"1 refused, see {media / 'rejected.jsonl'}" in out
    labels.write_text(f"{head}\n7,,1,0,4\n")
    (media / "annotations.jsonl").unlink()
    assert cli.main(words) == 2
    assert "give --subjects=FILE" in capsys.readouterr().err
    assert cli.main([*words, "--subject_per_clip=true"]) == 0


def test_a_packed_folder_is_looked_after(tmp_path, capsys):
    """Checked, indexed anew, a subject withdrawn by the owner's name and purged."""
    packed = make_corpus(tmp_path)
    owner = tmp_path / "corpus"
    first = (owner / "deidentified.jsonl").read_text().splitlines()[0]
    subject = json.loads(first)["annotation"]["subject"]

    def said(*words, code=0):
        assert cli.main(["pack", f"--output={packed}", *words]) == code
        found = capsys.readouterr()
        return found.out if found.out.strip() else found.err

    assert said("--check").endswith(": no problems\n")
    index = next(packed.glob("*-train.*.index"))
    index.write_bytes(index.read_bytes()[:-1])
    lines = said("--check", code=1).splitlines()
    assert str(index) in lines[-2]
    assert lines[-1].endswith(": 1 problem")
    assert "14 records are listed" in said("--reindex")
    assert "--salt_file" in said(f"--withdraw={subject}", code=2)
    salt = f"--salt_file={owner / 'salt.txt'}"
    runs = f"--runs={tmp_path}"
    assert "no clip of subject 'x'" in said("--withdraw=x", salt, runs, code=1)
    nowhere = f"--runs={tmp_path / 'no'}"
    assert "where no folder is" in said(f"--withdraw={subject}", salt, nowhere, code=2)
    assert not read_withdrawn(packed)
    words = said(f"--withdraw={subject}", salt, runs)
    assert "clips of" in words
    assert "no run in" in words
    assert "are gone from the shards" in said("--purge")
    assert said("--check").endswith(": no problems\n")
    assert "one after another" in said("--check", "--purge", code=2)
    assert "--input is missing" in said("--name=mer", code=2)
    assert "--name is missing" in said(f"--input={owner}", code=2)
    assert "--hop does nothing with --check" in said("--check", "--hop=4", code=2)
    alone = said(f"--input={owner}", "--name=mer", runs, code=2)
    assert "--runs does nothing without --withdraw: leave it out" in alone
    for word, message in (
        ("--name=Bad-Name", "'Bad-Name' is no name for a data set"),
        ("--shards=0", "--shards is 0: give 1 or more"),
        ("--window=-5", "--window is -5: give seconds above 0"),
        ("--hop=4", "--hop is 4, but clips of mer are not cut"),
    ):
        assert message in said(f"--input={owner}", "--name=mer", word, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input=tests"], "--config is missing; see `deemo pack --help`"),
        (["--input=tests", "--config.seed=1"], "--config is missing"),
        (["--config=configs/tiny.py:align"], "--input is missing"),
        (
            ["--input=tests", "--config=configs/tiny.py:align", "--dtype=int8"],
            "'int8'; it must be one of bfloat16",
        ),
        (["--check"], "give --check and --features one after another"),
        (["--stratify"], "--stratify does nothing with --features: leave it out"),
    ],
)
def test_features_that_are_not_asked_for_in_full(words, message, tmp_path, capsys):
    output = tmp_path / "encoded"
    assert cli.main(["pack", "--features", f"--output={output}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
