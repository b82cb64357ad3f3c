"""Writes the generated corpus's texts: what is said, and why the emotion follows."""

import numpy as np

# By grade: what somebody says of a match.
SAYINGS = {
    3: (
        "I loved {it}",
        "{it} was wonderful",
        "I am overjoyed with {it}",
        "{it} was a dream",
    ),
    1: ("I liked {it}", "{it} was fine", "I am content with {it}", "{it} was decent"),
    -1: (
        "I was bored by {it}",
        "{it} was dull",
        "I am unsure about {it}",
        "{it} was tiring",
    ),
    -3: (
        "I hated {it}",
        "{it} was awful",
        "I am desperate about {it}",
        "{it} was a disaster",
    ),
}
THINGS = ("the match", "the game", "the final", "the second set")
# Neutral: they say nothing of how it was.
OPENINGS = ("", "well, ", "so, ", "look, ")
FILLERS = (
    "we began at noon",
    "there were three sets",
    "the hall was full",
    "my coach was there",
    "we changed sides twice",
    "it was the last one of the week",
)

WEIGHTS = {
    3: "strongly positive",
    1: "mildly positive",
    -1: "mildly negative",
    -3: "strongly negative",
}
GESTURE_CLUES = {
    3: ("The hands gesture widely", "Both hands gesture widely"),
    1: ("The arms are akimbo", "Both arms are akimbo"),
    -1: ("The arms are folded", "Both arms are folded"),
    -3: ("The hands cover the face", "Both hands cover the face"),
}
VOICE_CLUES = {
    3: ("The voice rises strongly", "The pitch rises strongly"),
    1: ("The voice rises slightly", "The pitch rises slightly"),
    -1: ("The voice falls slightly", "The pitch falls slightly"),
    -3: ("The voice falls strongly", "The pitch falls strongly"),
}
WORD_CLUES = {
    3: ("The words are delighted", "The speech is delighted"),
    1: ("The words are content", "The speech is content"),
    -1: ("The words are weary", "The speech is weary"),
    -3: ("The words are bitter", "The speech is bitter"),
}
CONCLUSIONS = ("So the emotion is {}.", "Together the emotion is {}.")


def say(grade: int, rng: np.random.Generator) -> str:
    """A transcript: a saying of that grade and a neutral remark, in either order."""
    saying = rng.choice(SAYINGS[grade]).format(it=rng.choice(THINGS))
    remarks = [str(saying), str(rng.choice(FILLERS))]
    if rng.random() < 0.5:
        remarks.reverse()
    first, second = remarks
    return f"{_capital(str(rng.choice(OPENINGS)) + first)}. {_capital(second)}."


def explain(
    gesture: int, voice: int, words: int, emotion: str, rng: np.random.Generator
) -> str:
    """A reasoning text: the three clues with their weights, then the emotion."""
    clues = (
        (GESTURE_CLUES, gesture),
        (VOICE_CLUES, voice),
        (WORD_CLUES, words),
    )
    sentences = [
        f"{rng.choice(phrases[grade])}, {WEIGHTS[grade]}." for phrases, grade in clues
    ]
    return " ".join([*sentences, str(rng.choice(CONCLUSIONS)).format(emotion)])


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
