"""The parameters a run starts with: of a whole model, of pretrained parts, or drawn."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh

from deemo_jax.architecture import (
    ClipVisionConfig,
    DeemoLlamaConfig,
    HubertConfig,
    LlamaConfig,
    SiglipVisionConfig,
    WhisperEncoderConfig,
)
from deemo_jax.checkpoint import Checkpoints
from deemo_jax.config import Config, ConfigError, from_dict
from deemo_jax.data.tokenizer import AUDIO, VIDEO, read_tokenizer
from deemo_jax.models.clip import ClipVision
from deemo_jax.models.deemo_llama import PARTS, DeemoLlama
from deemo_jax.models.hubert import Hubert
from deemo_jax.models.llama import Llama
from deemo_jax.models.lora import is_lora, merge_lora
from deemo_jax.models.siglip import SiglipVision
from deemo_jax.models.vocabulary import extend_vocabulary
from deemo_jax.models.whisper import WhisperEncoder
from deemo_jax.pretrained import read_config
from deemo_jax.sharding import parameter_shardings
from deemo_jax.storage import AnyPath, locate
from deemo_jax.train.step import abstract_state, draw_params, split_model

# What reads a part of its own, by the kind of its configuration.
READERS: dict[type, Any] = {
    ClipVisionConfig: ClipVision,
    SiglipVisionConfig: SiglipVision,
    WhisperEncoderConfig: WhisperEncoder,
    HubertConfig: Hubert,
    LlamaConfig: Llama,
}


def initial_params(
    config: Config, mesh: Mesh, parts: tuple[str, ...] = tuple(PARTS)
) -> nnx.State:
    """The parameters of some parts before the first step, each in its shards.

    They are those of `config.init_from`; where that is empty, those of the folders in
    `config.pretrained`, and for the parts without one drawn from `config.seed`. Parts
    that need not be drawn never are.

    Raises:
      ConfigError: a folder is not there, or holds a model of other sizes.
      PretrainedError: a folder's files are not whole.
    """
    check_initial(config)
    if config.init_from:
        params = nnx.filter_state(
            _whole(config, mesh), lambda path, _: path[0] in parts
        )
    else:
        params = _of_parts(config, mesh, parts)
    return jax.device_put(params, parameter_shardings(params, mesh, config.layout))


def _of_parts(config: Config, mesh: Mesh, parts: tuple[str, ...]) -> nnx.State:
    """The parameters in the folders of `config.pretrained`, and drawn ones."""
    folders = {name: at for name, at in _folders(config).items() if name in parts}
    found = {name: _part(config, mesh, name, folders[name]) for name in folders}
    drawn = draw_params(config, mesh, _are_missing(parts, tuple(found)))
    return nnx.merge_state(nnx.State(found), drawn)


@functools.lru_cache(maxsize=8)
def _are_missing(
    parts: tuple[str, ...], found: tuple[str, ...]
) -> Callable[[tuple, Any], bool]:
    """Equal parts have the same filter: what `draw_params` compiled for it is kept."""
    return lambda path, variable: (
        path[0] in parts and (path[0] not in found or is_lora(path, variable))
    )


def check_initial(config: Config) -> None:
    """Refuses folders that the run cannot start from, by their `config.json` alone.

    Raises:
      ConfigError: naming the setting, and what is missing or differs.
    """
    whole = locate(config.init_from)
    if config.init_from and not (
        (whole / "checkpoints").is_dir()
        or (isinstance(whole, Path) and (whole / "config.json").is_file())
    ):
        raise ConfigError(
            f"config.init_from is {str(whole)!r}, which is neither a workdir with "
            f"checkpoints nor a Hugging Face folder on this machine; give one of these"
        )
    for name, folder in ({} if config.init_from else _folders(config)).items():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"config.pretrained.{name} is {str(folder)!r}, which has no "
                f"config.json; give a Hugging Face folder, or leave it empty"
            )
        wanted: Any = getattr(config.model, name)
        key, kinds = PARTS[name]
        values = read_config(folder)
        if _is_whole(values):
            values = values[key]
        found = kinds[type(wanted)].config_from_dict(values)
        differing = [
            f"{field.name} is {getattr(found, field.name)!r} there and "
            f"{getattr(wanted, field.name)!r} here"
            for field in dataclasses.fields(wanted)
            if getattr(found, field.name) != getattr(wanted, field.name)
            and field.name != "vocab_size"  # which is extended
        ]
        if differing:
            raise ConfigError(
                f"config.pretrained.{name} is {str(folder)!r}, another model than "
                f"config.model.{name} describes: {'; '.join(differing)}; make them "
                f"equal"
            )


def bases(config: Config) -> tuple[str, ...]:
    """The folders of others that a run's parameters come from, by earlier runs too."""
    folder = locate(config.init_from)
    if config.init_from and not (folder / "checkpoints").is_dir():
        return (config.init_from,)
    if config.init_from:
        return bases(_read_config(folder))
    return tuple(dict.fromkeys(map(str, _folders(config).values())))


def _folders(config: Config) -> dict[str, Path]:
    """The parts of the model that have a folder of their own."""
    named = dataclasses.asdict(config.pretrained)
    return {name: Path(folder) for name, folder in named.items() if folder}


def _is_whole(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of a DEEMO-LLaMA's `config.json`."""
    return values.get("model_type") == "deemo_llama"


def _part(config: Config, mesh: Mesh, name: str, folder: Path) -> nnx.State:
    """The parameters of one part of the model, read from its folder."""
    wanted: Any = getattr(config.model, name)
    if _is_whole(read_config(folder)):
        model = getattr(DeemoLlama.from_pretrained(folder, mesh=mesh), name)
    else:
        model = READERS[type(wanted)].from_pretrained(folder, mesh=mesh)
    if isinstance(model, Llama):
        size = {"vocab_size": wanted.vocab_size}
        try:
            extend_vocabulary(model, read_tokenizer(folder), (VIDEO, AUDIO), **size)
        except ValueError as error:
            raise ConfigError(
                f"config.model.language_model does not fit {folder}: {error}"
            ) from error
    return nnx.state(model)


def _whole(config: Config, mesh: Mesh) -> nnx.State:
    """The parameters in `config.init_from`: a workdir, or a Hugging Face folder.

    The LoRA of a workdir is gone on with where `config.lora` is the same but for the
    dropout; else it is merged into the kernels, and a new one, if any, is drawn.
    """
    folder = locate(config.init_from)
    if (folder / "checkpoints").is_dir():
        with Checkpoints(folder / "checkpoints", keep=config.train.keep) as checkpoints:
            newest = checkpoints.newest()
            if newest is None:
                raise ConfigError(
                    f"config.init_from is {str(folder)!r}, which has no whole "
                    f"checkpoint; choose a workdir that has one"
                )
            theirs = _read_config(folder)
            _check_model(folder, theirs.model, config)
            abstract = abstract_state(theirs, mesh).params
            params = checkpoints.restore(newest, {"params": abstract})["params"]
        if theirs.lora == dataclasses.replace(config.lora, dropout=theirs.lora.dropout):
            return params
        return _add_lora(config, mesh, _merge_lora(theirs, mesh, params))
    assert isinstance(folder, Path)  # checked
    model = DeemoLlama.from_pretrained(folder, mesh=mesh)
    _check_model(folder, model.config, config)
    return _add_lora(config, mesh, nnx.state(model))


def _read_config(workdir: AnyPath) -> Config:
    """The configuration of the run in `workdir`."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"config.init_from is {str(workdir)!r}, which has checkpoints and no "
            f"config.json; choose a workdir that is whole"
        )
    return from_dict(json.loads(path.read_text(encoding="utf-8")))


def _check_model(folder: AnyPath, found: DeemoLlamaConfig, config: Config) -> None:
    if found != config.model:
        raise ConfigError(
            f"config.init_from is {str(folder)!r}, which holds another model than "
            f"config.model describes ({found}); make config.model equal to it"
        )


def _merge_lora(config: Config, mesh: Mesh, params: nnx.State) -> nnx.State:
    """The parameters of a run without its LoRA, in their shards."""
    if config.lora.rank == 0:
        return params
    graphdef, _ = split_model(config)
    lora, base = nnx.split_state(params, is_lora, ...)

    def merge(base: nnx.State, lora: nnx.State) -> nnx.State:
        return merge_lora(nnx.merge(graphdef, base, lora))

    shardings = parameter_shardings(base, mesh, config.layout)
    return jax.jit(merge, out_shardings=shardings, donate_argnums=0)(base, lora)


def _add_lora(config: Config, mesh: Mesh, params: nnx.State) -> nnx.State:
    """Parameters without LoRA, and a new one beside them where the run has one."""
    if config.lora.rank == 0:
        return params
    return nnx.merge_state(params, draw_params(config, mesh, is_lora))
