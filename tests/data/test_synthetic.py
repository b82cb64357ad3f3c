"""The generated corpus: its rule, its balance, and the folder it writes."""

from collections import Counter
import itertools
import shutil
from typing import Any

import numpy as np
import pytest

from deemo_jax.annotation import load_taxonomy, read_annotations
from deemo_jax.clip import read_deidentified
from deemo_jax.data import synthetic
from deemo_jax.data.pack import read_salt
from deemo_jax.data.synthetic import (
    CUES,
    GESTURES,
    best_accuracy,
    card,
    emotion_of,
    generate_corpus,
    plan_corpus,
)
from deemo_jax.media import iter_frames, read_audio

SIZES: dict[str, Any] = {
    "train_clips": 9,
    "test_clips": 4,
    "train_subjects": 3,
    "test_subjects": 2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, generate_corpus(folder, seed=7, **SIZES)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ((), 0.5),
        (("video",), 0.71875),
        (("audio",), 0.71875),
        (("text",), 0.71875),
        (("video", "audio"), 0.78125),
        (("audio", "text"), 0.78125),
        (("text", "video"), 0.78125),
        (("video", "audio", "text"), 1.0),
    ],
)
def test_the_best_accuracy_is_as_stated(subset, expected):
    assert best_accuracy(subset) == expected
    percent = f"{expected * 100:g} %"
    assert percent in (synthetic.__doc__ or "")
    assert f"| {expected:.5f} |" in card()


def test_an_unknown_cue_is_refused():
    with pytest.raises(ValueError, match="smell"):
        best_accuracy(["smell"])


def test_no_sum_is_zero_and_opposites_have_opposite_emotions():
    for grades in itertools.product(synthetic.GRADES, repeat=3):
        assert sum(grades) != 0
        assert emotion_of(*grades) != emotion_of(*(-grade for grade in grades))


def grades(plan):
    return plan.gesture, plan.voice, plan.words


def test_whole_decks_hold_every_combination_equally_often():
    plans = plan_corpus(
        seed=1, train_clips=192, test_clips=64, train_subjects=8, test_subjects=4
    )
    for split, times in (("train", 3), ("test", 1)):
        counts = Counter(grades(plan) for plan in plans if plan.split == split)
        assert len(counts) == 64
        assert set(counts.values()) == {times}


@pytest.mark.parametrize("clips", [2, 30, 63, 64, 101, 320])
def test_the_emotions_are_balanced(clips):
    plans = plan_corpus(
        seed=2, train_clips=clips, test_clips=clips, train_subjects=1, test_subjects=1
    )
    for split in ("train", "test"):
        found = Counter(plan.emotion for plan in plans if plan.split == split)
        assert sum(found.values()) == clips
        assert abs(found["positive"] - found["negative"]) <= 1


def test_a_cue_says_nothing_of_another_nor_of_the_subject():
    """Guessing by the most frequent grade of a subject is hardly better than chance."""
    plans = plan_corpus(
        seed=3, train_clips=6400, test_clips=64, train_subjects=10, test_subjects=2
    )
    train = [plan for plan in plans if plan.split == "train"]
    table = np.array([[*grades(plan), plan.subject] for plan in train], float)
    correlation = np.corrcoef(table.T) - np.eye(4)
    assert np.abs(correlation[:3, :3]).max() < 1e-9
    assert np.abs(correlation[3]).max() < 0.05
    for cue in range(3):
        for subject in range(10):
            shown = table[table[:, 3] == subject, cue]
            assert Counter(shown).most_common(1)[0][1] / len(shown) < 0.35


def test_nobody_is_in_both_splits():
    plans = plan_corpus(seed=4, **SIZES)
    people = {
        split: {plan.subject for plan in plans if plan.split == split}
        for split in ("train", "test")
    }
    assert len(people["train"]) == 3
    assert len(people["test"]) == 2
    assert not people["train"] & people["test"]


@pytest.mark.parametrize("wrong", [{"test_clips": 0}, {"train_subjects": 10}])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="give at least one subject"):
        plan_corpus(seed=0, **SIZES | wrong)


def test_the_folder_is_a_deidentified_one(corpus):
    folder, clips = corpus
    found, rejected = read_deidentified(folder)
    assert rejected == []
    assert found == clips
    assert len(found) == 13
    assert (folder / "card.md").read_text() == card()
    assert len(read_salt(folder / "salt.txt")) == 32
    annotations, rejected = read_annotations(
        folder / "annotations.jsonl", load_taxonomy(folder / "taxonomy.json")
    )
    assert rejected == []
    assert annotations == [clip.annotation for clip in clips]


def test_a_clip_shows_what_its_annotation_says(corpus):
    _, clips = corpus
    plans = plan_corpus(seed=7, **SIZES)
    for clip, plan in zip(clips, plans, strict=True):
        assert clip.annotation.nfbl is not None
        (interval,) = clip.annotation.nfbl
        assert interval.label == GESTURES[plan.gesture]
        assert 0 < interval.start < interval.end < 3.0
        assert clip.annotation.emotion == plan.emotion
        assert (clip.annotation.reasoning or "").endswith(f"{plan.emotion}.")
        assert clip.verdict == "generated"
        frames = list(iter_frames(clip.video, 0.0, None))
        waveform = read_audio(clip.audio, 0.0, None)
        assert len(frames) == 12
        assert frames[0][1].shape == (64, 64, 3)
        assert waveform is not None
        assert len(waveform) == 48_000


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes(corpus, tmp_path):
    folder, _ = corpus
    generate_corpus(tmp_path, seed=7, threads=1, **SIZES)
    assert contents(tmp_path) == contents(folder)


def test_an_interrupted_corpus_is_finished(corpus, tmp_path):
    folder, clips = corpus
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "annotations.jsonl").unlink()
    lines = (broken / "deidentified.jsonl").read_bytes().splitlines(keepends=True)
    (broken / "deidentified.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:40])
    (broken / "media/train-00002.flac").write_bytes(b"torn")
    kept = (broken / "media/train-00001.mp4").stat().st_mtime_ns

    told = []
    again = generate_corpus(
        broken, seed=7, progress=lambda *told_: told.append(told_), **SIZES
    )
    found, rejected = read_deidentified(broken)
    assert rejected == []
    assert sorted(clip.annotation.clip_id for clip in found) == sorted(
        clip.annotation.clip_id for clip in clips
    )
    assert [clip.sha256 for clip in again] == [clip.sha256 for clip in clips]
    assert (broken / "media/train-00001.mp4").stat().st_mtime_ns == kept
    assert told[0] == ("generating clips", 6, 13)
    assert told[-1] == ("generating clips", 13, 13)
    annotations = (folder / "annotations.jsonl").read_bytes()
    assert (broken / "annotations.jsonl").read_bytes() == annotations


def test_another_corpus_in_the_folder_is_refused(corpus):
    folder, _ = corpus
    before = contents(folder)
    with pytest.raises(ValueError, match="clips of another corpus"):
        generate_corpus(folder, seed=8, **SIZES)
    assert contents(folder) == before


def test_modalities_are_named_as_in_the_configuration():
    from deemo_jax.config_data import MODALITIES

    assert CUES == MODALITIES
