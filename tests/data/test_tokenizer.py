import pickle
import subprocess
import sys

import pytest

from deemo_jax.data.tokenizer import SPECIAL, load_tokenizer, train_tokenizer

TALK = [
    {"role": "user", "content": "Which emotion is it: negative, positive?"},
    {"role": "assistant", "content": "positive"},
    {"role": "user", "content": "Which clues tell the emotion?"},
]


def test_special_tokens_have_fixed_ids(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(7))) == list(SPECIAL)
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (0, 1, 2)


@pytest.mark.parametrize(
    "text",
    ["", " so  it\tgoes\n", "Grüße, 你好 🙂", "\x00\x7f", "the 3rd (of 7)"],
)
def test_any_text_comes_back(tokenizer, text):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert len(tokens) <= len(text.encode())


def test_frequent_words_are_single_tokens(tokenizer):
    tokens = tokenizer("Transcript: emotion", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 3


def test_the_chat_template(tokenizer):
    question = "<|user|>Which emotion is it: negative, positive?<|assistant|>"
    rest = "positive</s><|user|>Which clues tell the emotion?"
    text = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert text == f"<s>{question}{rest}"
    opened = tokenizer.apply_chat_template(
        TALK, tokenize=False, add_generation_prompt=True
    )
    assert opened == text + "<|assistant|>"
    with pytest.raises(Exception, match="roles are user and assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}])


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    texts = [f"the {word} of the {word}s" for word in ("cat", "dog", "cow", "owl")] * 3
    saved = []
    for name in ("one", "two"):
        train_tokenizer(texts, 300).save_pretrained(tmp_path / name)
        saved.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]


def test_a_saved_tokenizer_is_the_same(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(TALK, tokenize=False) + "<video>so</s>"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    for again in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert again(text, add_special_tokens=False)["input_ids"] == expected
        assert again.apply_chat_template(TALK, tokenize=False) in text
        assert (again.pad_token_id, again.eos_token_id) == (0, 2)


def test_reading_one_of_ours_does_not_import_pytorch(tmp_path, tokenizer):
    """It would take every process of a run two seconds."""
    tokenizer.save_pretrained(tmp_path)
    program = (
        "import pathlib, sys; from deemo_jax.data.tokenizer import load_tokenizer; "
        "load_tokenizer(pathlib.Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_it_can_be_handed_to_worker_processes(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.apply_chat_template(TALK) == tokenizer.apply_chat_template(TALK)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size to 263 or more"):
        train_tokenizer(["a"], 262)
    assert len(train_tokenizer(["a"], 263)) == 263


def test_a_folder_without_what_is_needed_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks a chat template, an end token"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(tmp_path)
