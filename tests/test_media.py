import errno
from fractions import Fraction
import itertools
import os
from pathlib import Path
import random

import av
import numpy as np
import pytest
import soundfile

from deemo_jax.media import (
    MediaError,
    frame_times,
    iter_audio,
    iter_frames,
    mux,
    probe,
    read_audio,
    write_audio,
    write_video,
)


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth frame that says which it is: its brightness is 20 + 10 index."""
    rgb = np.full((height, width, 3), 20 + 10 * index, np.uint8)
    rgb[: height // 2, : width // 2, 0] += 60  # reddish at the top left
    return rgb


def video(path, count=12, rate=10.0, **size):
    write_video(path, ((i / rate, picture(i, **size)) for i in range(count)))
    return path


def encoded(path, codec, pixels):
    """Five pictures, as another program than ours would write them."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            out.mux(stream.encode(frame.reformat(format=pixels)))
        out.mux(stream.encode(None))
    return path


def tone(seconds: float, rate: int = 16_000, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def sound(path, *window) -> np.ndarray:
    waveform = read_audio(path, *window)
    assert waveform is not None
    return waveform


def indices(path, *window) -> list[int]:
    return [
        round((int(rgb[-1, -1].mean()) - 20) / 10)
        for _, rgb in iter_frames(path, *window)
    ]


def test_frames_and_times_survive(tmp_path):
    times = [0.0, 0.04, 0.1, 0.5, 0.52, 1.0]
    frames = [(time, picture(i)) for i, time in enumerate(times)]
    write_video(tmp_path / "a.mp4", frames)
    read = list(iter_frames(tmp_path / "a.mp4"))
    np.testing.assert_allclose([time for time, _ in read], times, atol=1e-4)
    for (_, before), (_, after) in zip(frames, read, strict=True):
        assert np.abs(before.astype(int) - after)[2:-2, 2:-2].mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_times_of_frames_are_those_at_which_they_are_decoded(tmp_path):
    uneven = [0.0, 0.04, 0.1, 0.5, 0.52, 1.0]
    write_video(tmp_path / "a.mp4", ((t, picture(i)) for i, t in enumerate(uneven)))
    for path in (
        tmp_path / "a.mp4",
        encoded(tmp_path / "b.avi", "mpeg4", "yuv420p"),
        encoded(tmp_path / "c.mkv", "libx264", "yuv420p"),
    ):
        decoded = [time for time, _ in iter_frames(path)]
        np.testing.assert_allclose(frame_times(path), decoded, atol=1e-4)
    write_audio(tmp_path / "a.flac", tone(1.0))
    assert frame_times(tmp_path / "a.flac") == []
    (tmp_path / "d.mp4").touch()
    with pytest.raises(MediaError, match="is empty"):
        frame_times(tmp_path / "d.mp4")


def test_a_window_holds_what_is_shown_in_it(tmp_path):
    path = video(tmp_path / "a.mp4", count=20)
    assert indices(path) == list(range(20))
    assert indices(path, 0.5, 0.8) == [5, 6, 7]
    assert indices(path, 0.45, None)[0] == 5
    assert indices(path, 1.9, 5.0) == [19]
    assert indices(path, 2.5) == []
    first, _ = next(iter_frames(path, 0.5))
    assert first == pytest.approx(0.0, abs=1e-4)


def test_three_frames_are_a_video(tmp_path):
    path = video(tmp_path / "a.mp4", count=3)
    info = probe(path)
    assert (info.has_video, info.has_audio) == (True, False)
    assert info.duration == pytest.approx(0.3, abs=1e-3)
    assert indices(path) == [0, 1, 2]
    assert read_audio(path) is None


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_last_frame_lasts_as_long_as_the_one_before(tmp_path, count):
    path = video(tmp_path / "a.mp4", count=count)
    expected = count / 10 if count > 1 else 1 / 30
    assert probe(path).duration == pytest.approx(expected, abs=1e-3)


def test_the_first_frame_is_shown_from_the_start(tmp_path):
    write_video(tmp_path / "a.mp4", [(t, picture(0)) for t in (0.03, 0.1, 0.2)])
    times = [time for time, _ in iter_frames(tmp_path / "a.mp4")]
    np.testing.assert_allclose(times, [0.0, 0.1, 0.2], atol=1e-4)


def test_odd_sizes_are_padded_by_their_edge(tmp_path):
    path = video(tmp_path / "a.mp4", count=3, height=31, width=45)
    _, rgb = next(iter_frames(path))
    assert rgb.shape == (32, 46, 3)
    assert np.abs(rgb[31].astype(int) - rgb[30]).max() < 8
    assert (probe(path).height, probe(path).width) == (32, 46)


def test_one_input_gives_one_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video(tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    for name in ("a.flac", "b.flac"):
        write_audio(tmp_path / name, tone(0.2))
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path):
    def failing():
        yield 0.0, picture(0)
        raise KeyError

    with pytest.raises(KeyError):
        write_video(tmp_path / "a.mp4", failing())
    with pytest.raises(ValueError, match="give one size"):
        write_video(
            tmp_path / "a.mp4", [(0.0, picture(0)), (0.1, picture(1, height=50))]
        )
    with pytest.raises(ValueError, match="at least one"):
        write_video(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4"])
def test_pictures_that_begin_late_are_whole(tmp_path, suffix):
    """As stream copies do, and recordings of what was running."""
    path = tmp_path / f"late.{suffix}"
    with av.open(str(path), "w") as out:
        codec = "libvpx-vp9" if suffix == "webm" else "libx264"
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts, frame.time_base = 3000 + 100 * i, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert probe(path).duration == pytest.approx(0.5, abs=0.11)
    assert [t for t, _ in iter_frames(path)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [
        ("libx264", "yuv444p", "mp4"),
        ("ffv1", "gray", "mkv"),
        ("mjpeg", "yuvj422p", "avi"),
    ],
)
def test_other_containers_and_pixels_are_read(tmp_path, codec, pixels, suffix):
    path = encoded(tmp_path / f"a.{suffix}", codec, pixels)
    assert indices(path) == [0, 1, 2, 3, 4]
    assert probe(path).duration == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_rotation_is_done(tmp_path, matrix, turns):
    path = video(tmp_path / "a.mp4", count=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # its matrix: a b u / c d v / x y w
    a, b, c, d = (int.to_bytes(n * 65536 % 2**32, 4, "big") for n in matrix)
    data[at : at + 20] = a + b + bytes(4) + c + d
    (tmp_path / "b.mp4").write_bytes(data)
    (_, before), (_, after) = (next(iter_frames(tmp_path / f"{n}.mp4")) for n in "ab")
    np.testing.assert_array_equal(np.rot90(before, turns), after)
    assert probe(tmp_path / "b.mp4").height == after.shape[0]


def test_sound_survives(tmp_path):
    write_audio(tmp_path / "a.flac", tone(1.0))
    np.testing.assert_allclose(sound(tmp_path / "a.flac"), tone(1.0), atol=1e-4)
    assert soundfile.info(tmp_path / "a.flac").subtype == "PCM_16"
    write_audio(tmp_path / "b.flac", 4 * tone(0.1))
    assert np.abs(sound(tmp_path / "b.flac")).max() == pytest.approx(1, abs=1e-3)


def test_sound_is_brought_to_16_khz_mono(tmp_path):
    stereo = np.stack([tone(1.0, 44_100)] * 2, axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    waveform = sound(tmp_path / "a.wav")
    assert abs(len(waveform) - 16_000) <= 2
    size = min(len(waveform), 16_000)
    np.testing.assert_allclose(
        waveform[200 : size - 200], tone(1.0)[200 : size - 200], atol=0.01
    )
    info = probe(tmp_path / "a.wav")
    assert (info.has_video, info.has_audio, info.width) == (False, True, 0)


def test_sound_whose_format_changes_is_read_through(tmp_path):
    path = tmp_path / "a.ts"
    with open(path, "wb") as joined:
        for name, (rate, layout) in enumerate([(16_000, "mono"), (48_000, "stereo")]):
            part = tmp_path / f"{name}.ts"
            with av.open(str(part), "w") as out:
                stream = out.add_stream("aac", rate=rate, layout=layout)
                samples = np.stack([tone(1.0, rate)] * stream.codec_context.channels)
                frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
                frame.sample_rate, frame.pts = rate, 0
                out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
            joined.write(part.read_bytes())
    waveform = sound(path)
    assert len(waveform) == pytest.approx(32_000, abs=4_000)
    for second in (waveform[4_000:12_000], waveform[20_000:28_000]):
        assert np.std(second) == pytest.approx(np.std(tone(1.0)), rel=0.05)


def test_a_stray_error_of_the_decoder_is_a_media_error(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.flac", tone(0.2))

    class Failing:
        def __init__(self, **keywords): ...

        def resample(self, frame):
            raise ValueError("Frame does not match AudioResampler setup.")

    monkeypatch.setattr(av, "AudioResampler", Failing)
    with pytest.raises(MediaError, match=r"a\.flac cannot be decoded"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("window", [(0.0, None), (0.3, 0.9), (1.25, 1.5), (1.8, 2.0)])
def test_a_window_of_sound_is_a_slice_of_it(tmp_path, window):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    write_audio(tmp_path / "a.flac", noise)
    whole = sound(tmp_path / "a.flac")
    start, end = round(window[0] * 16_000), window[1] and round(window[1] * 16_000)
    np.testing.assert_array_equal(sound(tmp_path / "a.flac", *window), whole[start:end])


def test_late_sound_and_gaps_are_silent(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("ffv1", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        noise = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
            out.mux(pictures.encode(frame.reformat(format="yuv420p")))
        for begin in (0.5, 1.25):  # two pieces of 0.25 s
            samples = (tone(0.25) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = round(begin * 16_000)
            out.mux(noise.encode(frame))
        out.mux(noise.encode(None))
        out.mux(pictures.encode(None))
    waveform = sound(path)
    loud = np.abs(waveform).reshape(-1, 400).max(axis=1) > 0.1
    expected = np.zeros(60, bool)
    expected[[*range(20, 30), *range(50, 60)]] = True
    np.testing.assert_array_equal(loud, expected)


def test_sound_is_streamed_in_small_blocks_and_written_in_any(tmp_path):
    whole = np.random.default_rng(0).uniform(-0.9, 0.9, 50_000).astype(np.float32)
    write_audio(tmp_path / "a.flac", whole)
    write_audio(tmp_path / "b.flac", iter(np.split(whole, [1, 1, 777, 40_000])))
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()
    for window in ((0.0, None), (0.5, 2.2), (3.0, 9.0), (0.7, 0.70001), (4.0, 5.0)):
        blocks = list(iter_audio(tmp_path / "a.flac", *window))
        read = read_audio(tmp_path / "a.flac", *window)
        assert (read is None) == (not blocks)
        if read is not None:
            np.testing.assert_array_equal(np.concatenate(blocks), read)
            assert 0 < min(map(len, blocks)) <= max(map(len, blocks)) < 10_000

    def torn():
        yield whole
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_audio(tmp_path / "c.flac", torn())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.flac", "b.flac"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sound_that_is_no_numbers_is_refused(tmp_path, value):
    samples = tone(1.0)
    samples[9000] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, "FLOAT")
    with pytest.raises(MediaError, match=r"a\.wav holds sound that is no numbers"):
        read_audio(tmp_path / "a.wav")


def test_sound_beyond_full_scale_is_clipped(tmp_path):
    samples = 4 * tone(1.0)
    samples[9000:9010] = 1e30
    soundfile.write(tmp_path / "a.wav", samples, 16_000, "FLOAT")
    np.testing.assert_array_equal(sound(tmp_path / "a.wav"), samples.clip(-1, 1))


def with_a_gap(path, seconds):
    """Half a second of sound, nothing for some seconds, and half a second."""
    with av.open(str(path), "w", "matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in (0.0, 0.5 + seconds):
            samples = (tone(0.5) * 2**15).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = round(start * 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_long_silence_comes_in_blocks_and_hours_of_it_are_a_mistake(tmp_path):
    path = with_a_gap(tmp_path / "a.mkv", 150.0)
    blocks = list(iter_audio(path))
    assert max(map(len, blocks)) <= 60 * 16_000
    whole = np.concatenate(blocks)
    assert len(whole) == pytest.approx(151 * 16_000, abs=100)
    loud = np.abs(whole).reshape(-1, 100).max(axis=1) > 0.1
    assert loud[:78].all()
    assert not loud[82:-82].any()
    assert loud[-78:].all()
    path = with_a_gap(tmp_path / "b.mkv", 5 * 3600.0)
    with pytest.raises(MediaError, match=r"b\.mkv has no sound for 5\.0 hours"):
        read_audio(path)


@pytest.mark.parametrize("at", ["while it is written", "at its end"])
def test_a_full_disk_is_told_as_one(tmp_path, monkeypatch, at):
    """libsndfile says no more than that something of the system went wrong."""
    if at == "at its end":
        close = soundfile.SoundFile.close

        def cut(file):
            close(file)
            if file.mode == "w":
                path = Path(file.name)
                path.write_bytes(path.read_bytes()[:-3000])

        monkeypatch.setattr(soundfile.SoundFile, "close", cut)
    else:

        def write(self, data):
            raise soundfile.LibsndfileError(2)

        monkeypatch.setattr(soundfile.SoundFile, "write", write)
    real = open

    def full(path, mode="r", **kwargs):
        if mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, **kwargs)

    monkeypatch.setattr("builtins.open", full)
    noise = np.random.default_rng(0).uniform(-1, 1, 48_000).astype(np.float32)
    with pytest.raises(OSError, match="No space left"):
        write_audio(tmp_path / "a.flac", noise)
    assert list(tmp_path.iterdir()) == []


def test_mux_joins_pictures_and_sound_cut_to_them(tmp_path):
    path = video(tmp_path / "a.mp4")
    write_audio(tmp_path / "a.flac", tone(5.0))
    mux(path, tmp_path / "a.flac", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert (info.has_video, info.has_audio) == (True, True)
    assert info.duration == pytest.approx(1.2, abs=0.1)
    assert indices(tmp_path / "b.mp4") == list(range(12))
    waveform = sound(tmp_path / "b.mp4")
    np.testing.assert_allclose(waveform[2000:16000], tone(1.0)[2000:], atol=0.05)
    with pytest.raises(MediaError, match=r"a\.flac lacks its part"):
        mux(tmp_path / "a.flac", tmp_path / "a.flac", tmp_path / "c.mp4")
    with pytest.raises(MediaError, match=r"a\.mp4 lacks its part"):
        mux(path, path, tmp_path / "c.mp4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"This is no film.\n" * 99, "cannot be read as media"),
        (b"#EXTM3U\n#EXTINF:1,\na.mp4\n", "cannot be read as media"),
        (b"ffconcat version 1.0\nfile a.mp4\n", "cannot be read as media"),
        (b"1\n00:00:00,000 --> 00:00:09,000\nwords\n", "cannot be read|holds neither"),
    ],
)
def test_what_is_no_media_is_refused(tmp_path, content, reason):
    video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        probe(tmp_path / "b.mp4")
    assert "b.mp4" in caught.value.reason
    assert caught.value.remedy
    with pytest.raises(MediaError, match="there is no file"):
        probe(tmp_path / "none.mp4")


def cut(path, share):
    data = path.read_bytes()
    path.with_name(f"cut{path.suffix}").write_bytes(data[: int(len(data) * share)])
    return path.with_name(f"cut{path.suffix}")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_mp4_is_refused_wherever_it_is_cut(tmp_path, share):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (30, 48, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", ((i / 10, f) for i, f in enumerate(noise)))
    with pytest.raises(MediaError, match="cut off"):  # the index stands in front
        probe(cut(tmp_path / "a.mp4", share))
    with av.open(str(tmp_path / "b.mp4"), "w") as out:  # the index stands at the end
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for rgb in noise:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode(None))
    assert probe(tmp_path / "b.mp4").duration == pytest.approx(3.0)
    with pytest.raises(MediaError, match="cut off"):
        probe(cut(tmp_path / "b.mp4", share))


def test_a_cut_wav_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(3.0), 16_000)
    with pytest.raises(MediaError, match="cut off"):
        probe(cut(tmp_path / "a.wav", 0.5))


def test_damaged_pictures_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    blocks = np.ones((8, 8, 1), np.uint8)
    frames = [
        np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), blocks) for _ in "." * 30
    ]
    write_video(tmp_path / "a.mp4", ((i / 10, f) for i, f in enumerate(frames)))
    whole = (tmp_path / "a.mp4").read_bytes()
    begin = whole.index(b"mdat") + 800
    reasons = ""
    for at in range(begin, len(whole) - 4, (len(whole) - begin) // 25):
        data = bytearray(whole)
        data[at : at + 4] = rng.bytes(4)
        (tmp_path / "b.mp4").write_bytes(data)
        try:  # what the decoder cannot notice stays a video of as many frames
            assert len(list(iter_frames(tmp_path / "b.mp4"))) == 30
        except MediaError as error:
            reasons += error.reason
    assert "b.mp4 is damaged at" in reasons
    assert "b.mp4 cannot be read" in reasons


def test_a_cover_picture_is_no_video(tmp_path):
    from av.stream import Disposition

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        track = out.add_stream("aac", rate=16_000, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(tone(1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
        rgb = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
        out.mux(cover.encode(rgb.reformat(format="yuvj420p")))
        out.mux(cover.encode(None))
    assert not probe(path).has_video
    assert list(iter_frames(path)) == []


def test_nothing_but_the_stream_is_stored(tmp_path):
    path = video(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not {"encoder", "creation_time", "title"} & set(container.metadata)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A file with some bytes changed, left out, doubled, or set to 0 or 255."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        # Headers are where sizes and counts stand.
        front = draw.random() < 0.5
        at = draw.randrange(min(len(changed), 600) if front else len(changed))
        size = draw.choice((1, 1, 4, 16, 200))
        match draw.randrange(5):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at : at + size] = draw.randbytes(size)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                changed[at : at + size] = draw.choice((b"\0", b"\xff")) * size
        if not changed:
            return b""
    return bytes(changed)


MADE = {
    "a.mp4": video,
    "b.mkv": lambda path: encoded(path, "ffv1", "gray"),
    "c.avi": lambda path: encoded(path, "mjpeg", "yuvj422p"),
    "d.wav": lambda path: soundfile.write(path, tone(0.5), 16_000),
    "e.flac": lambda path: write_audio(path, tone(0.5)),
}


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MADE)
def test_whatever_stands_in_a_file_it_is_read_or_refused(tmp_path, name, count):
    path = tmp_path / name
    MADE[name](path)
    whole, draw = path.read_bytes(), random.Random(name)
    refused = []
    for _ in range(count):
        path.write_bytes(mutated(whole, draw))
        try:
            info = probe(path)
            frames = list(itertools.islice(iter_frames(path, 0.1, 0.9), 100))
            waveform = read_audio(path, 0.1, 0.9)
        except MediaError as error:
            refused.append(error)
            continue
        assert info.duration > 0
        assert all(rgb.shape == frames[0][1].shape for _, rgb in frames)
        assert all(0 <= time < 0.9 for time, _ in frames)
        if waveform is not None:
            assert len(waveform) <= 0.8 * 16_000
            assert np.isfinite(waveform).all()
    assert 0 < len(refused) < count
    assert all(name in error.reason and error.remedy for error in refused)
