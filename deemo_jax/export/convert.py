"""Decoders of others made folders that we read, tensor by tensor: `deemo convert`.

What we write is what the hub has, so the same conversion takes ours to the hub.
"""

import dataclasses
import functools
import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

from flax import nnx
import numpy as np

from deemo_jax.architecture import LlamaConfig
from deemo_jax.export.parity import ExportError, no_progress_bar
from deemo_jax.models import llama
from deemo_jax.pretrained import match, read_config
from deemo_jax.weights import (
    FLOATS,
    Unwritten,
    open_weights,
    write_json,
    write_weights,
)

DTYPES = {dtype.name: dtype for dtype in FLOATS.values()}
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
# What belongs to a checkpoint beside its weights: its language and its terms.
CARRIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    *LICENCES,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written."""

    tensors: int
    parameters: int
    nbytes: int
    dtype: str


def convert(source: Path, output: Path, *, dtype: str | None = None) -> Converted:
    """Writes the LLaMA at `source` as a folder that `Llama.from_pretrained` reads.

    `source` is a Hugging Face folder of safetensors, ours among them, or a GGUF file.
    Of a folder, one tensor at a time is in memory. A GGUF goes through `transformers`
    (extra `gguf`), which holds the whole model in float32.

    Tensors get the names that `LlamaForCausalLM` has, what is only repeated (a tied
    head) or follows from the configuration is left out, tokenizer, generation settings
    and licence are carried along. The folder is written beside `output` and renamed.

    Args:
      dtype: "float32", "bfloat16", "float16", "float64"; None keeps each tensor's own.

    Raises:
      ExportError: `output` holds something already, the tokenizer has more tokens than
        the model, or what GGUF needs is not installed.
      PretrainedError: `source` is no LLaMA that is supported here, see `weights`.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ExportError(
            f"{output} is not an empty folder; choose one that does not exist"
        )
    if not source.exists():
        raise ExportError(
            f"{source} does not exist; give a Hugging Face folder or a GGUF file"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f".{output.name}-", ignore_cleanup_errors=True
    ) as beside:
        partial = Path(beside) / output.name
        partial.mkdir()
        if source.is_file():
            hub = Path(beside) / "hub"
            _unpack_gguf(source, hub)
            converted = _convert_folder(hub, partial, dtype)
        else:
            converted = _convert_folder(source, partial, dtype)
        partial.replace(output)
    return converted


def _convert_folder(source: Path, folder: Path, dtype: str | None) -> Converted:
    values = read_config(source)
    config = llama.config_from_dict(values)
    _check_tokenizer(source, config)
    for pattern in CARRIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    model = nnx.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
    with open_weights(source) as stored:
        found = match(
            source,
            llama.TABLE,
            nnx.state(model),
            stored,
            foreign=llama.FOREIGN,
            copies=llama.copies(config),
        )
        tensors = []
        for name, tensor in found.items():
            kind = tensor.dtype if dtype is None else DTYPES[dtype]
            read = functools.partial(tensor.read, (slice(None),), kind)
            tensors.append(Unwritten(name, tensor.shape, kind, read))
        write_weights(folder, tensors)
    kinds = list(dict.fromkeys(tensor.dtype.name for tensor in tensors))
    # Not the older name of `dtype`, nor whence the file came ("_name_or_path").
    left = [key for key in values if key == "torch_dtype" or key.startswith("_")]
    stated = {key: value for key, value in values.items() if key not in left}
    stated |= llama.config_to_dict(config) | {"dtype": kinds[0]}
    write_json(folder / "config.json", stated)
    return Converted(
        tensors=len(tensors),
        parameters=sum(int(np.prod(tensor.shape)) for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        dtype=", ".join(kinds),
    )


def _unpack_gguf(source: Path, folder: Path) -> None:
    """Writes a GGUF file as the hub's folder, as `transformers` reads it: dequantised.

    Queries and keys are turned back from the order of GGUF's own rope.
    """
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
        import torch
    except ImportError as error:
        raise ExportError(
            f"{source} is read by way of torch, gguf and accelerate, and {error.name} "
            f"is not installed; pip install 'deemo-jax[gguf]'"
        ) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {
        "pretrained_model_name_or_path": source.parent,
        "gguf_file": source.name,
    }
    with no_progress_bar():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, output_loading_info=True
            )
            model, info = loaded
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except (ValueError, OSError, KeyError, IndexError) as error:
            raise ExportError(
                f"{source} ({source.stat().st_size} bytes) is no whole GGUF file of a "
                f"model that transformers reads: {error}; fetch it again"
            ) from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise ExportError(
                f"{source} lacks {len(missing)} tensors of its model, such as "
                f"{missing[0]}; fetch it again"
            )
    tensors = []
    for name, parameter in model.named_parameters():
        value = parameter.detach().numpy()
        read = functools.partial(np.asarray, value)
        tensors.append(Unwritten(name, value.shape, value.dtype, read))
    write_weights(folder, tensors)
    text = model.config.to_json_string(use_diff=False)
    # The file holds float32: 1e-5, not the 9.9999997e-06 that is nearest to it.
    values = json.loads(text, parse_float=lambda x: float(str(np.float32(x))))
    values.pop("quantization_config", None)  # what it was, not what it is
    write_json(folder / "config.json", values)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_tokenizer(folder: Path, config: LlamaConfig) -> None:
    """Refuses tokens that the embedding has no row for."""
    file = folder / "tokenizer.json"
    if not file.exists():
        return
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    last = max(vocabulary, key=vocabulary.__getitem__, default=None)
    if last is not None and vocabulary[last] >= config.vocab_size:
        raise ExportError(
            f"{file} has the token {last!r} with id {vocabulary[last]}, but vocab_size "
            f"in config.json is {config.vocab_size}; take the tokenizer that belongs "
            f"to the weights, or extend the embedding by `extend_vocabulary`"
        )
