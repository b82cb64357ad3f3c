"""A clip's words: written down where nobody did, then redacted."""

from collections.abc import Callable, Iterable
import dataclasses

from jaxtyping import Float
import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction, transcript
from deemo_jax.deidentify.settings import Words
from deemo_jax.refusals import Refusal

REDACTED = "+words/1"  # of `deidentification`; a change of how they are counts up


def installed(settings: Words) -> tuple[Words, str]:
    """The settings that can be followed here, and what they leave undone, if anything.

    Without the packages clips get no transcript. A model that the settings name must
    be there, though.

    Raises:
        ValueError: it is not.
    """
    try:
        if settings.transcribe:
            transcript.require(settings.model)
            if settings.redact:
                redaction.require(settings.redactor)
    except ValueError as error:
        if settings.model or settings.redactor:
            raise
        return dataclasses.replace(settings, transcribe=False), str(error)
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


def reworded(
    annotation: Annotation,
    sound: Iterable[Float[np.ndarray, " _"]],
    settings: Words,
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> tuple[Annotation, dict[str, int]]:
    """The annotation with a transcript, if there is a voice, and its texts redacted.

    A transcript that was given is never overwritten; a blank one is none. Labels are of
    closed sets and stay.

    Args:
        annotation: as people gave it.
        sound: pieces of the original voice, 16 kHz; none, if there is none. They are
            taken only where a transcript is to be made.
        settings: as `installed` returns them.
        threads: that transcribe.
        progress: called with the seconds that are transcribed.

    Returns:
        The annotation and counts: placeholders by type, and "transcribed", which is 1
        if words were heard.
    """
    said = annotation.transcript
    counts: dict[str, int] = dict.fromkeys((*redaction.TYPES, "transcribed"), 0)
    if said is None and settings.transcribe:
        heard = transcript.transcribe(
            sound, model=settings.model, threads=threads, progress=progress
        )
        said = heard or None
        counts["transcribed"] = int(bool(heard))
    texts = {"transcript": said, "reasoning": annotation.reasoning}
    for name, text in texts.items():
        if text and settings.redact:
            texts[name], found = redaction.redact(text, model=settings.redactor)
            for kind, count in found.items():
                counts[kind] += count
    return dataclasses.replace(annotation, **texts), counts
