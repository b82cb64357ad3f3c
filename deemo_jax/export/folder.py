"""The exported folder: weights, code, tokenizer, card and proof, all or nothing."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from deemo_jax.annotation import Taxonomy, write_taxonomy
from deemo_jax.batch import Batch
from deemo_jax.export import parity
from deemo_jax.export.adapter import write_adapter
from deemo_jax.export.card import Card, base_names, write_card
from deemo_jax.export.convert import LICENCES
from deemo_jax.export.parity import ExportError
from deemo_jax.export.processor import processor_config
from deemo_jax.models.deemo_llama import DeemoLlama

DTYPES = ("float32", "bfloat16", "float16")  # what weights may be stored in
CODE = (
    "configuration_deemo_llama.py",
    "parts_deemo_llama.py",
    "modeling_deemo_llama.py",
    "processing_deemo_llama.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_deemo_llama.DeemoLlamaConfig",
    "AutoModelForCausalLM": "modeling_deemo_llama.DeemoLlamaForConditionalGeneration",
    "AutoProcessor": "processing_deemo_llama.DeemoLlamaProcessor",
}


def export(
    model: DeemoLlama,
    tokenizer: Any,
    output: Path,
    *,
    card: Card,
    taxonomy: Taxonomy | None = None,
    batches: Sequence[Batch] = (),
    dtype: str = "float32",
    verify: bool = True,
    max_new_tokens: int = 32,
    adapter: DeemoLlama | None = None,
    ledger: str = "",
) -> Mapping[str, Any] | None:
    """Writes `model` as a Hugging Face folder that PyTorch runs.

    The folder is written beside `output` and takes its place once it is proved, so
    that what stands at `output` is always whole. `tokenizer` is a tokenizer of
    `transformers`, `card` what the model card says, `taxonomy` the label sets.

    The weights are stored in `dtype`, one of `DTYPES`; what is proved of shorter ones
    says `parity.verify`.

    With `verify`, the folder's PyTorch model and ours answer `batches` (without any, a
    batch of noise), each row with up to `max_new_tokens` greedy tokens.

    `adapter` is `model` with LoRA, which is written for `peft`, into the folder that
    `card.adapter` names. `ledger` is the text of a `ledger.jsonl` (`train.ledger`),
    which lies beside the weights.

    Returns:
      What `parity.verify` measured, also written to `parity.json`; None if not run.

    Raises:
      ExportError: `output` holds something that is no export of ours, the tokenizer
        does not fit the model, a weight is too large for `dtype`, or PyTorch does not
        compute the same (logits off by 1e-4 or more, or another greedy answer). Then
        `output` stays as it was.
    """
    _check_output(output)
    _check_tokenizer(model, tokenizer)
    if dtype != "float32":
        model = _rounded(model, dtype)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f".{output.name}-", ignore_cleanup_errors=True
    ) as beside:
        partial = Path(beside) / output.name
        model.save_pretrained(partial, dtype=dtype)
        _write_config(partial, tokenizer, dtype)
        _write_tokenizer(partial, tokenizer)
        _write_json(
            partial / "processor_config.json",
            processor_config(
                model.config,
                video_token=_token(tokenizer, model.config.video_token_id),
                audio_token=_token(tokenizer, model.config.audio_token_id),
                data=card.config.get("data", {}),
                instructions=card.instructions,
            )
            | {"auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}},
        )
        for name in CODE:
            shutil.copyfile(Path(__file__).with_name(name), partial / name)
        if taxonomy is not None:
            write_taxonomy(partial / "taxonomy.json", taxonomy)
        if ledger:
            (partial / "ledger.jsonl").write_text(ledger, encoding="utf-8")
        if adapter is not None:
            write_adapter(partial / card.adapter, adapter, base=output.name)
        licences = _copy_licences(card.started_from, partial / "licences")
        measured = None
        if verify:
            measured = _prove(partial, model, tokenizer, batches, max_new_tokens, dtype)
            _write_json(partial / "parity.json", measured)
        (partial / "README.md").write_text(
            write_card(
                card,
                model.config,
                parameters=_count(model),
                licences=licences,
                parity=measured,
            ),
            encoding="utf-8",
        )
        if output.exists():
            output.replace(Path(beside) / "previous")
        partial.replace(output)
    return measured


def _prove(
    folder: Path,
    model: DeemoLlama,
    tokenizer: Any,
    batches: Sequence[Batch],
    max_new_tokens: int,
    dtype: str,
) -> dict[str, Any]:
    measured = parity.verify(
        folder,
        model,
        batches or [parity.random_batch(model.config, seed=0)],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
    )
    if not measured["passed"]:
        same = "the same" if measured["greedy_text_equal"] else "another"
        shorter = measured.get("computed_in_weights_dtype")
        raise ExportError(
            f"PyTorch does not compute what was trained: logits differ by up to "
            f"{measured['max_abs_difference']:.3g} (allowed: less than "
            f"{measured['tolerance']:g}) and the greedy text is {same}"
            + (
                f"; computed in {dtype} they differ by up to "
                f"{shorter['max_abs_difference']:.3g} (allowed: less than "
                f"{shorter['tolerance']:.3g})"
                if shorter
                else ""
            )
            + f"; nothing was exported. Compare versions: {measured['versions']}"
        )
    return measured


def _rounded(model: DeemoLlama, dtype: str) -> DeemoLlama:
    """The model of the values that are stored, as float32."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def stored(path, value):
        with np.errstate(over="ignore"):  # told below, with the remedy
            found = np.asarray(value).astype(jnp.dtype(dtype)).astype(np.float32)
        if not np.isfinite(found).all():
            raise ExportError(
                f"{jax.tree_util.keystr(path)} holds values that {dtype} does not "
                f"reach; export with --dtype=bfloat16 or float32"
            )
        on_device = isinstance(value, jax.Array)  # else the host holds it
        return jax.device_put(found, value.sharding) if on_device else found

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(stored, params), rest)


def _check_output(output: Path) -> None:
    """Refuses to replace anything but an earlier export."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ExportError(f"{output} is a file; choose a folder that does not exist")
    ours = all((output / name).is_file() for name in (*CODE, "config.json"))
    if any(output.iterdir()) and not ours:
        raise ExportError(
            f"{output} is not empty and no earlier export; choose another folder"
        )


def _check_tokenizer(model: DeemoLlama, tokenizer: Any) -> None:
    size = model.config.language_model.vocab_size
    if len(tokenizer) > size:
        raise ExportError(
            f"the tokenizer has {len(tokenizer)} tokens and the model's vocab_size is "
            f"{size}; export with the tokenizer that the model was trained with"
        )
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            raise ExportError(
                f"the tokenizer has no {name}, which answers end with or are padded "
                f"by; set it and export again"
            )


def _copy_licences(started_from: Sequence[str], folder: Path) -> list[str]:
    """Copies the terms of local folders into `folder/NAME`; the names that have some.

    An earlier export among them hands on those of its own bases.
    """
    found = []
    names = base_names(started_from)
    for source, name in zip(started_from, names, strict=True):
        inherited = Path(source) / "licences"
        if inherited.is_dir():
            shutil.copytree(inherited, folder / name / "licences", dirs_exist_ok=True)
        for file in (file for each in LICENCES for file in Path(source).glob(each)):
            if file.is_file():
                (folder / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / name / file.name)
        if (folder / name).is_dir():
            found.append(name)
    return found


def _write_config(folder: Path, tokenizer: Any, dtype: str) -> None:
    """Completes the model's `config.json` for `AutoModelForCausalLM`."""
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("pad", "bos", "eos")
    }
    text = fields["text_config"] | special
    fields |= special | {"text_config": text, "auto_map": AUTO_MAP, "dtype": dtype}
    _write_json(path, fields)
    _write_json(folder / "generation_config.json", special | {"do_sample": False})


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Saves the tokenizer so that it pads on the left, as generation needs it."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, fields | {"padding_side": "left"})


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _token(tokenizer: Any, token_id: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token_id))


def _count(model: DeemoLlama) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
