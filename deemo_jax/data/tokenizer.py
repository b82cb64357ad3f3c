"""The tokenizer: trained on the corpus, or read from a Hugging Face folder."""

from collections.abc import Iterable
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast as Tokenizer
else:
    Tokenizer = Any  # transformers is imported where a tokenizer is made, not before

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
VIDEO, AUDIO = "<video>", "<audio>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, VIDEO, AUDIO, USER, ASSISTANT)  # ids 0 to 6
SMALLEST = len(SPECIAL) + 256  # one id a byte besides

# <s><|user|>How is it?<|assistant|>negative</s><|user|>Why?<|assistant|>…</s>
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids, with a chat template.

    Ids 0 to 6 are <pad>, <s>, </s>, <video>, <audio>, <|user|>, <|assistant|>. Any
    text can be encoded; the same texts in the same order give the same tokenizer.

    Raises:
        ValueError: `vocab_size` does not hold the special tokens and every byte.
    """
    if vocab_size < SMALLEST:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: "
            f"set config.model.language_model.vocab_size to {SMALLEST} or more"
        )
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[VIDEO, AUDIO, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer of a Hugging Face folder; nothing is downloaded.

    One without a padding token, as LLaMA's are, pads with its end token: what padding
    holds is masked everywhere.

    Raises:
        ValueError: there is none, or it lacks what a conversation with media needs.
    """
    tokenizer = read_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    lacks = [token for token in (VIDEO, AUDIO) if token not in vocabulary]
    lacks += ["a chat template"] if not tokenizer.chat_template else []
    lacks += ["an end token"] if tokenizer.eos_token is None else []
    if not tokenizer.is_fast:
        lacks.append("a tokenizer.json (offsets of its tokens)")
    if lacks:
        raise ValueError(f"the tokenizer of {folder} lacks {', '.join(lacks)}: add it")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_tokenizer(folder: Path) -> Tokenizer:
    """A Hugging Face folder's tokenizer as it is, fit for media or not.

    Raises:
        ValueError: there is none.
    """
    path = Path(folder) / "tokenizer_config.json"
    if not path.exists():
        raise ValueError(
            f"{folder} holds no tokenizer ({path.name}): set config.data.tokenizer to "
            f"a Hugging Face folder, or leave it empty"
        )
    try:
        stated = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): mend it") from error
    if not isinstance(stated, dict):
        raise ValueError(f"{path} holds no JSON object: mend it")
    # What was saved by a tokenizer as ours says its class. To find that of another,
    # AutoTokenizer imports PyTorch, which takes every process two seconds.
    if stated.get("tokenizer_class") == "TokenizersBackend":
        from transformers import PreTrainedTokenizerFast as Kind
    else:
        from transformers import AutoTokenizer as Kind
    return Kind.from_pretrained(str(folder), local_files_only=True)
