import contextlib
import dataclasses
import io

from hypothesis import given, settings, strategies
import numpy as np
from PIL import Image
import pytest

from deemo_jax.annotation import Annotation, Interval
from deemo_jax.clip import Clip, DeidentifiedClip, file_digest
from deemo_jax.data import example, record
from deemo_jax.data.record import FrameSampling, sample_frames
from deemo_jax.media import write_audio, write_video
from deemo_jax.refusals import Refusal

SALT = bytes(32)


def deidentified(folder, *, seconds=2.0, audio=True, frames=20, **fields):
    """A clip whose frame `k` of a grey that grows with k, and noise for a voice."""
    video = None
    if frames:
        video = folder / "clip.mp4"
        pixels = np.ones((32, 48, 3), np.uint8)
        write_video(
            video, ((k * seconds / frames, pixels * (4 * k)) for k in range(frames))
        )
    sound = None
    if audio:
        sound = folder / "clip.flac"
        write_audio(sound, np.linspace(-0.5, 0.5, 8000, dtype=np.float32))
    annotation = Annotation(
        **{"clip_id": "a", "media": "clip.mp4", "subject": "anna", "end": seconds}
        | fields
    )
    files = {"video": video, "audio": sound}
    digests = {part: file_digest(path) for part, path in files.items() if path}
    return DeidentifiedClip(
        annotation=annotation, video=video, audio=sound, sha256=digests,
        deidentification="generated/1", verdict="generated", faces={},
    )  # fmt: skip


def test_bytes_hold_the_whole_record(rows):
    for row in rows:
        assert record.from_bytes(record.to_bytes(row)) == row


# What is there and empty is stored as what is not there: TFDS has no optional features.
TEXT = strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=40)
PRESENT = strategies.none() | TEXT.filter(bool)
SECONDS = strategies.floats(0, 1e6, width=32)
# Records are made in the tests: beartype draws what it checks, as strategies must not.
INTERVALS = strategies.lists(strategies.tuples(TEXT, SECONDS, SECONDS), max_size=3)
FIELDS = strategies.fixed_dictionaries(
    {
        "frames": strategies.lists(strategies.binary(max_size=300), max_size=4),
        "frame_times": strategies.lists(SECONDS, max_size=4),
        "audio": strategies.none() | strategies.binary(min_size=1, max_size=300),
        "nfbl": strategies.none() | INTERVALS,
        "duration": SECONDS,
    }
    | dict.fromkeys(("transcript", "emotion", "reasoning"), PRESENT)
    | dict.fromkeys(("clip_id", "subject", "verdict", "deidentification"), TEXT)
)


def record_of(fields):
    shown = fields["nfbl"]
    if shown is not None:
        shown = tuple(Interval(label=a, start=b, end=c) for a, b, c in shown)
    lists = {key: tuple(fields[key]) for key in ("frames", "frame_times")}
    return record.Record(**fields | lists | {"nfbl": shown})


@settings(deadline=None, max_examples=300)
@given(FIELDS)
def test_any_record_comes_back_from_its_bytes(fields):
    row = record_of(fields)
    assert record.from_bytes(record.to_bytes(row)) == row


NOD = [("nodding", 0.0, 1.0)]


@pytest.mark.parametrize(("shown", "read"), [([], None), (NOD, NOD)])
def test_records_of_before_there_was_none_to_say(shown, read):
    """They have the intervals alone: without any, nobody may have looked."""
    fields = dict.fromkeys(("clip_id", "subject", "verdict", "deidentification"), "a")
    fields |= dict.fromkeys(("transcript", "emotion", "reasoning", "audio"))
    fields |= {"frames": [], "frame_times": [], "duration": 1.0}
    row = record_of(fields | {"nfbl": shown})
    today = example.parse(record.to_bytes(row))
    assert today.pop("nfbl_annotated") == [b"yes"]
    seconds = ("duration", "frame_times", "nfbl/start", "nfbl/end")
    old = {k: np.array(v) if k in seconds else v for k, v in today.items()}
    assert record.from_bytes(example.serialize(old)) == record_of(
        fields | {"nfbl": read}
    )


@settings(deadline=None, max_examples=300)
@given(FIELDS, strategies.data())
def test_bytes_that_were_changed_are_a_record_or_refused(fields, data):
    """Whatever stands in a shard that others wrote, its checksum being right."""
    changed = bytearray(record.to_bytes(record_of(fields)))
    for _ in range(data.draw(strategies.integers(1, 3))):
        changed[data.draw(strategies.integers(0, len(changed) - 1))] = data.draw(
            strategies.integers(0, 255)
        )
    cut = data.draw(strategies.integers(0, len(changed)))
    for bytes_ in (bytes(changed), bytes(changed[:cut])):
        with contextlib.suppress(ValueError, KeyError, IndexError):
            assert isinstance(record.from_bytes(bytes_), record.Record)


def test_a_clip_becomes_a_record(tmp_path):
    clip = deidentified(tmp_path, transcript="Hm.", emotion="positive")
    row = record.from_clip(clip, SALT, FrameSampling(min_frames=4, fps=2.0))
    assert row.frame_times == pytest.approx((0.2, 0.7, 1.2, 1.7), abs=0.051)
    greys = [np.asarray(Image.open(io.BytesIO(f))).mean() for f in row.frames]
    assert greys == pytest.approx([40 * t for t in row.frame_times], abs=3)
    assert row.audio == (tmp_path / "clip.flac").read_bytes()
    assert (row.transcript, row.emotion, row.reasoning) == ("Hm.", "positive", None)


def test_no_name_of_a_person_or_clip_is_packed(tmp_path):
    clip = deidentified(tmp_path, clip_id="anna-17")
    data = record.to_bytes(record.from_clip(clip, SALT))
    assert b"anna" not in data
    again = record.from_clip(clip, b"another salt")
    assert again.subject != record.from_clip(clip, SALT).subject
    names = {record.pseudonym(SALT, kind, "anna") for kind in ("clip", "subject")}
    assert len(names) == 2


def test_missing_parts_are_absent(tmp_path):
    silent = record.from_clip(deidentified(tmp_path, audio=False), SALT)
    assert silent.audio is None
    assert len(silent.frames) == 16
    unseen = record.from_clip(deidentified(tmp_path, frames=0), SALT)
    assert unseen.frames == unseen.frame_times == ()
    short = deidentified(tmp_path, frames=3, seconds=0.12)
    assert len(record.from_clip(short, SALT).frames) == 3


def test_only_what_is_deidentified_is_read(tmp_path):
    clip = deidentified(tmp_path)
    raw = Clip(annotation=clip.annotation, media=tmp_path)
    read = record.from_clip
    read = getattr(read, "__wrapped__", read)  # without the run-time type check
    with pytest.raises(TypeError, match="Clip is not de-identified"):
        read(raw, SALT)  # pyright: ignore[reportArgumentType]


def test_a_clip_without_length_is_refused(tmp_path):
    with pytest.raises(Refusal, match="length is not stated"):
        record.from_clip(deidentified(tmp_path, end=None), SALT)


def picked(times, duration, **sampling):
    pixel = np.zeros((1, 1, 3), np.uint8)
    frames = ((float(time), pixel) for time in times)
    return [t for t, _ in sample_frames(frames, duration, FrameSampling(**sampling))]


@pytest.mark.parametrize(
    ("times", "duration", "sampling", "expected"),
    [
        (range(8), 8.0, {"min_frames": 3, "fps": 0.1}, [1, 4, 6]),
        (range(8), 8.0, {"min_frames": 1, "fps": 0.5}, [1, 3, 5, 7]),
        (range(8), 8.0, {"min_frames": 16}, list(range(8))),
        (range(8), 8.0, {"min_frames": 1, "fps": 9.0, "max_frames": 2}, [2, 6]),
        ([0, 7], 8.0, {"min_frames": 4}, [0, 7]),
        ([], 8.0, {}, []),
        ([0], 0.04, {}, [0]),
    ],
)
def test_frames_are_those_that_show_in_the_middles(times, duration, sampling, expected):
    assert picked(times, duration, **sampling) == expected


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(64, 64, (64, 64)), (800, 400, (384, 768)), (500, 1000, (768, 384))],
)
def test_frames_are_made_smaller_and_never_larger(height, width, expected):
    file = record.encode_jpeg(np.zeros((height, width, 3), np.uint8), FrameSampling())
    assert Image.open(io.BytesIO(file)).size == expected


def test_equal_clips_give_equal_bytes(tmp_path):
    clip = deidentified(tmp_path)
    one, two = (record.to_bytes(record.from_clip(clip, SALT)) for _ in range(2))
    assert one == two
    changed = dataclasses.replace(clip, verdict="unaudited")
    assert record.to_bytes(record.from_clip(changed, SALT)) != one
