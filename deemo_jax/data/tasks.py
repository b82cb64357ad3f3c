"""The tasks: what is asked of a clip, in several wordings, and the right answer.

The wording is this project's own: the DEEMO paper does not publish its prompts.
"""

from collections.abc import Sequence

from deemo_jax.annotation import NONE
from deemo_jax.config_data import TASKS
from deemo_jax.data.record import Record

# The first of each is the one of evaluation. In place of {label} stands a class of body
# language, in place of {seconds} the length of the clip.
WORDINGS: dict[str, tuple[str, ...]] = {
    "recognition": (
        "Which emotion is it: {emotions}?",
        "Name the emotion of this person, one of: {emotions}.",
        "How does this person feel: {emotions}?",
        "Choose the emotion that fits best: {emotions}.",
        "Of these emotions, which one is shown: {emotions}?",
    ),
    "reasoning": (
        "Which clues tell the emotion?",
        "What in body, voice and words shows how this person feels?",
        "Explain step by step which emotion it is.",
        "Describe the signs of the emotion and conclude with its name.",
        "From what can you tell how this person feels?",
    ),
    "nfbl_which": (
        "Which body language is shown, in the order of time?",
        "List the body language of this person, first to last.",
        "Name each kind of body language in the clip as it comes.",
        "What does this person do with body and hands, from first to last?",
        "Which gestures and postures come one after another?",
    ),
    "nfbl_when": (
        "In these {seconds} seconds, when is this shown: {label}?",
        "The clip has {seconds} seconds. From when to when is there {label}?",
        "Give the times of this body language, of {seconds} seconds in all: {label}.",
        "Find {label} in the {seconds} seconds of this clip.",
        "At which of the {seconds} seconds does this begin and end: {label}?",
    ),
}
NEVER = "never"  # the answer where a class is not shown; NONE where none is


def instruction(task: str, emotions: Sequence[str], phrasing: int = 0) -> str:
    """A task's question for all clips; what is no task is a question in words already.

    instruction("recognition", ["calm", "sad"]) == "Which emotion is it: calm, sad?"
    """
    if task not in TASKS:
        return task
    return WORDINGS[task][phrasing].replace("{emotions}", ", ".join(emotions))


def question(
    record: Record,
    task: str,
    emotions: Sequence[str],
    *,
    label: str = "",
    phrasing: int = 0,
) -> str:
    """The question to ask of a clip; `label` is what `nfbl_when` asks for."""
    words = instruction(task, emotions, phrasing)
    if task == "nfbl_when":
        words = words.replace("{seconds}", f"{record.duration:.1f}")
        words = words.replace("{label}", label)
    return words


def answer(record: Record, task: str, label: str = "") -> str | None:
    """The right answer, or None where the clip is not annotated for the task.

    recognition    positive
    reasoning      The arms are high, so the emotion is positive.
    nfbl_which     folding arms; touching ears   or: none
    nfbl_when      0.5 to 2.3, 4.0 to 4.7        or: never

    A clip without body language is not asked when: it would be never every time.
    """
    if task == "recognition":
        return record.emotion
    if task == "reasoning":
        return record.reasoning
    if record.nfbl is None:
        return None
    if task == "nfbl_which":
        return "; ".join(classes(record)) or NONE
    return write_times(times(record, label)) if record.nfbl else None


def answered(record: Record) -> tuple[str, ...]:
    """The tasks that the record has an answer for."""
    return tuple(task for task in TASKS if answer(record, task))


def classes(record: Record) -> tuple[str, ...]:
    """The classes of body language that a clip shows, each once, as they begin."""
    in_order = sorted(record.nfbl or (), key=lambda interval: interval.start)
    return tuple(dict.fromkeys(interval.label for interval in in_order))


def times(record: Record, label: str) -> tuple[tuple[float, float], ...]:
    """When a class is shown: (start, end) in seconds, rounded to tenths, in order.

    What overlaps or touches is one; none is empty, and none ends after the clip unless
    it would be empty.
    """
    found: list[tuple[int, int]] = []  # tenths of a second
    for interval in sorted(record.nfbl or (), key=lambda interval: interval.start):
        if interval.label != label:
            continue
        start = round(10 * interval.start)
        end = max(round(10 * min(interval.end, record.duration)), start + 1)
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple((start / 10, end / 10) for start, end in found)


def write_times(intervals: Sequence[tuple[float, float]]) -> str:
    """Intervals in words, `0.5 to 2.3, 4.0 to 4.7`; `never` if there are none."""
    return ", ".join(f"{start:.1f} to {end:.1f}" for start, end in intervals) or NEVER


def cues(record: Record) -> str:
    """What the clip shows and when, in words: `folding arms 0.5 to 2.3; …`, `none`.

    To tell a language model of body language in words is what EALD-MLLM did (arXiv
    2405.00574).
    """
    if record.nfbl is None:
        return ""
    shown = classes(record)
    return "; ".join(f"{c} {write_times(times(record, c))}" for c in shown) or NONE
