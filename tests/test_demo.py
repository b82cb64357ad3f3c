"""What the demo prints, and what it reads of packages."""

import io
import json

from rich.console import Console

from deemo_jax import demo


def test_the_curve_goes_from_the_first_loss_to_the_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i + 1, "loss": 4.0 - i / 50} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, blocks, last = demo.curve(path).split()
    assert (first, last) == ("4.00", "2.020")
    assert blocks == "".join(sorted(blocks, reverse=True))
    assert (blocks[0], blocks[-1]) == ("█", "▁")


def test_a_curve_of_one_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert demo.curve(tmp_path / "metrics.jsonl").startswith("2.00 ")


def test_the_configuration_is_tiny_with_the_seed():
    config = demo.demo_config(7)
    assert config.seed == 7
    assert config.data.synthetic.test_clips >= 300


def test_raw_clips_are_a_talking_person_with_speech(tmp_path):
    from deemo_jax.media import probe, read_audio

    demo.make_raw_clips(tmp_path)
    media = probe(tmp_path / "interview.mp4")
    assert (media.width, media.height) == (176, 144)
    sound = read_audio(tmp_path / "interview.mp4")
    assert sound is not None
    assert abs(sound).max() > 0.05
    before = (tmp_path / "annotations.jsonl").stat().st_mtime_ns
    demo.make_raw_clips(tmp_path)
    assert (tmp_path / "annotations.jsonl").stat().st_mtime_ns == before


def test_brackets_of_a_summary_are_shown():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(demo.summary([("audit", "pip install 'deemo-jax[audit]'")]))
    assert "pip install 'deemo-jax[audit]'" in console.export_text()
