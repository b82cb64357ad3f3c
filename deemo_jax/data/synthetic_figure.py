"""Draws the generated corpus's people: an upper body, its head masked, and a gesture.

A pose is where the elbow and the hand of each arm are, in units of the figure from its
neck. Between two poses the arms move for a third of a second.
"""

import dataclasses

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image, ImageDraw

SIZE = 64  # pixels, both ways
OVER = 2  # a picture is drawn at twice the size, since PIL does not smooth edges
FPS = 4
MOVE_SECONDS = 0.35  # from rest into the gesture, and back

# The right arm (elbow x, y, hand x, y) from the neck; the left one mirrors it. One unit
# is a shoulder's half width; y points down.
REST = (1.15, 1.35, 1.05, 2.4)
POSES = {
    "illustrative hand gestures": (1.5, 0.9, 2.05, -0.1),
    "arms akimbo": (2.0, 1.1, 0.95, 1.95),
    "folding arms": (1.15, 1.15, -0.75, 1.0),
    "covering face": (1.0, 0.65, 0.27, -0.85),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """How one subject looks: place and size in pixels, colours as RGB, 0 to 255."""

    neck: tuple[float, float]
    unit: float
    head: float
    background: tuple[int, int, int]
    clothes: tuple[int, int, int]
    sleeves: tuple[int, int, int]
    skin: tuple[int, int, int]
    mask: tuple[int, int, int]


def draw_figure(rng: np.random.Generator) -> Figure:
    """A subject's look: dark background, clothes a shade lighter, bright sleeves.

    The order of brightness is the same for everybody, so that a small model trained
    from scratch finds the arms whatever their colour.
    """
    skin = np.array([1.0, 0.78, 0.62]) * rng.uniform(90, 235)
    unit = rng.uniform(11.5, 13.5)
    return Figure(
        neck=(SIZE / 2 + rng.uniform(-3, 3), rng.uniform(25, 28)),
        unit=unit,
        head=unit * rng.uniform(0.6, 0.72),
        background=_rgb(rng.uniform(15, 65, size=3)),
        clothes=_rgb(rng.uniform(60, 120, size=3)),
        sleeves=_rgb(rng.uniform(175, 250, size=3)),
        skin=_rgb(skin),
        mask=_rgb(skin * 0.5 + rng.uniform(20, 60)),
    )


def gesture_frames(
    figure: Figure,
    gesture: str,
    start: float,
    end: float,
    seconds: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip of `FPS` frames a second: rest, the gesture from `start` to `end`, rest.

    Args:
        gesture: one of `POSES`.
        start: when the arms leave the rest pose, seconds.
        end: when they are back in it, seconds.
        seconds: length of the clip.
        rng: draws how this clip differs from others of the subject.
    """
    times = np.arange(round(seconds * FPS)) / FPS
    sway = rng.normal(0, 0.03, size=4)
    rest = np.array(REST) + rng.normal(0, 0.04, size=4)
    pose = np.array(POSES[gesture]) + rng.normal(0, 0.06, size=4)
    beat, phase = rng.uniform(1.4, 2.2), rng.uniform(0, 2 * np.pi)
    lights = rng.uniform(0.93, 1.07)
    frames = []
    for time in times:
        inside = min(time - start, end - time) / MOVE_SECONDS
        weight = 0.5 - 0.5 * np.cos(np.pi * np.clip(inside, 0, 1))
        swing = np.sin(2 * np.pi * beat * time + phase)
        arms = []
        for side in (1, -1):
            arm = rest + (pose - rest) * weight + sway * swing
            if gesture == "illustrative hand gestures":
                # The hands beat against each other, as they do in speech.
                arm = arm + weight * swing * side * np.array([0, 0.1, 0.1, 0.45])
            arms.append((side, arm))
        picture = _picture(figure, arms, bob=0.03 * swing)
        noise = 3 * rng.standard_normal((SIZE, SIZE, 1), np.float32)
        frames.append(np.clip(picture * np.float32(lights) + noise, 0, 255))
    return np.stack(frames).astype(np.uint8)


def _picture(
    figure: Figure, arms: list[tuple[int, np.ndarray]], bob: float
) -> Float[np.ndarray, "H W 3"]:
    image = Image.new("RGB", (SIZE * OVER, SIZE * OVER), figure.background)
    draw = ImageDraw.Draw(image)
    unit = figure.unit * OVER
    torso = [(0.35, -0.1), (1.0, 0.2), (0.85, 4.0)]
    torso += [(-x, y) for x, y in reversed(torso)]
    draw.polygon([_at(figure, x, y) for x, y in torso], fill=figure.clothes)
    head = _at(figure, 0.0, -0.75 + bob)
    draw.circle(head, figure.head * OVER, fill=figure.mask)
    width = round(0.48 * unit)
    for side, (elbow_x, elbow_y, hand_x, hand_y) in arms:
        shoulder = _at(figure, side * 0.85, 0.35)
        elbow = _at(figure, side * elbow_x, elbow_y)
        hand = _at(figure, side * hand_x, hand_y + bob)
        draw.line(
            [shoulder, elbow, hand], fill=figure.sleeves, width=width, joint="curve"
        )
        draw.circle(shoulder, width / 2, fill=figure.sleeves)
        draw.circle(hand, 0.34 * unit, fill=figure.skin)
    return np.asarray(image.reduce(OVER), np.float32)


def _at(figure: Figure, x: float, y: float) -> tuple[float, float]:
    """Where a point of the body lies in the picture that is drawn."""
    right, down = figure.neck
    return (right + x * figure.unit) * OVER, (down + y * figure.unit) * OVER


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    return red, green, blue
