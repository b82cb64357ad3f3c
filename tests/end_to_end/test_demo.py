"""The demo's whole path, at the smallest sizes, interrupted and started again."""

import json

import pytest

from deemo_jax import demo
from tests.small import small_config


def small(seed: int):
    return small_config(
        seed=seed,
        train__steps=3,
        train__save_every=2,
        evaluate__batch_size=8,
        evaluate__max_new_tokens=4,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir of a demo that was interrupted before training, then ran through."""
    workdir = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", small)

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(demo, "train", interrupted)
            with pytest.raises(KeyboardInterrupt):
                demo.demo(workdir, seed=3)
        demo.demo(workdir, seed=3)
    return workdir


def test_every_promised_file_is_there(finished):
    for name in (
        "raw/interview.mp4",
        "deidentified/deidentified.jsonl",
        "deidentified/media/interview.mp4",
        "run/data/dataset_info.json",
        "run/metrics.jsonl",
        "run/checkpoints/3/manifest.json",
        "run/eval/0/metrics.json",
        "run/eval/3/report.html",
        "run/eval/3/predictions.jsonl",
        "pytorch/model.safetensors",
        "pytorch/parity.json",
        "pytorch/README.md",
    ):
        assert (finished / name).is_file(), name


def test_the_real_face_is_found_in_every_frame_and_masked(finished):
    lines = (finished / "deidentified" / "deidentified.jsonl").read_text().splitlines()
    faces = [json.loads(line)["faces"] for line in lines]
    assert len(faces) == 2
    for counts in faces:
        assert counts["frames_with_face"] == counts["frames"] > 0
        assert counts["left"] == 0


def test_the_export_agrees_with_pytorch(finished):
    parity = json.loads((finished / "pytorch" / "parity.json").read_text())
    assert parity["passed"]
    assert parity["max_abs_difference"] < 1e-4
    assert parity["greedy_text_equal"]


def test_run_again_it_changes_nothing_and_says_the_same(finished, monkeypatch, capsys):
    monkeypatch.setattr(demo, "demo_config", small)
    metrics = (finished / "run" / "metrics.jsonl").read_bytes()
    weights = (finished / "pytorch" / "model.safetensors").stat().st_mtime_ns
    demo.demo(finished, seed=3)
    said = capsys.readouterr().out
    for word in ("faces", "records", "loss", "recognition", "modalities", "PyTorch"):
        assert word in said
    assert (finished / "run" / "metrics.jsonl").read_bytes() == metrics
    assert (finished / "pytorch" / "model.safetensors").stat().st_mtime_ns == weights
