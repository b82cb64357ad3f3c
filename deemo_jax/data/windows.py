"""Long clips cut into windows of equal length, their intervals with them."""

from collections.abc import Iterable, Iterator
import dataclasses
import io
import math
from typing import Any

from deemo_jax.annotation import Interval
from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.fields import ConfigError

LEAST = 0.25  # seconds: at 4 frames a second, what is shown for less may be in none
CUT = {"deemo_nfbl": 16}  # data sets of long videos: seconds, 64 frames of such a clip


class Window(DeidentifiedClip):
    """A part of a clip: from `start` to `end` of its annotation, seconds of its files.

    Its intervals count from its start. Emotion and subject are the clip's; what was
    said and reasoned of the whole clip is not of a part, and left out.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windowing:
    """How clips of more than `seconds` are cut: equal windows, each as long at most.

    `hop` is at most from the start of one to the start of the next, and as its share of
    `seconds` kept: without overlap it is `seconds`. The first window starts where the
    clip does, the last one ends where it does, all are more than half of `seconds`.

        clip              |--------- 40 s ----------|
        16 s, hop 16 s    |-13.3-||-13.3-||-13.3-|
        16 s, hop 8 s     |---16---|  |---16---|
                              |---16---|  |---16---|

    Raises:
        ConfigError: windows of no length, or with gaps between them.
    """

    seconds: float
    hop: float

    def __post_init__(self):
        if not 0 < self.hop <= self.seconds:
            raise ConfigError(
                f"windows of {self.seconds:g} s every {self.hop:g} s: give a --window "
                "above 0 and a --hop above 0 and no longer"
            )

    def spans(self, length: float) -> list[tuple[float, float]]:
        """Start and end of each window of a clip of so many seconds."""
        if length <= self.seconds:
            return [(0.0, length)]
        more = math.ceil((length - self.seconds) / self.hop)
        share = self.hop / self.seconds
        seconds = length / (1 + more * share)
        step = seconds * share
        starts = [(k * step, k * step + seconds) for k in range(more)]
        return [*starts, (length - seconds, length)]

    def cut(self, clips: Iterable[DeidentifiedClip]) -> Iterator[DeidentifiedClip]:
        """The windows of long clips; other clips, those of unknown length too, whole.

        Of an interval, a window has what lies in it, if that is a quarter of a second
        or half of the interval: no interval is in none.
        """
        for clip in clips:
            length = clip.annotation.end
            if length is None or length <= self.seconds:
                yield clip
                continue
            for start, end in self.spans(length):
                annotation = dataclasses.replace(
                    clip.annotation,
                    clip_id=f"{clip.annotation.clip_id}@{start:.3f}",
                    start=start,
                    end=end,
                    nfbl=parts(clip.annotation.nfbl, start, end),
                    transcript=None,
                    reasoning=None,
                )
                fields: dict[str, Any] = {
                    f.name: getattr(clip, f.name) for f in _FIELDS
                }
                fields["annotation"] = annotation
                yield Window(**fields)


_FIELDS = dataclasses.fields(DeidentifiedClip)


def windowing_of(name: str, seconds: int, hop: int) -> Windowing | None:
    """How a data set is cut: -1 seconds is as its name has it, 0 not; hop 0 is seconds.

    Raises:
        ConfigError: see `Windowing`; or a hop without a window.
    """
    if seconds < -1:
        raise ConfigError(
            f"--window is {seconds}: give seconds above 0, 0 to cut nothing, or -1 for "
            "what the data set's name stands for"
        )
    if seconds == -1:
        seconds = CUT.get(name, 0)
    if seconds == 0 and hop == 0:
        return None
    if seconds == 0:
        raise ConfigError(
            f"--hop is {hop}, but clips of {name} are not cut: give --window above 0, "
            "too"
        )
    return Windowing(seconds=float(seconds), hop=float(hop or seconds))


def parts(
    intervals: Iterable[Interval] | None, start: float, end: float
) -> tuple[Interval, ...] | None:
    """What of the intervals lies from `start` to `end`, counted from `start`.

    None where nobody looked for any; () where none lies there.
    """
    if intervals is None:
        return None
    found = []
    for interval in intervals:
        first, last = max(interval.start, start), min(interval.end, end)
        least = min(LEAST, (interval.end - interval.start) / 2)
        if last - first >= least - 1e-9 and last > first:
            found.append(
                Interval(label=interval.label, start=first - start, end=last - start)
            )
    return tuple(found)


def sound_of(clip: DeidentifiedClip) -> bytes | None:
    """The FLAC file of a clip, or of its window; None without sound there."""
    if clip.audio is None:
        return None
    if not isinstance(clip, Window):
        return clip.audio.read_bytes()
    import soundfile

    start, end = clip.annotation.start, clip.annotation.end or 0.0
    with soundfile.SoundFile(clip.audio) as file:
        first = min(round(start * SAMPLE_RATE), file.frames)
        file.seek(first)
        samples = file.read(round(end * SAMPLE_RATE) - first, dtype="int16")
        rate, subtype = file.samplerate, file.subtype
    if not len(samples):
        return None
    packed = io.BytesIO()
    soundfile.write(packed, samples, rate, subtype, format="FLAC")
    return packed.getvalue()
