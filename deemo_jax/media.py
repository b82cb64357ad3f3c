"""Reading and writing media files: frames, sound, and what is wrong with a file."""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
from fractions import Fraction
from pathlib import Path

from jaxtyping import Float, UInt8
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.container import (
    RE_ENCODE,
    MediaError,
    is_cut,
    nothing_in,
    opened,
    stream_of,
)

# Containers whose header declares how long they are; in others it is estimated.
DECLARES_DURATION = ("mov", "matroska", "avi", "wav", "flac", "asf")
MICROSECONDS = 1_000_000  # FFmpeg's unit of a container's times
TICK = Fraction(1, 90_000)  # seconds; 24, 25, 29.97, 30, 50 and 60 fps are exact in it
HALF_TICK = 1e-4  # seconds; times that differ by less are one moment
# Without cpu-independent, one process gave two encodings of the same frames.
H264 = {"preset": "veryfast", "crf": "20", "x264-params": "cpu-independent=1"}
MINUTE = 60 * SAMPLE_RATE  # samples
LONGEST_SILENCE = 3600.0  # seconds that a track may lack; more is a mistaken time
FLAC = {"channels": 1, "subtype": "PCM_16", "format": "FLAC"}
BIT_EXACT = {"fflags": "+bitexact", "movflags": "+faststart"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a media file holds: pictures as shown (turned), duration in seconds."""

    has_video: bool
    has_audio: bool
    width: int
    height: int
    duration: float


def probe(path: Path) -> MediaInfo:
    """Walks through a whole media file, without decoding, and says what it holds.

    Raises:
        MediaError: it is empty, no media, or ends before its own header says.
    """
    with opened(path) as container:
        video, audio = stream_of(container, "video"), stream_of(container, "audio")
        streams = [stream for stream in (video, audio) if stream is not None]
        if not streams:  # asked for none, FFmpeg would give all
            raise nothing_in(path)
        ends = dict.fromkeys((stream.index for stream in streams), 0.0)
        origin = (container.start_time or 0) / MICROSECONDS
        for packet in container.demux(streams):
            if packet.is_corrupt:
                raise MediaError(f"{path.name} is cut off in its data", RE_ENCODE)
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.size and packet.time_base is not None:
                end = float((stamp + (packet.duration or 0)) * packet.time_base)
                ends[packet.stream.index] = max(ends[packet.stream.index], end - origin)
        duration = max(ends.values(), default=0.0)
        declared = (container.duration or 0) / MICROSECONDS
        name = container.format.name.split(",")[0]
        if name in DECLARES_DURATION:
            # Matroska may count what it declares from 0, and not from the first frame.
            late = max(0.0, origin) if name == "matroska" else 0.0
            declared -= late
            missing = declared - duration
            if missing > max(0.5, 0.02 * declared) or is_cut(path):
                raise MediaError(
                    f"{path.name} is cut off: it declares {declared:.2f} s and "
                    f"holds {duration:.2f} s",
                    RE_ENCODE,
                )
        if duration <= 0:
            raise nothing_in(path)
        has_video = video is not None and ends[video.index] > 0
        height, width = 0, 0
        if has_video:
            height, width = next((f.shape[:2] for _, f in iter_frames(path)), (0, 0))
        return MediaInfo(
            has_video=has_video,
            has_audio=audio is not None and ends[audio.index] > 0,
            width=width,
            height=height,
            duration=duration,
        )


def iter_frames(
    path: Path, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """Streams the frames shown in `start` <= t < `end`, seconds of the media.

    Yields the time from `start` on in seconds and the frame as RGB, upright: rotation
    that the container asks for is done. All frames have the first one's size, in the
    pixels that are stored, even if those are to be shown wider than high. A file
    without pictures yields nothing.

    Raises:
        MediaError: a frame cannot be decoded.
    """
    from av.video.reformatter import VideoReformatter

    with opened(path) as container:
        stream = stream_of(container, "video")
        if stream is None:
            return
        stream.thread_type = "AUTO"
        origin = (container.start_time or 0) / MICROSECONDS
        if start > 0:
            container.seek(int((start + origin) * MICROSECONDS))  # the key frame before
        # A new one for every frame, which a frame makes itself, takes twice the time.
        reformatter, size = VideoReformatter(), {}
        for frame in container.decode(stream):
            time = (origin if frame.time is None else frame.time) - origin
            if time < start - HALF_TICK:
                continue
            if end is not None and time >= end - HALF_TICK:
                return
            if frame.is_corrupt:
                raise MediaError(f"{path.name} is damaged at {time:.2f} s", RE_ENCODE)
            size = size or {"width": frame.width, "height": frame.height}
            rgb = reformatter.reformat(frame, format="rgb24", **size).to_ndarray()
            upright = np.rot90(rgb, round(frame.rotation / 90) % 4)
            yield max(0.0, time - start), np.ascontiguousarray(upright)


def frame_times(path: Path) -> list[float]:
    """When each frame appears, in seconds of the media; nothing is decoded.

    Raises:
        MediaError: it cannot be read.
    """
    with opened(path) as container:
        stream = stream_of(container, "video")
        if stream is None:
            return []
        origin = (container.start_time or 0) / MICROSECONDS
        stamps = [
            (packet.dts if packet.pts is None else packet.pts, packet.time_base)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        times = [float(s * base) for s, base in stamps if s is not None and base]
        return sorted(max(0.0, time - origin) for time in times)


def read_audio(
    path: Path, start: float = 0.0, end: float | None = None
) -> Float[np.ndarray, " N"] | None:
    """The sound that `iter_audio` streams, whole; None where it yields nothing."""
    blocks = list(iter_audio(path, start, end))
    return np.concatenate(blocks) if blocks else None


def iter_audio(
    path: Path, start: float = 0.0, end: float | None = None
) -> Iterator[Float[np.ndarray, " _"]]:
    """Streams the sound from `start` to `end` seconds of the media, 16 kHz, mono.

    Channels are averaged, to float32 in -1 … 1. The first sample is at `start`: where
    the track begins later, or has a gap, there is silence. A file without audio track,
    or of which none lies in between, yields nothing. Blocks have a minute at most.

    Raises:
        MediaError: it cannot be decoded, or is silent for hours by its times.
    """
    import av

    with opened(path) as container:
        stream = stream_of(container, "audio")
        if stream is None:
            return
        origin = (container.start_time or 0) / MICROSECONDS
        if start > 0.5:  # codecs need what lies before a moment to render it
            container.seek(int((start - 0.5 + origin) * MICROSECONDS))
        skip, left = 0, None if end is None else round((end - start) * SAMPLE_RATE)
        expected, resampled = 0.0, None
        resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)

        def between(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            nonlocal skip, left
            for block in blocks:
                skip, block = max(0, skip - len(block)), block[skip:][:left]
                left = None if left is None else left - len(block)
                if not np.isfinite(block).all():
                    raise MediaError(
                        f"{path.name} holds sound that is no numbers", RE_ENCODE
                    )
                if len(block):
                    yield np.clip(block, -1.0, 1.0)

        def silence(seconds: float) -> Iterator[np.ndarray]:
            if seconds > LONGEST_SILENCE:
                raise MediaError(
                    f"{path.name} has no sound for {seconds / 3600:.1f} hours, by the "
                    "times that stand in it",
                    RE_ENCODE,
                )
            count = round(seconds * SAMPLE_RATE)
            for first in range(0, count, MINUTE):
                yield np.zeros(min(MINUTE, count - first), np.float32)

        def resample(frame: av.AudioFrame | None) -> list[np.ndarray]:
            return [out.to_ndarray().mean(axis=0) for out in resampler.resample(frame)]

        for frame in container.decode(stream):
            time = (expected + origin if frame.time is None else frame.time) - origin
            if end is not None and time >= end + 0.1:
                break
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampled is None:
                skip = max(0, round((start - time) * SAMPLE_RATE))
                expected = time
                yield from between(silence(time - start))
            elif resampled != kind:  # a resampler takes one kind of frame
                yield from between(resample(None))
                resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
            resampled = kind
            if (gap := time - expected) > 0.05:
                yield from between(silence(gap))
                expected += gap
            expected += frame.samples / frame.sample_rate
            yield from between(resample(frame))
        if resampled is not None:
            yield from between(resample(None))


def write_video(
    path: Path, frames: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]
) -> None:
    """Writes frames, each with its time in seconds, as MP4 (H.264, yuv420p, no sound).

    Times may be unevenly spaced; the first frame is shown from 0 on, whatever its
    time. An odd width or height is padded by repeating the last column or row. Nothing
    but pictures is stored; one input gives one sequence of bytes. The file appears
    whole or not at all.

    Raises:
        ValueError: there is no frame, or a frame's size is not the first one's.
    """
    import av

    with (
        _beside(path) as partial,
        av.open(str(partial), "w", "mp4", options=BIT_EXACT) as out,
    ):
        stream, shape, durations = None, (0, 0, 3), {}
        for ticks, duration, rgb in _on_ticks(frames):
            if stream is None:
                shape = rgb.shape
                stream = out.add_stream("libx264", rate=30, options=H264)
                stream.height, stream.width = (n + n % 2 for n in shape[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = TICK
                stream.codec_context.thread_count = 1  # more encode otherwise
            if rgb.shape != shape:
                raise ValueError(f"frame of {rgb.shape} after {shape}: give one size")
            odd = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(rgb, odd, "edge"), format="rgb24")
            frame.pts, frame.time_base = ticks, TICK
            durations[ticks] = duration
            _mux(out, stream.encode(frame), durations)
        if stream is None:
            raise ValueError(f"no frame to write to {path.name}: give at least one")
        _mux(out, stream.encode(None), durations)


def write_audio(
    path: Path, sound: Float[np.ndarray, " N"] | Iterable[Float[np.ndarray, " _"]]
) -> None:
    """Writes 16 kHz sound, whole or in pieces, as FLAC (mono, 16 bit).

    The file appears whole or not at all. Values beyond -1 … 1 are clipped.
    """
    import soundfile

    pieces = [sound] if isinstance(sound, np.ndarray) else sound
    with _beside(path) as partial:
        try:
            with soundfile.SoundFile(partial, "w", SAMPLE_RATE, **FLAC) as file:
                for piece in pieces:
                    file.write(np.clip(piece, -1.0, 1.0))
            with soundfile.SoundFile(partial) as file:  # its end is there, too
                file.seek(max(0, file.frames - 1))
                file.read(1)
        except soundfile.LibsndfileError:
            with open(partial, "ab") as beyond:  # on a full disk, this says so
                beyond.write(bytes(2**16))
            raise


def mux(video: Path, audio: Path, output: Path) -> None:
    """Joins the pictures of one file and the sound of another in one MP4.

    Pictures are copied as they are; sound becomes AAC, 16 kHz mono, cut to the length
    of the pictures.

    Raises:
        MediaError: one of them cannot be read, or lacks its part.
    """
    import av

    sound = read_audio(audio, 0.0, probe(video).duration)
    with (
        opened(video) as source,
        _beside(output) as partial,
        av.open(str(partial), "w", "mp4", options=BIT_EXACT) as out,
    ):
        pictures = stream_of(source, "video")
        if pictures is None or sound is None:
            lacking = video if pictures is None else audio
            raise MediaError(f"{lacking.name} lacks its part", "name another file")
        copied = out.add_stream_from_template(pictures)
        encoded = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        out.mux(encoded.encode(frame))
        out.mux(encoded.encode(None))


def _on_ticks(frames) -> Iterator[tuple[int, int, np.ndarray]]:
    """(time, duration, frame) in ticks; the last lasts as long as the one before."""
    held, duration = None, round(1 / 30 / TICK)
    for time, rgb in frames:
        ticks = round(time / TICK) if held is not None else 0
        if held is not None:
            ticks = max(ticks, held[0] + 1)
            duration = ticks - held[0]
            yield held[0], duration, held[1]
        held = (ticks, rgb)
    if held is not None:
        yield held[0], duration, held[1]


def _mux(out, packets, durations: dict[int, int]) -> None:
    """Writes packets with the durations of their frames, which the encoder forgets."""
    for packet in packets:
        packet.duration = durations.pop(packet.pts)
        out.mux(packet)


@contextlib.contextmanager
def _beside(path: Path):
    """A path to write to, renamed to `path` at the end, deleted if that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
