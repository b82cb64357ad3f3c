"""Identity leaves texts, ordinary words stay; how well is measured on interviews.txt.

`python tests/deidentify/test_redaction.py [MODEL]` prints the measurement: sentences
that were written for it, in the words of people after a match and of everyday speech,
a third of them as speech recognition writes them, and then sentences that name nobody.
"""

from collections import Counter
import itertools
from pathlib import Path
import re
import sys

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.deidentify import redaction as room
from deemo_jax.deidentify.redaction import (
    PLACEHOLDER,
    TYPES,
    only_told,
    parts,
    redact,
    redacted_words,
    require,
    weights_path,
)

INTERVIEWS = Path(__file__).with_name("interviews.txt")
MARK = re.compile(r"\[([A-Z]+):([^\]]+)\]")


def unmarked(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The sentence, and start, end and type of each of its marks."""
    text, marks, end = "", [], 0
    for match in MARK.finditer(line):
        text += line[end : match.start()]
        marks.append((len(text), len(text) + len(match[2]), match[1]))
        text, end = text + match[2], match.end()
    return text + line[end:], marks


def replaced(text: str, redacted: str) -> list[str | None]:
    """For each character of the text the type of what stands in its place now."""
    parts = PLACEHOLDER.split(redacted)
    pattern = "(.+?)".join(map(re.escape, parts[::2]))
    match = re.fullmatch(pattern, text, re.DOTALL)
    assert match, redacted
    types: list[str | None] = [None] * len(text)
    for group, kind in enumerate(parts[1::2], start=1):
        start, end = match.span(group)
        types[start:end] = [kind] * (end - start)
    return types


def measure(lines: list[str], model: str = "") -> Counter[str]:
    """Sums over sentences: marks by type, of which gone, and gone under their type;
    placeholders by type, of which right (on a mark); plain words, of which lost."""
    sums: Counter[str] = Counter()
    for line in lines:
        text, marks = unmarked(line)
        types = replaced(text, redact(text, model=model)[0])
        plain = [True] * len(text)
        for start, end, kind in marks:
            plain[start:end] = [False] * (end - start)
            letters = [i for i in range(start, end) if text[i].isalnum()]
            gone = all(types[i] for i in letters)
            sums[f"{kind} marks"] += 1
            sums[f"{kind} gone"] += gone
            sums[f"{kind} typed"] += gone and kind in types[start:end]
        for start, kind in enumerate(types):
            if kind and (start == 0 or types[start - 1] != kind):
                end = next(
                    (i for i in range(start, len(text)) if types[i] != kind), len(text)
                )
                sums[f"{kind} placeholders"] += 1
                sums[f"{kind} right"] += not all(plain[start:end])
        for word in re.finditer(r"[\w']+", text):
            if plain[word.start()]:
                sums["plain"] += 1
                sums["lost"] += types[word.start()] is not None
    return sums


def table(sums: Counter[str]) -> str:
    """The measurement by type, as Markdown."""
    rows = [
        "| type | gone | under its type | placeholders that are right |",
        "|-|-|-|-|",
    ]
    for kind in TYPES:
        marks, given = sums[f"{kind} marks"], sums[f"{kind} placeholders"]
        rows.append(
            f"| {kind} | {sums[f'{kind} gone']} of {marks} "
            f"| {sums[f'{kind} typed']} of {marks} "
            f"| {sums[f'{kind} right']} of {given} |"
        )
    return "\n".join(rows) + f"\n\nplain words lost: {sums['lost']} of {sums['plain']}"


def sections() -> tuple[list[str], list[str]]:
    """Sentences with identities, and those without."""
    told, plain = INTERVIEWS.read_text().strip().split("\n\n")
    return told.split("\n"), plain.split("\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("So Priya, the girl from Paris won, and Priya cried", "Priya, Paris Priya"),
        ("the second second of May the second time", "second second May"),
        ("call 555 0199 for one dog", "555 0199"),
        ("We won.", ""),
        ("", ""),
    ],
)
def test_the_words_that_are_replaced_are_told(text, told):
    words = text.split()
    assert " ".join(words[place] for place in redacted_words(words)) == told


@pytest.mark.parametrize(
    "sound",
    ["um", "uh", "uhm", "ummm", "erm", "hmm", "mm-hmm", "uh-huh", "huh", "ah", "ooh",
     "haha", "hahaha", "hey", "yep", "nope", "nah", "phew", "whoa", "wow", "wanna",
     "dunno", "uh-oh", "oops", "ugh", "yay", "'em", "'cause", "aw", "hah", "yikes"],
)  # fmt: skip
def test_sounds_of_everyday_speech_name_nobody(sound):
    """They are a good part of how somebody feels; beside a name, the name goes."""
    for text in ("{}, we won", "and {} that was it", "{}", "we won it {}."):
        text = text.format(sound)
        assert redact(text)[0] == text
        if text.startswith(f"{sound},"):
            assert redact(text.capitalize())[0] == text.capitalize()
    assert redact(f"{sound}, Priya Sharma!")[0] == f"{sound}, [NAME]!"


def test_names_that_begin_with_a_sound_go():
    said = "We met Huh Yunjin and Ah Meng Tan and Umar and Heyward in Ohio."
    gone = redact(said)[0]
    assert not any(name in gone for name in said.split()[2:] if name[0].isupper())
    for said in ("Huh Yunjin sang.", "Oh Jin-hyek shot well.", "Ah Lam coached me."):
        assert redact(said)[0].startswith("[NAME]")


def test_words_are_told_where_the_placeholders_stand():
    told_in_all = 0
    for line in INTERVIEWS.read_text().splitlines()[:60]:
        words = unmarked(line)[0].split()
        text, starts = " ".join(words), [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        types = replaced(text, redact(text)[0])
        expected = [
            place
            for place, (start, end) in enumerate(itertools.pairwise(starts))
            if any(types[start : end - 1])
        ]
        assert redacted_words(words) == expected, text
        told_in_all += len(expected)
    assert told_in_all > 50


def test_recall_on_interviews_does_not_fall():
    told, plain = sections()
    assert len(told) >= 70
    assert len(plain) >= 45
    sums = measure(told)
    gone = {kind: sums[f"{kind} gone"] / sums[f"{kind} marks"] for kind in TYPES}
    typed = {kind: sums[f"{kind} typed"] / sums[f"{kind} marks"] for kind in TYPES}
    assert gone["NAME"] >= 0.98
    assert gone["PLACE"] >= 0.9
    assert gone["DATE"] >= 0.8
    assert gone["NUMBER"] >= 0.98
    assert min(typed.values()) >= 0.75
    assert sums["lost"] / sums["plain"] <= 0.02
    harmless = measure(plain)
    assert harmless["lost"] / harmless["plain"] <= 0.015


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n", " \n"),
        ("Thank you Priya!", "Thank you [NAME]!"),
        ("yeah mohammed and me", "yeah [NAME] and me"),
        ("I saw her in Paris, with Hope.", "I saw her in [PLACE], with [NAME]."),
        ("ivy and amber live in turkey", "[NAME] and [NAME] live in [PLACE]"),
        ("I was born in March 2019", "I was born in [DATE]"),
        ("I'm 23 now.", "I'm [NUMBER] now."),
        ("i am twenty three now", "i am [NUMBER] now"),
        ("Write to sara.lind@example.com", "Write to [NAME]"),
        ("José hugged Siobhán.", "[NAME] hugged [NAME]."),
        ("NOVAK WAS BETTER THAN ME", "[NAME] WAS BETTER THAN ME"),
        ("I may have hurt her.", "I may have hurt her."),
        ("It was one of those days.", "It was one of those days."),
        ("There is hope and joy in it.", "There is hope and joy in it."),
        ("Today I felt great.", "Today I felt great."),
        ("first of all, the first set", "first of all, the first set"),
        ("we won six one", "we won [NUMBER]"),
    ],
)
def test_placeholders_have_types(text, expected):
    assert redact(text)[0] == expected


def test_placeholders_are_counted_and_redacting_twice_changes_nothing():
    told, plain = sections()
    for line in [*told, *plain[::4], "[NAME] said [PLACE]42", "[DATE][NUMBER]"]:
        once, counts = redact(unmarked(line)[0])
        assert redact(once) == (once, Counter())
        given = Counter(PLACEHOLDER.findall(once))
        given.subtract(PLACEHOLDER.findall(unmarked(line)[0]))
        assert counts == +given


def test_another_pipeline_may_be_named():
    text = "Thank you Priya!"
    assert redact(text, model=str(weights_path())) == redact(text)
    with pytest.raises(ValueError, match=r"spaCy has no pipeline 'en_none': name one"):
        redact(text, model="en_none")
    with pytest.raises(ValueError, match=r"spaCy has no pipeline '../none'"):
        redact(text, model="../none")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(room, "SHA256", "0")
    with pytest.raises(
        ValueError, match=r"ner/model has SHA-256 7454af.*: pip install"
    ):
        require()
    monkeypatch.setattr(room, "CARRIER", ("no-such-distribution", "model"))
    with pytest.raises(ValueError, match=r"the model is not installed: pip install"):
        require()
    monkeypatch.setattr(room.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"spaCy is not installed: pip install"):
        require()


def test_parts_of_names_are_those_that_stand_nowhere_else():
    text = "Will you see Grace's shop, O'Brien? Will Twenty-Five come; it's so"
    names = {"grace", "o", "brien", "twenty", "five"}
    assert only_told(text.split(), [3, 5, 6, 7]) == names
    assert parts("it\u2019s U.S.") == {"it", "u", "s"}


def test_what_is_installed_and_broken_is_told(broken):
    room._pipeline.cache_clear()
    broken("spacy")
    with pytest.raises(ConfigError, match=r"\(no library\): install spaCy"):
        redact("We won.")


if __name__ == "__main__":
    model = "".join(sys.argv[1:])
    for title, lines in zip(("who, where, when", "plain"), sections(), strict=True):
        print(f"{len(lines)} sentences: {title}\n\n{table(measure(lines, model))}\n")


def test_a_pipeline_that_finds_nobody_is_refused(tmp_path):
    import spacy

    spacy.blank("de").to_disk(tmp_path)
    with pytest.raises(ValueError, match=r"finds no entities .* name another one"):
        redact("Angela Merkel traf Priya Sharma", model=str(tmp_path))
