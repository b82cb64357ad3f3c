import numpy as np
from PIL import Image
import pytest

from deemo_jax.deidentify.faces import FaceDetector
from deemo_jax.deidentify.settings import Bridging
from deemo_jax.deidentify.tracks import bridge
from deemo_jax.media import iter_frames

BOX = np.array([10.0, 20.0, 30.0, 50.0], np.float32)


def stream(found: dict[int, list], count: int):
    """Frames of which `found` holds the boxes (with their scores)."""
    rgb = np.zeros((60, 80, 3), np.uint8)
    for index in range(count):
        faces = np.array(found.get(index, []), np.float32).reshape(-1, 5)
        yield index / 25, rgb, faces


def faces(frames, step=(0.0, 0.0), score=0.9) -> dict[int, list]:
    move = np.array([*step, *step], np.float32)
    return {i: [[*(BOX + i * move), score]] for i in frames}


def masked(found, count, **bridging) -> str:
    moments = list(bridge(stream(found, count), Bridging(**bridging)))
    assert [moment.time for moment in moments] == [i / 25 for i in range(count)]
    return "".join("x" if moment.masked else "." for moment in moments)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("....DD.DDD.....", "..xxxxxxxxxxx.."),
        ("D..............", "xxxx..........."),
        ("..............D", "............xxx"),
        ("D......D.......", "xxxx.xxxxxx...."),  # a gap longer than both holds
        ("D.....D........", "xxxxxxxxxx....."),
        ("...............", "..............."),
    ],
)
def test_what_is_masked_around_a_face(found, expected):
    where = faces([i for i, mark in enumerate(found) if mark == "D"])
    assert masked(where, len(found), before=2, after=3) == expected


@pytest.mark.parametrize("gap", [1, 14, 15, 16, 60, 61, 200])
def test_a_sure_face_stays_masked_until_it_is_found_again_or_the_clip_ends(gap):
    count = 2 * gap + 20
    assert masked(faces([0, 1, 2 + gap]), count) == "x" * count


@pytest.mark.parametrize("gap", range(1, 30))
def test_a_gap_is_closed_whatever_is_seen_of_it_first(gap):
    found = faces([0, 1, 2, 3 + gap])
    assert masked(found, 40, before=5, after=30)[: 4 + gap] == "x" * (4 + gap)


def test_a_frame_is_masked_at_least_where_a_face_was_found():
    rng = np.random.default_rng(0)
    found = {
        i: [[*corner, *(corner + rng.uniform(5, 30, 2)), rng.uniform(0.2, 1)]
            for corner in rng.uniform(0, 50, (rng.integers(0, 4), 2))]
        for i in range(60)
    }  # fmt: skip
    for index, moment in enumerate(bridge(stream(found, 60), Bridging())):
        boxes = np.array(moment.masked).reshape(-1, 4)
        for row in found[index]:
            assert (np.abs(boxes - np.array(row[:4])).max(axis=1) < 1e-4).any()


def test_a_moving_face_is_followed_through_a_gap():
    found = faces([*range(8), *range(13, 20)], step=(3.0, 1.0))
    moments = list(bridge(stream(found, 20), Bridging(before=15, after=0)))
    for index in range(8, 13):
        where = BOX + index * np.array([3.0, 1.0, 3.0, 1.0])
        box = moments[index].masked[-1]
        assert (box[:2] <= where[:2] + 1e-3).all()
        assert (box[2:] >= where[2:] - 1e-3).all()
        assert (np.abs(box - where) < 4).all()


def test_a_held_mask_grows_to_half_more():
    moments = bridge(stream(faces([0]), 200), Bridging())
    widths = [moment.masked[0][2] - moment.masked[0][0] for moment in moments]
    assert max(widths) == widths[-1] == pytest.approx(30.0)
    assert np.diff(widths)[:25].min() > 0


def test_a_held_mask_grows():
    moments = list(bridge(stream(faces([0]), 20), Bridging(before=0, after=10)))
    sizes = [np.prod(m.masked[0][2:] - m.masked[0][:2]) for m in moments if m.masked]
    assert len(sizes) == 11
    assert (np.diff(sizes) > 0).all()


def test_a_false_alarm_does_not_linger():
    assert masked(faces([3], score=0.3), 12, before=1, after=8) == "..xxx......."
    assert masked(faces([3], score=0.6), 12, before=1, after=8) == "..xxxxxxxxxx"


def test_two_faces_are_two_tracks():
    far = BOX + 200
    found = {0: [[*BOX, 0.9], [*far, 0.9]], 1: [[*far, 0.9]]}
    first, second = bridge(stream(found, 2), Bridging(before=3, after=3))
    assert len(first.masked) == 2
    assert len(second.masked) == 2


def test_memory_is_bounded():
    taken = 0

    def counting():
        nonlocal taken
        for moment in stream(faces(range(200)), 200):
            taken += 1
            yield moment

    for given, _ in enumerate(bridge(counting(), Bridging(before=7)), start=1):
        assert taken <= given + 8


@pytest.fixture(scope="module")
def pictures(portrait, wolfgang):
    """Two real ones, 320 x 180, with the faces in them."""
    woman = next(rgb for _, rgb in iter_frames(wolfgang))
    detector, found = FaceDetector(), []
    for rgb in (portrait, woman):
        rgb = np.asarray(Image.fromarray(rgb).resize((320, 180)))
        found.append((rgb, detector(rgb)))
        assert len(found[-1][1]) == 1
    return found


def shot(picture, aside: int, length: int):
    """The picture moved aside; in its first ten frames the face is seen."""
    rgb, faces = picture
    moved = faces + np.array([aside, 0, aside, 0, 0], np.float32)
    for index in range(length):
        yield np.roll(rgb, aside, axis=1), moved if index < 10 else moved[:0]


def share(moment) -> float:
    """Of a frame's pixels, those within a masked box."""
    covered = np.zeros(moment.rgb.shape[:2], bool)
    for box in moment.masked:
        left, top, right, bottom = np.maximum(np.round(box), 0).astype(int)
        covered[top:bottom, left:right] = True
    return float(covered.mean())


def test_masks_do_not_pile_up_over_cuts(pictures):
    """Of 60 shots, each with its face elsewhere; it is held to the end of each."""
    rng = np.random.default_rng(0)
    frames = [
        frame
        for cut in range(60)
        for frame in shot(pictures[cut % 2], int(rng.integers(-90, 90)), 50)
    ]
    stream = ((i / 25, rgb, faces) for i, (rgb, faces) in enumerate(frames))
    masked = list(bridge(stream, Bridging()))
    assert all(moment.masked for moment in masked)
    ends = [moment for index, moment in enumerate(masked) if index % 50 == 30]
    assert max(len(moment.masked) for moment in ends) <= 1
    largest = 1.6**2 * max(
        np.prod(faces[0, 2:4] - faces[0, :2]) / rgb[..., 0].size
        for rgb, faces in pictures
    )
    assert max(share(moment) for moment in ends) < largest


def test_a_flash_lifts_no_mask(pictures):
    """Two frames of light, while hands are before the face for eight seconds."""
    frames = list(shot(pictures[0], 0, 210))
    for index in (60, 61):
        frames[index] = (np.full_like(frames[0][0], 255), frames[index][1])
    stream = ((i / 25, rgb, faces) for i, (rgb, faces) in enumerate(frames))
    assert all(moment.masked for moment in bridge(stream, Bridging()))
