"""How often an anonymised voice is recognised in a corpus, and which words stay."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from pathlib import Path

from jaxtyping import Float
import numpy as np

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction
from deemo_jax.deidentify.attackers import ATTACKERS, attack_voices
from deemo_jax.deidentify.audit_rates import Rate
from deemo_jax.deidentify.inverses import inverses
from deemo_jax.deidentify.settings import Words
from deemo_jax.deidentify.speakers import SHORTEST, SpeakerVerifier
from deemo_jax.deidentify.transcript import transcribe, word_errors
from deemo_jax.deidentify.voice import audible
from deemo_jax.media import read_audio

SPEAKERS, UTTERANCES = 20, 6  # at most; bounds time and memory
TRANSCRIPTS = 40  # clips at most whose words are compared
LISTENED = 30.0  # seconds of an utterance, by which its speaker is recognised
TOLD = 120.0  # seconds at most of a clip whose words are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """A clip with sound: where its voice is, before and after, and how long it is."""

    annotation: Annotation
    media: Path
    audio: Path
    seconds: float

    def voices(self, longest: float) -> tuple[Float[np.ndarray, " N"] | None, ...]:
        """Its first seconds, as they were and as they are."""
        start, length = self.annotation.start, min(self.seconds, longest)
        return (
            read_audio(self.media, start, start + length),
            read_audio(self.audio, 0.0, length),
        )


def voice_rates(
    utterances: Sequence[Utterance],
    words: Words,
    *,
    report: Callable[[int], None] | None = None,
) -> list[Rate]:
    """Error rates of attackers on voices, and of the words that Whisper hears.

    Of a subject, the first half minutes of up to six utterances of half a second and
    more are taken; of each as many are known to the attacker, half of the fewest that
    one of them has. The blind attacker tries all `inverses`. Words are those of up to
    40 clips of at most two minutes, of clips with a transcript if there are any, by the
    model and the redactor of `words`. `report` is called with how many of the tried
    utterances are done.
    """
    return [*_recognition(utterances, report), *_words(utterances, words)]


def _recognition(
    utterances: Sequence[Utterance], report: Callable[[int], None] | None
) -> list[Rate]:
    clear: dict[str, list[np.ndarray]] = {}
    after: dict[str, list[np.ndarray]] = {}
    for utterance in utterances:
        name = utterance.annotation.subject
        if len(clear.get(name, ())) == UTTERANCES or (
            name not in clear and len(clear) == SPEAKERS
        ):
            continue
        before, now = utterance.voices(LISTENED)
        if before is None or now is None:
            continue
        now = now[audible(now)]
        if min(len(before), len(now)) < SHORTEST:
            continue
        clear.setdefault(name, []).append(before)
        after.setdefault(name, []).append(now)
    clear = {name: voices for name, voices in clear.items() if len(voices) > 1}
    if len(clear) < 2:
        why_not = "it takes two subjects with two utterances each, and there " + (
            "is 1" if len(clear) == 1 else "are none"
        )
        return [_unknown(f"voices, {name}", "EER", why_not) for name in ATTACKERS]
    try:
        embed = SpeakerVerifier()
    except (ValueError, ImportError) as error:
        return [_unknown(f"voices, {name}", "EER", str(error)) for name in ATTACKERS]
    done = 0

    def guesses(voice: np.ndarray) -> Iterator[np.ndarray]:
        nonlocal done
        done += 1
        if report is not None:
            report(done)
        return inverses(voice)

    found = attack_voices(
        clear,
        {name: after[name] for name in clear},
        enrolment=min(len(voices) for voices in clear.values()) // 2,
        embed=embed,
        inverses=guesses,
    )
    return [
        Rate(
            attack=f"voices, {name}",
            measure=measure,
            value=value,
            trials=linking.trials,
            subjects=linking.speakers,
            chance=chance,
        )
        for name, linking in found.items()
        for measure, value, chance in (
            ("EER", linking.eer, 0.5),
            ("rank 1", linking.top1, 1 / linking.speakers),
        )
    ]


def _words(utterances: Sequence[Utterance], settings: Words) -> list[Rate]:
    """Words that are heard otherwise than the transcript has them, before and after.

    Where no clip was given with one, what is heard of the originals stands for it.
    Names and what else is redacted count as no words; of them, those that are still
    heard are counted.
    """
    short = [u for u in utterances if u.seconds <= TOLD]
    told = [u for u in short if u.annotation.transcript]
    chosen = (told or short)[:TRANSCRIPTS]
    subjects = len({u.annotation.subject for u in chosen})
    measure = "word error" if told else "word error against the original as heard"
    clear, after, still = ("words, clear", measure), ("words, anonymised", measure), (
        "words, names and numbers", "still heard"
    )  # fmt: skip
    errors, words, names = np.zeros(2, int), 0, 0
    names_left = 0
    try:
        redaction.require(settings.redactor)
        for utterance in chosen:
            voices = utterance.voices(TOLD)
            heard = [
                "" if voice is None else transcribe(voice, model=settings.model)
                for voice in voices
            ]
            given = utterance.annotation.transcript or ""
            before, after_it = map(redaction.parts, heard)
            named = _names(heard[0], settings.redactor)
            named |= before & _names(given, settings.redactor)
            names += len(named)
            names_left += len(named & after_it)
            said, *kept = (
                redaction.redact(text, model=settings.redactor)[0]
                for text in (given or heard[0], *heard)
            )
            counted = [word_errors(said, text) for text in kept]
            if spoken := counted[0][1]:  # else what is heard after is no error in words
                errors += [wrong for wrong, _ in counted]
                words += spoken
    except (ValueError, ImportError) as error:
        return [_unknown(*each, str(error)) for each in (clear, after, still)]

    def rate(each: tuple[str, str], count: int, of: int, why_not: str) -> Rate:
        if not of:
            return _unknown(*each, why_not)
        attack, measure = each
        return Rate(
            attack=attack, measure=measure, value=count / of, trials=of,
            subjects=subjects,
        )  # fmt: skip

    silence = "no word is heard in a clip of two minutes or less"
    no_name = "no name or number is heard in a clip of two minutes or less"
    return [
        rate(clear, int(errors[0]), words, silence)
        if told
        else _unknown(
            clear[0],
            "word error",
            "no clip with a voice, of two minutes or less, has a transcript",
        ),
        rate(after, int(errors[1]), words, silence),
        rate(still, names_left, names, no_name),
    ]


def _names(text: str, redactor: str) -> set[str]:
    """Words of it that are to be redacted wherever they stand in it."""
    words = text.split()
    return redaction.only_told(words, redaction.redacted_words(words, model=redactor))


def _unknown(attack: str, measure: str, why_not: str) -> Rate:
    return Rate(attack=attack, measure=measure, why_not=why_not)
