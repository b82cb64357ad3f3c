"""Rates on embeddings that are made for it."""

import numpy as np
import pytest

from deemo_jax.deidentify.audit import Audited, Figures
from deemo_jax.deidentify.audit_rates import Rate, face_rates


def point(axis: int, off: float = 0.0) -> np.ndarray:
    found = np.zeros(128, np.float32)
    found[axis], found[100] = 1.0, off
    return found


def clip(clip_id: str, subject: str, clear: np.ndarray | None, masked) -> Audited:
    figures = Figures(longest_side=640, every=3)
    return Audited(
        clip_id=clip_id, subject=subject, figures=figures, clear=clear, masked=masked
    )


def rates(clips) -> dict[tuple[str, str], Rate]:
    return {(rate.attack, rate.measure): rate for rate in face_rates(clips)}


# Three subjects of two clips; masked, all have the face of the first one's but `c2`.
CLIPS = [
    clip(name + k, name, point(axis, 0.1 * int(k)), point(2 * (name + k == "c2")))
    for axis, name in enumerate("abc")
    for k in "12"
]


@pytest.mark.parametrize(
    ("attack", "measure", "value", "trials", "chance"),
    [
        ("faces, clear", "rank 1", 1.0, 6, 1 / 3),
        ("faces, clear", "nearer than 0.6", 1.0, 6, None),
        ("faces, naive", "rank 1", 3 / 6, 6, 1 / 3),  # both of a, and c2
        ("faces, naive", "nearer than 0.6", 3 / 6, 6, None),
        ("faces, parrot", "nearer than 0.6", 4 / 6, 6, None),  # a and b are one face
    ],
)
def test_rates_on_a_constructed_corpus(attack, measure, value, trials, chance):
    rate = rates(CLIPS)[attack, measure]
    assert rate.value == pytest.approx(value)
    assert (rate.trials, rate.subjects) == (trials, 3)
    assert rate.chance == (None if chance is None else pytest.approx(chance))
    assert f"of {trials} trials among 3 subjects" in rate.describe()


def test_a_probe_is_not_in_its_own_gallery():
    """Its masked face would be at distance 0 from itself."""
    odd = [clip(f"{n}{k}", n, point(i), point(10 + 2 * i + k)) for i, n in
           enumerate("ab") for k in (0, 1)]  # fmt: skip
    assert rates(odd)["faces, parrot", "nearer than 0.6"].value == 0.0


def test_a_subject_with_one_clip_is_sought_in_that_very_recording_by_the_naive_alone():
    single = [clip("a", "a", point(0), point(0)), clip("b", "b", point(1), point(0))]
    found = rates(single)
    assert found["faces, naive", "rank 1"].value == 0.5
    assert found["faces, naive", "rank 1"].trials == 2
    for attack in ("faces, clear", "faces, parrot"):
        rate = found[attack, "rank 1"]
        assert rate.value is None
        assert rate.describe().endswith(
            "not measured, it takes a second clip of a subject, and nobody has one"
        )


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ([], "there are 0 subjects"),
        ([clip("a", "a", None, None)], "there are 0 subjects"),
        (CLIPS[:2], "there is 1 subject"),
    ],
)
def test_too_few_subjects_give_no_rate_but_the_reason(clips, words):
    for rate in face_rates(clips):
        assert rate.value is None
        assert words in rate.describe()
