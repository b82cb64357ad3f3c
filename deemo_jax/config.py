"""The configuration of one run: frozen dataclasses, read once, unknown keys refused.

A file under `configs/` returns a `ml_collections.ConfigDict`, which the command line
may override key by key; `from_config_dict` turns it into a `Config` and checks it.
After that nothing looks a setting up by string and nothing has a second default.
"""

import dataclasses
import functools
import json
import re
from typing import Any

import ml_collections

from deemo_jax.architecture import FRAMES_PER_SECOND, DeemoLlamaConfig
from deemo_jax.config_data import DataConfig
from deemo_jax.fields import ConfigError, flatten, read_group, require
from deemo_jax.storage import AnyPath

STAGES = ("align", "tune", "full")
REMAT = ("none", "dots", "full")
# Layout of a part of the model -> the axes that its parameters may be split over.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "replicated": (),
    "fsdp": ("dcn_fsdp", "fsdp"),
    "fsdp_tensor": ("dcn_fsdp", "fsdp", "tensor"),
}

POSITIVE = (
    "train.steps", "train.batch_size", "train.log_every", "train.save_every",
    "train.keep", "train.stall_seconds", "data.num_frames", "data.audio_seconds",
    "data.max_length", "data.clips_per_row", "optimizer.clip_norm", "optimizer.eps",
    "evaluate.batch_size", "evaluate.max_new_tokens",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "data.fold", "data.workers", "data.prefetch", "optimizer.warmup_steps",
    "optimizer.learning_rate", "optimizer.end_fraction", "optimizer.weight_decay",
    "evaluate.every", "train.save_seconds", "train.keep_every",
    "train.max_skipped_steps", "train.local_every",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh, as `sharding.py` describes them.

    `dcn_data` and `dcn_fsdp` count slices or hosts. -1 takes what is left, once among
    these two, and once among the others.
    """

    dcn_data: int = 1
    dcn_fsdp: int = 1
    data: int = 1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """Over which axes each part of the model is split, one of `LAYOUTS`.

    "replicated" over none, "fsdp" over `dcn_fsdp` and `fsdp`, "fsdp_tensor" over
    `tensor` as well. A part that is not split over `tensor` has its rows split over it.
    `tolerance` is the largest share of the parameters' bytes that may lie on more
    devices than that, because an axis does not divide them.
    """

    vision_tower: str
    audio_tower: str
    connectors: str
    language_model: str
    tolerance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA (Hu et al., 2021) on linear maps of any tower, for the stage `tune`.

    `rank` 0 means none. What LoRA gives is scaled by `alpha / rank`; `dropout` is the
    probability, in training, with which each of its inputs is left out. `targets` are
    regular expressions of whole paths, `language_model/layers/self_attn/q_proj`.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine down to `end_fraction` of the peak."""

    learning_rate: float
    warmup_steps: int
    end_fraction: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop. `stage` is a row of the freeze table in `train/optimizer.py`.

    `batch_size` is global: rows over all devices and hosts. `dtype` is the dtype of
    computation; parameters and optimizer state are float32. `remat` is one of
    `REMAT`.

    A checkpoint is saved every `save_every` steps, and when `save_seconds` have passed
    since the last one (0: never for that). The newest `keep` are kept, and those of
    every `keep_every`-th step (0: none). Between, every `local_every` steps (0: never),
    each host keeps what it holds in `local_folder`, a fast disk of its own. A process
    that gives no sign of life, or stays in one step, for `stall_seconds` ends the run
    by name. A step without finite gradient is skipped; more than `max_skipped_steps` of
    them in a row end the run.
    """

    stage: str
    steps: int
    batch_size: int
    dtype: str
    remat: str
    log_every: int
    save_every: int
    save_seconds: int
    keep: int
    keep_every: int
    local_folder: str
    local_every: int
    stall_seconds: int
    max_skipped_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of both tasks on `split`; every `every` steps, 0 for never.

    `ablations` adds recognition by likelihood for every subset of the modalities.
    `best` is the figure by which the best checkpoint is kept whatever its age, such as
    `recognition.likelihood.accuracy`; "" keeps none for that.
    """

    split: str
    every: int
    best: str
    batch_size: int
    max_new_tokens: int
    ablations: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """Hugging Face folders that parts of a new model come from; empty: drawn.

    A folder holds that part alone, the checkpoint it is a part of (CLIP, Whisper), or a
    DEEMO-LLaMA. The decoder brings its tokenizer, which the media's tokens are added
    to.
    """

    vision_tower: str
    audio_tower: str
    language_model: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole.

    `init_from` is the whole model to start from, a workdir or a Hugging Face folder;
    where it is empty, `pretrained` names its parts.
    """

    seed: int
    init_from: str
    pretrained: PretrainedConfig
    data: DataConfig
    model: DeemoLlamaConfig
    lora: LoraConfig
    mesh: MeshConfig
    layout: LayoutConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    evaluate: EvaluateConfig

    def __post_init__(self):
        for key in POSITIVE:
            require(_get(self, key) > 0, key, _get(self, key), "more than 0")
        for key in NOT_NEGATIVE:
            require(_get(self, key) >= 0, key, _get(self, key), "0 or more")
        self.data.check()
        require(
            self.train.dtype in ("float32", "bfloat16"), "train.dtype",
            self.train.dtype, "float32 or bfloat16",
        )  # fmt: skip
        self._check_lora()
        stage, remat = self.train.stage, self.train.remat
        require(stage in STAGES, "train.stage", stage, "among " + ", ".join(STAGES))
        require(remat in REMAT, "train.remat", remat, "among " + ", ".join(REMAT))
        require(
            self.data.image_size == self.model.vision_tower.image_size,
            "data.image_size", self.data.image_size,
            f"model.vision_tower.image_size, {self.model.vision_tower.image_size}",
        )  # fmt: skip
        require(
            self.data.num_frames <= self.model.video_connector.max_positions,
            "data.num_frames", self.data.num_frames, "at most model.video_connector."
            f"max_positions, {self.model.video_connector.max_positions}",
        )  # fmt: skip
        longest = self.model.max_audio_frames / FRAMES_PER_SECOND
        require(
            self.data.audio_seconds <= longest, "data.audio_seconds",
            self.data.audio_seconds, f"at most {longest:g}, what model.audio_tower and "
            "model.audio_connector have positions for",
        )  # fmt: skip
        for kind in (("dcn_data", "dcn_fsdp"), ("data", "fsdp", "sequence", "tensor")):
            sizes = tuple(getattr(self.mesh, axis) for axis in kind)
            require(
                all(size == -1 or size > 0 for size in sizes) and sizes.count(-1) <= 1,
                "mesh", ", ".join(f"{a}={n}" for a, n in zip(kind, sizes, strict=True)),
                "sizes of 1 or more, -1 at most once among these",
            )  # fmt: skip
        for name in ("vision_tower", "audio_tower", "connectors", "language_model"):
            found = getattr(self.layout, name)
            require(
                found in LAYOUTS, f"layout.{name}", found, "among " + ", ".join(LAYOUTS)
            )
        require(
            0 <= self.layout.tolerance <= 1, "layout.tolerance", self.layout.tolerance,
            "a share, from 0 to 1",
        )  # fmt: skip

    def _check_lora(self) -> None:
        lora, stage = self.lora, self.train.stage
        require(lora.rank >= 0, "lora.rank", lora.rank, "0 (none) or more")
        require(lora.alpha > 0, "lora.alpha", lora.alpha, "above 0")
        require(
            0 <= lora.dropout < 1, "lora.dropout", lora.dropout,
            "at least 0 and below 1",
        )  # fmt: skip
        if stage == "tune":
            require(
                lora.rank > 0, "lora.rank", lora.rank,
                "1 or more in stage tune, which trains LoRA and the connectors "
                "(stage align trains the connectors alone)",
            )  # fmt: skip
        else:
            require(
                lora.rank == 0, "lora.rank", lora.rank,
                f"0 in stage {stage}: LoRA is trained in stage tune, and merged into "
                f"the kernels where config.init_from names a run of it",
            )  # fmt: skip
        for target in lora.targets:
            require(_is_pattern(target), "lora.targets", target, "a regular expression")
        require(
            lora.rank == 0 or len(lora.targets) > 0, "lora.targets", lora.targets,
            "one regular expression or more",
        )  # fmt: skip


def from_config_dict(config: ml_collections.ConfigDict) -> Config:
    """Reads a `ConfigDict` into a `Config`; raises as `read_config_dict` does."""
    return read_config_dict(config, Config)


def read_config_dict(config: ml_collections.ConfigDict, group: type) -> Any:
    """Reads a `ConfigDict` into `group`, a dataclass.

    Raises:
      ConfigError: a key that does not exist (with the nearest that does), a missing
        key, a value of the wrong type, or values that contradict each other.
    """
    try:
        return read_group([group], config.to_dict(), "")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dicts and lists, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`, also for what came back from JSON."""
    return read_group([Config], values, "")


def read_stored(workdir: AnyPath) -> Config:
    """What a workdir was trained with.

    Raises:
      ConfigError: the workdir holds no run, or one of another version.
    """
    path = workdir / "config.json"
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"{workdir} holds no run (no config.json): train one with `deemo train`"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not what this version writes ({error}); choose another "
            "--workdir, or the version that wrote it"
        ) from error


def differences(before: Config, after: Config, allowed: str) -> list[str]:
    """What changed between two configurations, in words; no key that `allowed` matches.

    `allowed` is a regular expression over whole keys, such as `train\\.(steps|keep)`.
    """
    old, new = flatten(to_dict(before)), flatten(to_dict(after))
    return [
        f"config.{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not re.fullmatch(allowed, key)
    ]


def _get(config: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), config)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
