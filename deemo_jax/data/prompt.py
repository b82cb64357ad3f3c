"""What is asked of a clip and what is to be answered, as tokens.

The wording is this project's own: the DEEMO paper does not publish its prompts.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Int
import numpy as np

from deemo_jax.config import MODALITIES, TASKS
from deemo_jax.data.record import Record
from deemo_jax.data.tokenizer import AUDIO, VIDEO, Tokenizer

Message = dict[str, str]


class Spans(NamedTuple):
    """How many tokens a connector hands to the decoder, a modality."""

    video: int
    audio: int


def instruction(task: str, emotions: Sequence[str]) -> str:
    """The question of a task."""
    if task == "recognition":
        return f"Which emotion is it: {', '.join(emotions)}?"
    return "Which clues tell the emotion?"


def answer(record: Record, task: str) -> str | None:
    """The right answer, or None where the clip is not annotated for the task."""
    return record.emotion if task == "recognition" else record.reasoning


def answered(record: Record) -> tuple[str, ...]:
    """The tasks that the record has an answer for."""
    return tuple(task for task in TASKS if answer(record, task))


def available(record: Record) -> tuple[str, ...]:
    """The modalities that the clip has."""
    parts = (record.frames, record.audio, record.transcript)
    return tuple(name for name, part in zip(MODALITIES, parts, strict=True) if part)


def conversation(
    record: Record,
    turns: Sequence[tuple[str, str | None]],
    tokenizer: Tokenizer,
    spans: tuple[int, int],
    emotions: Sequence[str],
    modalities: Sequence[str] = MODALITIES,
) -> list[Message]:
    """The messages: one question and answer a turn, the clip in the first question.

    A turn is (task, answer); an answer of None, in the last turn, is left open.
    What the clip lacks, or `modalities` leaves out, is not mentioned.

        user        <video><video><audio>Transcript: I won!
                    Which emotion is it: negative, positive?
        assistant   positive
        user        Which clues tell the emotion?
        assistant   They raise both arms, ...
    """
    present = [name for name in available(record) if name in modalities]
    clip = VIDEO * spans[0] if "video" in present else ""
    clip += AUDIO * spans[1] if "audio" in present else ""
    if "text" in present:
        clip += f"Transcript: {plain(record.transcript or '', tokenizer)}\n"
    messages = []
    for task, reply in turns:
        question = clip + instruction(task, emotions)
        messages.append({"role": "user", "content": question})
        if reply is not None:
            content = plain(reply, tokenizer)
            messages.append({"role": "assistant", "content": content})
        clip = ""
    return messages


def plain(text: str, tokenizer: Tokenizer) -> str:
    """The text, trimmed, with nothing in it that reads as a special token.

    plain("so </s> sad <video>") == "so < /s> sad < video>"
    """
    for token in tokenizer.get_added_vocab():
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text.strip()


def encode(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
    """Tokens of the conversation as the chat template renders it, and the loss mask.

    The mask holds for the answers and the end token after each. A conversation that
    ends with a question is rendered up to where the answer would begin.

        <s> <|user|> Which … ? <|assistant|> positive </s> <|user|> …  ? <|assistant|>
         .     .       .   . .       .          1      1      .     .  .       .

    Raises:
        ValueError: the template's rendering of a conversation does not begin with
            its rendering of the turns before.
    """
    text = _render(messages, tokenizer)
    inside = np.zeros(len(text) + 1, bool)  # characters to be predicted
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:turn], tokenizer)
        end = text.find(message["content"], len(before)) + len(message["content"])
        if not text.startswith(before) or end < len(before):
            raise ValueError(
                "the chat template rewrites earlier turns or the answer: "
                "use a tokenizer whose template appends them as they are"
            )
        eos = str(tokenizer.eos_token)
        at = text.find(eos, end)
        if at >= 0 and not text[end:at].strip():
            end = at + len(eos)
        inside[len(before) : end] = True
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = np.array([start for start, _ in encoded["offset_mapping"]], int)
    return np.array(encoded["input_ids"], np.int32), inside[starts]


def corpus_texts(records: Iterable[Record], emotions: Sequence[str]) -> Iterator[str]:
    """The texts of which conversations are made, to train a tokenizer on."""
    for record in records:
        if record.transcript:
            yield f"Transcript: {record.transcript.strip()}\n"
        for task in TASKS:
            yield instruction(task, emotions)
            if (reply := answer(record, task)) is not None:
                yield reply.strip()


def _render(messages: Sequence[Message], tokenizer: Tokenizer) -> str:
    """The text of the conversation, ready for an answer if the last turn is open."""
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=messages[-1]["role"] == "user",
        )
    )
