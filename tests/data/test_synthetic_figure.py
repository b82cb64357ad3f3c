"""The drawn people: the gesture is where its interval says, whoever makes it."""

import itertools

import numpy as np
import pytest

from deemo_jax.annotation import load_taxonomy
from deemo_jax.data.synthetic_figure import (
    FPS,
    MOVE_SECONDS,
    POSES,
    SIZE,
    draw_figure,
    gesture_frames,
)

START, END = 0.75, 2.25


def clip(subject, gesture, seed=0):
    figure = draw_figure(np.random.default_rng(subject))
    rng = np.random.default_rng(seed)
    return gesture_frames(figure, gesture, START, END, 3.0, rng)


def test_the_gestures_are_classes_of_the_default_taxonomy():
    assert set(POSES) <= set(load_taxonomy().nfbl)


@pytest.mark.parametrize("gesture", POSES)
def test_the_arms_leave_the_rest_pose_in_the_interval_only(gesture):
    frames = clip(0, gesture).astype(float)
    assert frames.shape == (3 * FPS, SIZE, SIZE, 3)
    away = np.abs(frames - frames[:1]).mean(axis=(1, 2, 3))
    times = np.arange(len(frames)) / FPS
    outside = (times <= START) | (times >= END)
    inside = (times >= START + MOVE_SECONDS) & (times <= END - MOVE_SECONDS)
    assert away[inside].min() > 1.5 * away[outside].max()


def test_only_the_illustrative_hands_go_on_moving():
    middle = slice(round((START + 0.4) * FPS), round((END - 0.4) * FPS))
    moved = {
        gesture: np.abs(np.diff(clip(1, gesture)[middle].astype(float), axis=0)).mean()
        for gesture in POSES
    }
    most = moved.pop("illustrative hand gestures")
    assert most > 1.5 * max(moved.values())


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(POSES, 2)))
def test_two_gestures_of_one_subject_differ(one, other):
    middle = round((START + END) / 2 * FPS)
    pair = [clip(2, gesture)[middle].astype(float) for gesture in (one, other)]
    again = clip(2, one, seed=1)[middle].astype(float)
    across = np.abs(pair[0] - pair[1]).mean()
    assert across > 1.5 * np.abs(pair[0] - again).mean()


def test_the_sleeves_are_the_brightest_of_everybody():
    for subject in range(50):
        figure = draw_figure(np.random.default_rng(subject))
        shades = [np.mean(c) for c in (figure.background, figure.clothes)]
        assert shades[0] < shades[1] < np.mean(figure.sleeves) - 50


def test_subjects_look_different():
    pictures = [clip(subject, "folding arms")[0].astype(float) for subject in (3, 4)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


def test_a_clip_is_a_pure_function_of_the_seed():
    assert np.array_equal(clip(5, "covering face"), clip(5, "covering face"))
    assert not np.array_equal(
        clip(5, "covering face"), clip(5, "covering face", seed=1)
    )


def test_before_and_after_the_interval_no_gesture_shows():
    """Clips of one seed are the same to the last pixel, whatever the gesture."""
    clips = np.stack([clip(6, gesture) for gesture in POSES])
    times = np.arange(clips.shape[1]) / FPS
    outside = (times <= START) | (times >= END)
    same = (clips == clips[:1]).all(axis=(0, 2, 3, 4))
    assert np.array_equal(same, outside)
