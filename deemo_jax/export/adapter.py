"""A run's LoRA as an adapter folder that `peft` puts onto the exported base model."""

import json
import os
from pathlib import Path
import re
from typing import Any

from flax import nnx
import jax
import numpy as np
from safetensors.numpy import save_file

from deemo_jax.export.parity import ExportError
from deemo_jax.models.deemo_llama import DeemoLlama, table
from deemo_jax.models.lora import LoraLinear, is_lora
from deemo_jax.pretrained import LAYER, Params

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def base_params(model: DeemoLlama) -> Params:
    """The parameters that the adapter is put onto: those of `model` but its LoRA."""
    _, base = nnx.split_state(nnx.state(model, nnx.Param), is_lora, ...)
    return base


def write_adapter(folder: str | os.PathLike, model: DeemoLlama, base: str = "") -> None:
    """Writes the LoRA of `model` as `peft.PeftModel.from_pretrained` reads it.

    It belongs on the model exported with `base_params`, not on a merged one. `base`
    names that export, for whoever finds the adapter alone.

    Raises:
      ExportError: if the model has no LoRA.
    """
    rows = {row.path: row for row in table(model.config)}
    tensors: dict[str, np.ndarray] = {}
    targets: list[str] = []
    settings: dict[str, Any] = {}
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, LoraLinear):
            continue
        row = rows["/".join(map(str, path)) + "/kernel"]
        stem = row.name.removesuffix(".weight")
        targets.append(re.escape(stem).replace(re.escape(LAYER), r"\d+"))
        rank = module.lora_a.shape[-1]
        settings = {
            "r": rank,
            "lora_alpha": module.scale * rank,
            "lora_dropout": module.dropout,
        }
        for letter, variable in (("A", module.lora_a), ("B", module.lora_b)):
            value = np.asarray(jax.device_get(variable[...]))
            layers = value if row.stacked else value[None]
            for name, layer in zip(row.names(value.shape), layers, strict=True):
                name = name.removesuffix(".weight")
                tensors[f"base_model.model.{name}.lora_{letter}.weight"] = (
                    np.ascontiguousarray(layer.T)
                )
    if not tensors:
        raise ExportError(
            "the model has no LoRA to write as an adapter; export the model alone, or "
            "train one in stage tune"
        )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        **settings,
        "target_modules": "|".join(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{WEIGHTS}.partial"
    save_file(tensors, beside, metadata={"format": "pt"})
    beside.replace(folder / WEIGHTS)
    # Last: a folder with it is whole.
    beside = folder / f".{CONFIG}.partial"
    beside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / CONFIG)
