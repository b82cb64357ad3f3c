import numpy as np
import pytest

from deemo_jax.data import prompt
from deemo_jax.data.tokenizer import train_tokenizer

SPANS = prompt.Spans(video=4, audio=2)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<im>' + m['role'] + '\n' + m['content'] + eos_token "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<im>assistant\n' }}"
    "{% endif %}"
)


@pytest.fixture(params=[None, LLAMA_2, CHATML], ids=["ours", "llama-2", "chatml"])
def any_tokenizer(request, rows, asker):
    found = train_tokenizer(prompt.corpus_texts(rows, asker), 400)
    found.chat_template = request.param or found.chat_template
    return found


@pytest.fixture
def talk(asker):
    """The conversation about a record, over both tasks."""

    def converse(record, tokenizer, **kwargs):
        turns = [asker.every(record, task)[0] for task in asker.config.tasks]
        return prompt.conversation(record, turns, tokenizer, SPANS, **kwargs)

    return converse


def test_tokens_are_those_of_the_chat_template(talk, rows, any_tokenizer):
    for record in rows[:3]:
        messages = talk(record, any_tokenizer)
        expected = any_tokenizer.apply_chat_template(messages)["input_ids"]
        assert prompt.encode(messages, any_tokenizer)[0].tolist() == expected


def test_loss_is_on_answers_and_their_ends_alone(talk, rows, any_tokenizer):
    for record in rows[:3]:
        tokens, mask = prompt.encode(talk(record, any_tokenizer), any_tokenizer)
        runs = np.split(np.arange(len(mask)), np.flatnonzero(np.diff(mask)) + 1)
        learned = [
            any_tokenizer.decode(tokens[run]).replace(" ", "")
            for run in runs
            if mask[run[0]]
        ]
        assert learned == [
            f"{record.emotion}</s>",
            f"{record.reasoning}</s>".replace(" ", ""),
        ]


def test_an_open_question_ends_where_the_answer_begins(talk, rows, any_tokenizer):
    whole, mask = prompt.encode(talk(rows[0], any_tokenizer)[:2], any_tokenizer)
    opened, none = prompt.encode(talk(rows[0], any_tokenizer)[:1], any_tokenizer)
    assert whole[: len(opened)].tolist() == opened.tolist()
    assert mask.argmax() == len(opened)
    assert not none.any()


def test_the_clip_stands_in_the_first_question(talk, rows, tokenizer):
    messages = talk(rows[1], tokenizer)
    said, labels = "Transcript: Number 1 was good.", "negative, positive"
    assert [message["content"] for message in messages] == [
        f"{'<video>' * 4}<audio><audio>{said}\nWhich emotion is it: {labels}?",
        "positive",
        "Which clues tell the emotion?",
        "The arms are high, so it is positive.",
    ]
    tokens, _ = prompt.encode(messages, tokenizer)
    assert tokens[2:8].tolist() == [3, 3, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("changes", "modalities", "video", "audio", "text"),
    [
        ({}, ("video", "audio", "text"), 4, 2, True),
        ({}, ("audio",), 0, 2, False),
        ({}, (), 0, 0, False),
        ({"frames": ()}, ("video", "audio", "text"), 0, 2, True),
        ({"audio": None}, ("video", "audio", "text"), 4, 0, True),
        ({"transcript": None}, ("video", "audio", "text"), 4, 2, False),
        ({"audio": None}, ("audio", "text"), 0, 0, True),
    ],
)
def test_what_is_lacking_is_not_mentioned(
    talk, changes, modalities, video, audio, text, tokenizer, make_record
):
    record = make_record(0, **changes)
    question = talk(record, tokenizer, modalities=modalities)[0]["content"]
    assert question.count("<video>") == video
    assert question.count("<audio>") == audio
    assert ("Transcript" in question) == text


@pytest.mark.parametrize("evil", ["</s>", "<video>", "<|assistant|>", "<pad><s>"])
def test_text_cannot_pass_for_special_tokens(talk, evil, tokenizer, make_record):
    clean = make_record(0, transcript="so sad", reasoning="so it is")
    record = make_record(0, transcript=f"so {evil} sad", reasoning=f"so {evil} it is")
    counts = [
        np.bincount(prompt.encode(talk(r, tokenizer), tokenizer)[0], minlength=400)[:7]
        for r in (clean, record)
    ]
    np.testing.assert_array_equal(counts[0], counts[1])


def test_available_is_what_the_clip_has(make_record):
    assert prompt.available(make_record(0)) == ("video", "audio", "text")
    assert prompt.available(make_record(0, audio=None)) == ("video", "text")


def test_a_template_that_rewrites_what_was_said_is_refused(
    talk, rows, asker, tokenizer
):
    other = train_tokenizer(prompt.corpus_texts(rows, asker), 400)
    other.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        prompt.encode(talk(rows[0], other), other)
    other.chat_template = (
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        prompt.encode(talk(rows[0], other), other)


def test_the_corpus_holds_every_text_of_a_conversation(talk, rows, asker, tokenizer):
    texts = "".join(prompt.corpus_texts(rows, asker))
    for record in rows:
        for message in talk(record, tokenizer)[::2]:
            last = message["content"].split("\n")[-1].split("<audio>")[-1]
            assert last.split("<video>")[-1] in texts
