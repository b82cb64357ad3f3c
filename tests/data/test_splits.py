from collections import Counter
import dataclasses
from pathlib import Path

import pytest

from deemo_jax.annotation import Interval
from deemo_jax.clip import Clip
from deemo_jax.data.splits import FRACTIONS, assign_splits
from tests.data.conftest import clip

SALT = bytes(range(32))


@pytest.mark.parametrize(
    ("clips", "kept", "reason"),
    [
        ([clip("a", split="train"), clip("b", split="test")], [], "stands in test and"),
        ([clip("a", consent="withdrawn"), clip("b")], ["b"], "consent is withdrawn"),
        ([clip("a"), clip("a", "eve")], ["a"], "comes twice"),
        (
            [clip("a"), Clip(annotation=clip("raw").annotation, media=Path("x"))],
            ["a"],
            "not de-identified",
        ),
    ],
)
def test_what_is_unfit_is_refused(clips, kept, reason):
    assign = getattr(assign_splits, "__wrapped__", assign_splits)
    splits, rejections = assign(clips, SALT)
    found = [c.annotation.clip_id for members in splits.values() for c in members]
    assert sorted(found) == kept
    assert len(rejections) == len(clips) - len(kept)
    assert all(reason in r.reason and r.remedy for r in rejections)


def test_no_subject_stands_in_two_splits():
    clips = [clip(f"{i}-{k}", f"subject{i}") for i in range(400) for k in range(2)]
    clips += [clip(f"{i}-x", f"subject{i}", split="val") for i in range(40)]
    splits, rejections = assign_splits(clips, SALT)
    subjects = {
        split: {c.annotation.subject for c in members}
        for split, members in splits.items()
    }
    assert not rejections
    assert sum(map(len, subjects.values())) == 400
    assert len(set().union(*subjects.values())) == 400
    assert {f"subject{i}" for i in range(40)} <= subjects["val"]
    drawn = len(subjects["train"]) / 360
    assert abs(drawn - FRACTIONS["train"]) < 0.08


def test_stratified_splits_have_the_labels_alike():
    rows = []
    for number in range(100):
        emotion = "positive" if number < 20 else "negative"
        rows += [
            clip(f"c{number}_{k}", f"s{number}", emotion=emotion) for k in range(2)
        ]
    splits, refused = assign_splits(rows, SALT, stratify=True)
    assert not refused
    found = {
        split: Counter(c.annotation.emotion for c in members)
        for split, members in splits.items()
    }
    assert found == {
        "train": {"positive": 32, "negative": 128},
        "val": {"positive": 4, "negative": 16},
        "test": {"positive": 4, "negative": 16},
    }
    of = {c.annotation.subject: split for split, m in splits.items() for c in m}
    assert all(of[c.annotation.subject] == s for s, m in splits.items() for c in m)
    other, _ = assign_splits(rows, SALT[::-1], stratify=True)
    assert other["test"] != splits["test"]
    # What the annotations say goes before.
    stated = [clip(f"x{k}", f"x{k}", "test", emotion="positive") for k in range(9)]
    splits, _ = assign_splits([*stated, *rows], SALT, stratify=True)
    assert {c.annotation.subject for c in stated} <= {
        c.annotation.subject for c in splits["test"]
    }


def test_without_emotions_body_language_is_spread():
    """Of 100 subjects all fold their arms, 20 cover their ears, 10 show nothing."""

    def shown(number):
        labels = ["folding arms"] * 3 + ["cover ear"] * (number < 20)
        return tuple(
            Interval(label=label, start=float(k), end=k + 0.5)
            for k, label in enumerate(labels if number < 90 else [])
        )

    rows = [clip(f"c{n}", f"s{n}") for n in range(100)]
    for n, row in enumerate(rows):
        annotation = dataclasses.replace(row.annotation, emotion=None, nfbl=shown(n))
        rows[n] = dataclasses.replace(row, annotation=annotation)
    splits, refused = assign_splits(rows, SALT, stratify=True)
    assert not refused
    found = {
        split: Counter(len(c.annotation.nfbl or ()) for c in members)
        for split, members in splits.items()
    }
    assert found == {
        "train": {4: 16, 3: 56, 0: 8}, "val": {4: 2, 3: 7, 0: 1},
        "test": {4: 2, 3: 7, 0: 1},
    }  # fmt: skip


def test_a_subject_keeps_its_split_when_others_come():
    few = assign_splits([clip(f"{i}", f"s{i}") for i in range(20)], SALT)[0]
    many = assign_splits([clip(f"{i}", f"s{i}") for i in range(60)], SALT)[0]
    for split, members in few.items():
        assert {c.annotation.clip_id for c in members} <= {
            c.annotation.clip_id for c in many[split]
        }
