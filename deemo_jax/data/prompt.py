"""What is asked of a clip and what is to be answered, as tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Int
import numpy as np

from deemo_jax.config_data import MODALITIES
from deemo_jax.data import tasks
from deemo_jax.data.record import Record
from deemo_jax.data.tokenizer import AUDIO, VIDEO, Tokenizer
from deemo_jax.data.turns import Asker, Turn

Message = dict[str, str]


class Spans(NamedTuple):
    """How many tokens a connector hands to the decoder, a modality."""

    video: int
    audio: int


def available(record: Record) -> tuple[str, ...]:
    """The modalities that the clip has."""
    parts = (record.frames, record.audio, record.transcript)
    return tuple(name for name, part in zip(MODALITIES, parts, strict=True) if part)


def conversation(
    record: Record,
    turns: Sequence[Turn],
    tokenizer: Tokenizer,
    spans: tuple[int, int],
    modalities: Sequence[str] = MODALITIES,
    *,
    cues: bool = False,
) -> list[Message]:
    """The messages: one question and answer a turn, the clip in the first question.

    An answer of None, in the last turn, is left open. What the clip lacks, or
    `modalities` leaves out, is not mentioned. `cues` tells in words which body language
    was seen, unless a turn asks for that or for what is not known.

        user        <video><video><audio>Transcript: I won!
                    Body language: folding arms 0.5 to 2.3
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
    if cues and "video" in present and _may_be_told(turns):
        told = plain(tasks.cues(record), tokenizer)
        clip += f"Body language: {told}\n" if told else ""
    messages = []
    for turn in turns:
        content = clip + plain(turn.question, tokenizer)
        messages.append({"role": "user", "content": content})
        if turn.answer is not None:
            content = plain(turn.answer, tokenizer)
            messages.append({"role": "assistant", "content": content})
        clip = ""
    return messages


def _may_be_told(turns: Sequence[Turn]) -> bool:
    """Whether cues of body language give away no answer."""
    return all(turn.task in ("recognition", "reasoning") for turn in turns)


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


def corpus_texts(records: Iterable[Record], asker: Asker) -> Iterator[str]:
    """The texts of which conversations are made, to train a tokenizer on."""
    for record in records:
        if record.transcript:
            yield f"Transcript: {record.transcript.strip()}\n"
        if asker.config.nfbl_cues and (told := tasks.cues(record)):
            yield f"Body language: {told}\n"
        for task in asker.config.tasks:
            for turn in asker.every(record, task):
                yield turn.question
                if turn.answer is not None:
                    yield turn.answer.strip()


def _render(messages: Sequence[Message], tokenizer: Tokenizer) -> str:
    """The text of the conversation, ready for an answer if the last turn is open."""
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=messages[-1]["role"] == "user",
        )
    )
