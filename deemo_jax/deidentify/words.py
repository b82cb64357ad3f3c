"""A clip's words: written down where nobody did, and redacted, in the voice, too."""

from collections.abc import Callable, Iterable
import dataclasses

from jaxtyping import Float
import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction, transcript
from deemo_jax.deidentify.settings import Words
from deemo_jax.refusals import Refusal

# Of `deidentification`; a change of how they are counts up.
REDACTED, SILENCED = "+words/1", "+silence/1"
COUNTS = (*redaction.TYPES, "transcribed", "silenced", "mostly_silenced")
MOST = 0.5  # of the words; where more tell something, they may be of another language


def made_with(settings: Words) -> str:
    """What `deidentification` says of words."""
    if not settings.redact:
        return ""
    return REDACTED + (SILENCED if settings.silence else "")


def installed(settings: Words) -> tuple[Words, str]:
    """The settings that can be followed here, and what they leave undone, if anything.

    Without the packages clips get no transcript, and nothing is silenced. A model that
    the settings name must be there, though.

    Raises:
        ValueError: it is not.
    """
    try:
        if settings.transcribe or (settings.redact and settings.silence):
            transcript.require(settings.model)
            if settings.redact:
                redaction.require(settings.redactor)
    except ValueError as error:
        if settings.model or settings.redactor:
            raise
        off = dataclasses.replace(settings, transcribe=False, silence=False)
        return off, str(error)
    return settings, ""


def check_redactable(annotation: Annotation, settings: Words) -> None:
    """Refuses a clip with words that could not be redacted, before work is put in it.

    Raises:
        Refusal: the redactor is missing.
    """
    if settings.redact and (annotation.transcript or annotation.reasoning):
        try:
            redaction.require(settings.redactor)
        except ValueError as error:
            raise Refusal(
                f"its words cannot be redacted: {error}",
                "install it, or keep names with --config.words.redact=False",
            ) from error


def check_silenceable(made_with: str, untranscribed: str) -> None:
    """Refuses to make a clip anew with the names that were silenced in it.

    Args:
        made_with: what its `deidentification` says.
        untranscribed: what silencing lacks, or "".

    Raises:
        Refusal: it was silenced, and cannot be now.
    """
    if untranscribed and SILENCED in made_with:
        raise Refusal(
            f"names in its voice were silenced, and now cannot be: {untranscribed}",
            "install it, or keep names with --config.words.silence=False",
        )


def listens(annotation: Annotation, settings: Words) -> bool:
    """Whether it takes the voice of a clip to see to its words."""
    unwritten = settings.transcribe and annotation.transcript is None
    return unwritten or (settings.redact and settings.silence)


def reworded(
    annotation: Annotation,
    sound: Iterable[Float[np.ndarray, " _"]],
    settings: Words,
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> tuple[Annotation, dict[str, int], list[transcript.Word]]:
    """The annotation with a transcript, if there is a voice, and its texts redacted.

    A transcript that was given is never overwritten; a blank one is none. Labels are of
    closed sets and stay.

    Args:
        annotation: as people gave it.
        sound: pieces of the original voice, 16 kHz; none, if there is none. They are
            taken only where the settings ask to listen.
        settings: as `installed` returns them.
        threads: that transcribe.
        progress: called with the seconds that are transcribed.

    Returns:
        The annotation; counts: placeholders by type, "transcribed", which is 1 if words
        were written down, "silenced", and "mostly_silenced", which is 1 if more than
        half of them are; and the words that are to be silenced.
    """
    said, heard = annotation.transcript, []
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    if listens(annotation, settings):
        heard = transcript.spoken_words(
            sound, model=settings.model, threads=threads, progress=progress
        )
    if said is None and settings.transcribe:
        said = transcript.text_of(heard) or None
        counts["transcribed"] = int(bool(said))
    texts = {"transcript": said, "reasoning": annotation.reasoning}
    for name, text in texts.items():
        if text and settings.redact:
            texts[name], found = redaction.redact(text, model=settings.redactor)
            for kind, count in found.items():
                counts[kind] += count
    silenced = []
    if heard and settings.redact and settings.silence:
        texts_heard = [word.text for word in heard]
        told = redaction.redacted_words(texts_heard, model=settings.redactor)
        silenced = [heard[place] for place in told]
        silenced += [word for word in heard if not word.text]
        counts["silenced"] = len(silenced)
        counts["mostly_silenced"] = int(len(silenced) > MOST * len(heard))
    return dataclasses.replace(annotation, **texts), counts, silenced
