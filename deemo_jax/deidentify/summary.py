"""What became of a folder that was de-identified, for a person to read."""

from collections import Counter
from collections.abc import Iterable
import dataclasses

from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.pipeline import COUNTS
from deemo_jax.deidentify.redaction import TYPES
from deemo_jax.deidentify.verdicts import failures

NAMED = 5  # clips that a summary names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a folder. Faces are counted over all clips that are listed.

    Attributes:
        clips: listed in the output, of which `resumed` were there from an earlier run.
        rejected: inputs that were refused.
        faces: sums of the clips' counts: "frames", "frames_with_face", "boxes",
            "frames_masked", "frames_unmasked", and what the same detector, which is no
            audit, finds "left" in the frames that are "looked" at again.
        words: sums of the clips' counts, see `words.COUNTS`.
        mostly_silent: clip ids of which more than half of the words are silenced.
        unmatched: clip ids with words that are redacted and were not heard.
        unmasked: clip ids with frames in which nothing was masked.
        seconds: of clips.
        verdicts: how many clips have which.
        failed: each clip that failed its audit, with the reasons.
        unaudited_for: what the audit lacks, and the remedy, if that is so.
    """

    clips: int
    resumed: int
    rejected: int
    faces: dict[str, int]
    words: dict[str, int]
    mostly_silent: tuple[str, ...]
    unmatched: tuple[str, ...]
    unmasked: tuple[str, ...]
    seconds: float
    verdicts: dict[str, int]
    failed: tuple[str, ...]
    unaudited_for: str | None

    def describe(self) -> str:
        """A few lines for a person."""
        faces = dict.fromkeys(COUNTS, 0) | self.faces
        text = (
            f"{self.clips} clips of {self.seconds:.1f} s de-identified "
            f"({self.resumed} of them earlier), {self.rejected} inputs refused\n"
            f"faces: {faces['boxes']} found in {faces['frames_with_face']} of "
            f"{faces['frames']} frames, {faces['left']} left in {faces['looked']} "
            "looked at again by the same detector"
        )
        if any(self.words.values()):
            counts = (f"{self.words[kind]} {kind.lower()}s" for kind in TYPES)
            text += f"\nwords: {self.words['transcribed']} clips transcribed, "
            text += f"{', '.join(counts)} redacted, "
            text += f"{self.words['silenced']} words silenced"
        if self.mostly_silent:
            text += (
                "\nsilent for the most of what is said: "
                f"{_a_few(self.mostly_silent)}; if that, or its transcript, is not in "
                "English, name a pipeline of its language in --config.words.redactor"
            )
        if self.unmatched:
            text += (
                f"\n{self.words['unmatched']} words that are redacted in transcripts "
                "were not heard in the voice, where they may be left: listen to "
                f"{_a_few(self.unmatched)}"
            )
        if self.unmasked:
            text += (
                f"\nno face was known of in {faces['frames_unmasked']} frames, which "
                f"show all that was filmed: look at {_a_few(self.unmasked)}"
            )
        text += "\naudit: " + ", ".join(
            f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items())
        )
        if self.unaudited_for:
            text += f" ({self.unaudited_for})"
        return "\n".join([text, *self.failed])


def summarise(
    clips: list[DeidentifiedClip],
    *,
    resumed: int,
    rejected: int,
    unaudited_for: str | None,
) -> Summary:
    """Sums over the clips that are listed; of the rest see `Summary`."""
    unheard = next((why for c in clips if (why := c.audit.get("unheard"))), None)
    return Summary(
        clips=len(clips),
        resumed=resumed,
        rejected=rejected,
        faces=_sums(clip.faces for clip in clips),
        words=_sums(clip.words for clip in clips),
        mostly_silent=_ids(c for c in clips if c.words.get("mostly_silenced", 0)),
        unmatched=_ids(c for c in clips if c.words.get("unmatched", 0)),
        unmasked=_ids(c for c in clips if c.faces.get("frames_unmasked", 0)),
        seconds=sum((clip.annotation.end or 0.0 for clip in clips), 0.0),
        verdicts=Counter(clip.verdict for clip in clips),
        failed=failures(clips),
        unaudited_for=unaudited_for or unheard,
    )


def _ids(clips: Iterable[DeidentifiedClip]) -> tuple[str, ...]:
    return tuple(clip.annotation.clip_id for clip in clips)


def _a_few(clip_ids: tuple[str, ...]) -> str:
    more = len(clip_ids) - NAMED
    named = ", ".join(clip_ids[:NAMED])
    return named + (f" and {more} more clips" if more > 0 else "")


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total
