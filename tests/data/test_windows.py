"""Windows lie within their clip and cover it; an interval is in those it shows in."""

import dataclasses
import io
import itertools
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import soundfile

from deemo_jax import cli
from deemo_jax.annotation import Interval, write_annotations
from deemo_jax.clip import append_deidentified, file_digest, read_deidentified
from deemo_jax.config import ConfigError
from deemo_jax.data import integrity
from deemo_jax.data.pack import pack_folder, read_salt
from deemo_jax.data.record import FrameSampling, from_clip, pseudonym
from deemo_jax.data.source import ShardSource
from deemo_jax.data.windows import LEAST, Window, Windowing, parts, windowing_of
from deemo_jax.data.withdraw import purge, withdraw
from deemo_jax.media import write_audio, write_video
from tests.data.conftest import clip, contents

SALT = bytes(range(32))
SECONDS = st.floats(0.5, 60.0)
LENGTHS = st.floats(0.1, 90.0)
QUICK = settings(deadline=None, max_examples=50)  # long clips have many windows


@st.composite
def windowings(draw):
    seconds = draw(SECONDS)
    return Windowing(seconds=seconds, hop=seconds * draw(st.floats(0.2, 1.0)))


@st.composite
def cut_clips(draw):
    """A windowing, a clip's length, and intervals within it."""
    length = draw(LENGTHS)
    spans = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted)
    drawn = draw(st.lists(spans, max_size=6))
    intervals = tuple(
        Interval(label=f"gesture {k}", start=a * length, end=b * length)
        for k, (a, b) in enumerate(drawn)
        if (b - a) * length > 1e-3
    )
    return draw(windowings()), length, intervals


@QUICK
@given(windowings(), LENGTHS)
def test_windows_are_equal_and_cover_the_clip(windowing, length):
    spans = windowing.spans(length)
    assert spans[0][0] == 0.0
    assert spans[-1][1] == length
    sizes = [end - start for start, end in spans]
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-9)
    assert sizes[0] <= windowing.seconds * (1 + 1e-9)
    if len(spans) > 1:
        assert sizes[0] > windowing.seconds / 2 * (1 - 1e-9)
        share = windowing.hop / windowing.seconds
        for (one, end), (two, _) in itertools.pairwise(spans):
            assert math.isclose(two - one, sizes[0] * share, rel_tol=1e-6)
            assert two <= end + 1e-9
    assert (len(spans) == 1) == (length <= windowing.seconds)


@QUICK
@given(cut_clips())
def test_what_lies_in_a_window_of_an_interval_is_in_it(drawn):
    windowing, length, intervals = drawn
    found = {interval.label: [] for interval in intervals}
    for start, end in windowing.spans(length):
        for part in parts(intervals, start, end) or ():
            assert 0 <= part.start < part.end <= end - start + 1e-9
            found[part.label].append((part.start + start, part.end + start))
    for interval in intervals:
        covered = interval.start
        assert found[interval.label], "it is in no window"
        for first, last in sorted(found[interval.label]):
            assert first >= interval.start - 1e-6
            assert last <= interval.end + 1e-6
            # Only what is cut off by a window's edge, and short, may be missing.
            assert first - covered < LEAST + 1e-6
            covered = max(covered, last)
        assert interval.end - covered < LEAST + 1e-6


@QUICK
@given(cut_clips())
def test_windows_are_of_their_clip_and_always_the_same(drawn):
    windowing, length, intervals = drawn
    whole = clip("a", "anna", "train")
    about = {"end": length, "nfbl": intervals, "transcript": "Hm.", "reasoning": "Ah."}
    annotation = dataclasses.replace(whole.annotation, **about)
    whole = dataclasses.replace(whole, annotation=annotation)
    cut = list(windowing.cut([whole]))
    assert cut == list(windowing.cut([whole]))
    if len(cut) == 1:
        assert cut == [whole]
        return
    assert len({w.annotation.clip_id for w in cut}) == len(cut)
    for window, span in zip(cut, windowing.spans(length), strict=True):
        about = window.annotation
        assert isinstance(window, Window)
        assert (about.start, about.end) == span
        assert (about.subject, about.split, about.emotion) == (
            "anna", "train", "positive",
        )  # fmt: skip
        assert (about.transcript, about.reasoning) == (None, None)
        assert window.sha256 == whole.sha256


@pytest.mark.parametrize(
    ("seconds", "hop", "length", "spans"),
    [
        (16.0, 16.0, 16.0, [(0, 16)]),
        (16.0, 16.0, 16.5, [(0, 8.25), (8.25, 16.5)]),
        (16.0, 8.0, 40.0, [(0, 16), (8, 24), (16, 32), (24, 40)]),
        (10.0, 5.0, 12.0, [(0, 8), (4, 12)]),
    ],
)
def test_drawn_examples(seconds, hop, length, spans):
    np.testing.assert_allclose(Windowing(seconds=seconds, hop=hop).spans(length), spans)


def test_the_name_says_whether_clips_are_cut():
    assert windowing_of("deemo_mer", -1, 0) is None
    assert windowing_of("deemo_nfbl", 0, 0) is None
    assert windowing_of("deemo_nfbl", -1, 0) == Windowing(seconds=16.0, hop=16.0)
    assert windowing_of("mine", 20, 5) == Windowing(seconds=20.0, hop=5.0)
    for seconds, hop, message in (
        (10, 11, "give a --window above 0"),
        (10, -1, "give a --window above 0"),
        (0, 5, "--hop is 5, but clips of deemo_nfbl are not cut: give --window above"),
        (-5, 0, "--window is -5: give seconds above 0, 0 to cut nothing, or -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            windowing_of("deemo_nfbl", seconds, hop)


@pytest.fixture
def long_input(tmp_path, input):
    """The de-identified folder with an 8-second video of one more person."""
    video, audio = (input / "media" / f"long.{kind}" for kind in ("mp4", "flac"))
    shades = (np.full((16, 16, 3), 3 * k, np.uint8) for k in range(80))
    write_video(video, ((k / 10, rgb) for k, rgb in enumerate(shades)))
    write_audio(audio, np.linspace(-0.5, 0.5, 8 * 16_000, dtype=np.float32))
    long = clip("long", "zoe", "train", video=video, audio=audio)
    about = dataclasses.replace(
        long.annotation,
        media="media/long.mp4",
        end=8.0,
        transcript="All of it.",
        nfbl=(Interval(label="crossing fingers", start=1.5, end=4.5),),
    )
    digests = {"video": file_digest(video), "audio": file_digest(audio)}
    append_deidentified(
        input, dataclasses.replace(long, annotation=about, sha256=digests)
    )
    clips, _ = read_deidentified(input)
    write_annotations(input / "annotations.jsonl", [c.annotation for c in clips])
    return input


def test_a_window_holds_what_is_shown_and_heard_in_it(long_input):
    whole = next(
        c for c in read_deidentified(long_input)[0] if c.annotation.clip_id == "long"
    )
    sampling = FrameSampling(fps=2.0, min_frames=1)
    one, two, three = (
        from_clip(window, SALT, sampling)
        for window in Windowing(seconds=3.0, hop=3.0).cut([whole])
    )
    assert whole.audio
    samples = soundfile.read(whole.audio, dtype="int16")[0]
    heard = [
        soundfile.read(io.BytesIO(row.audio or b""), dtype="int16")[0]
        for row in (one, two, three)
    ]
    np.testing.assert_array_equal(np.concatenate(heard), samples)
    assert [round(row.duration, 3) for row in (one, two, three)] == [2.667] * 3
    assert [len(row.frames) for row in (one, two, three)] == [6, 6, 6]
    assert all(0 <= t < 2.667 for row in (one, two, three) for t in row.frame_times)
    reference = from_clip(whole, SALT, FrameSampling(fps=10.0, max_frames=100))
    assert set(two.frames) <= set(reference.frames[26:54])
    shown = [row.nfbl and [(i.start, i.end) for i in row.nfbl] for row in (one, two)]
    assert shown == [
        [(1.5, pytest.approx(8 / 3))],
        [(0.0, pytest.approx(4.5 - 8 / 3))],
    ]
    assert three.nfbl == ()  # it is annotated: none is shown
    assert parts(None, 0.0, 1.0) is None
    assert one.subject == from_clip(whole, SALT).subject


def test_windows_are_packed_and_looked_after_like_clips(tmp_path, long_input):
    output = tmp_path / "packed"
    windowing = Windowing(seconds=3.0, hop=3.0)
    words = [f"--input={long_input}", f"--output={output}", "--name=deemo_nfbl"]
    assert cli.main(["pack", *words, "--shards=2", "--window=3"]) == 0
    salt = read_salt(long_input / "salt.txt")
    zoe = pseudonym(salt, "subject", "zoe")
    rows = [row for row in ShardSource(output, "train") if row.subject == zoe]
    assert sorted(row.clip_id for row in rows) == sorted(
        pseudonym(salt, "clip", f"long@{start}")
        for start in ("0.000", "2.667", "5.333")
    )
    assert {row.transcript for row in rows} == {None}
    assert integrity.check(output) == []
    whole = contents(output)
    assert b"long@" not in b"".join(whole.values())

    def interrupt(description, done, total):
        if done == 9:
            raise KeyboardInterrupt

    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack_folder(
            long_input, again, name="deemo_nfbl", shards=2, windowing=windowing,
            progress=interrupt,
        )  # fmt: skip
    pack_folder(long_input, again, name="deemo_nfbl", shards=2, windowing=windowing)
    assert contents(again) == whole
    assert integrity.reindex(output) == 12 + 3
    assert withdraw(output, "zoe", salt=salt) == 3
    assert all(row.subject != zoe for row in ShardSource(output, "train"))
    assert purge(output) == 3
    assert integrity.check(output) == []


def test_whole_clips_are_packed_to_the_same_bytes(tmp_path, input):
    pack_folder(input, tmp_path / "one", name="mer")
    cut = Windowing(seconds=3.0, hop=3.0)
    pack_folder(input, tmp_path / "two", name="mer", windowing=cut)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    info = json.loads((tmp_path / "one" / "dataset_info.json").read_bytes())
    assert info["name"] == "mer"
