"""A clip's words: written down where nobody did, and redacted, in the voice, too."""

from collections.abc import Callable, Iterable
import dataclasses
import difflib

from jaxtyping import Float
import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction, transcript
from deemo_jax.deidentify.settings import Words

# Of `deidentification`; a change of how they are counts up.
REDACTED, SILENCED = "+words/2", "+silence/2"
COUNTS = (*redaction.TYPES, "transcribed", "silenced", "mostly_silenced", "unmatched")
UNHEARD = "["  # which `transcript.plain` leaves in no word
MOST = 0.5  # of the words; where more tell something, they may be of another language


def made_with(settings: Words) -> str:
    """What `deidentification` says of words."""
    if not settings.redact:
        return ""
    return REDACTED + (SILENCED if settings.silence else "")


def check_installed(settings: Words) -> None:
    """Refuses what cannot be followed here, rather than leave names where they are.

    Raises:
        ValueError: the packages or weights that it takes are missing.
    """
    try:
        if settings.transcribe or (settings.redact and settings.silence):
            transcript.require(settings.model)
    except ValueError as error:
        raise ValueError(
            f"no voice can be listened to: {error}; or leave names in the voice, and "
            "clips without a transcript as they are, with "
            "--config.words.transcribe=False --config.words.silence=False"
        ) from error
    try:
        if settings.redact:
            redaction.require(settings.redactor)
    except ValueError as error:
        raise ValueError(
            f"no words can be redacted: {error}; or keep names with "
            "--config.words.redact=False"
        ) from error


def listens(annotation: Annotation, settings: Words) -> bool:
    """Whether it takes the voice of a clip to see to its words."""
    unwritten = settings.transcribe and annotation.transcript is None
    return unwritten or (settings.redact and settings.silence)


def reworded(
    annotation: Annotation,
    sound: Iterable[Float[np.ndarray, " _"]] | None,
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
        sound: pieces of the original voice, 16 kHz; None, if there is none. They are
            taken only where the settings ask to listen.
        settings: of what `check_installed` found.
        threads: that transcribe.
        progress: called with the seconds that are transcribed.

    Returns:
        The annotation; `COUNTS`, and the words that are to be silenced. Of the counts,
        placeholders are by type; "transcribed" is 1 if words were written down;
        "mostly_silenced" is 1 if more than half of them are "silenced"; "unmatched" are
        words redacted in a transcript that was given, and not heard in the voice.
    """
    said, heard = annotation.transcript, None
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    if sound is not None and listens(annotation, settings):
        heard = transcript.spoken_words(
            sound, model=settings.model, threads=threads, progress=progress
        )
    if said is None and settings.transcribe:
        said = transcript.text_of(heard or ()) or None
        counts["transcribed"] = int(bool(said))
    if said and settings.redact:  # judged as what is heard is
        said = " ".join(said.split())
    texts = {"transcript": said, "reasoning": annotation.reasoning}
    for name, text in texts.items():
        if text and settings.redact:
            texts[name], found = redaction.redact(text, model=settings.redactor)
            for kind, count in found.items():
                counts[kind] += count
    silenced = []
    if heard is not None and settings.redact and settings.silence:
        spoken = [word for word in heard if word.text]
        told, counts["unmatched"] = _told(
            [word.text for word in spoken], annotation.transcript, settings.redactor
        )
        silenced = [spoken[place] for place in sorted(told)]
        silenced += [word for word in heard if not word.text]
        counts["silenced"] = len(silenced)
        counts["mostly_silenced"] = int(len(silenced) > MOST * len(heard))
    return dataclasses.replace(annotation, **texts), counts, silenced


def _told(heard: list[str], given: str | None, redactor: str) -> tuple[set[int], int]:
    """The places of heard words that tell something, and how many told ones are not.

    What is heard in the place of a word that is redacted in the transcript that was
    given, or was before, tells it, however it was understood; so do words by which
    nothing but redacted ones are written there, wherever they are heard.
    """
    told = set(redaction.redacted_words(heard, model=redactor))
    said, unmatched = (given or "").split(), 0
    places = set(redaction.redacted_words(said, model=redactor))
    names = redaction.only_told(said, places) - redaction.stop_words(redactor)
    told |= {i for i, word in enumerate(heard) if names & redaction.parts(word)}
    held = {i for i, word in enumerate(said) if redaction.PLACEHOLDER.search(word)}
    places |= held
    matcher = difflib.SequenceMatcher(
        None,
        # With a marked one nothing that is heard can agree.
        [UNHEARD if i in held else transcript.plain(w) for i, w in enumerate(said)],
        [transcript.plain(word) for word in heard],
        autojunk=False,
    )
    for kind, start, end, first, last in matcher.get_opcodes():
        here = places & set(range(start, end))
        if kind == "equal":
            told |= {first + place - start for place in here}
        elif first < last and here:
            told |= set(range(first, last))
        else:
            unmatched += len(here)
    return told, unmatched
