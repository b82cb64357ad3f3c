"""The model card of an exported folder: what is known of it, and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from deemo_jax.architecture import FRAMES_PER_SECOND, DeemoLlamaConfig

NAMES = {
    "clip_vision_model": "CLIP",
    "siglip_vision_model": "SigLIP",
    "whisper": "Whisper",
    "hubert": "HuBERT",
    "blip_2_qformer": "Q-Former",
    "deemo_mlp": "MLP",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What the exporter knows of a model; what it does not know stays empty.

    `data` names the data set, `about_data` says of it what a reader must know (that it
    was generated, say), `deidentification` lists the versions found in its records.
    `started_from` names whose weights the training began with, folders or names on the
    hub. `config` is the run's configuration as nested dicts, `metrics` measured
    results, nested likewise: groups of numbers, of which only the numbers are shown.
    `instructions` are the questions the model was trained on, by task. `adapter` is the
    folder beside the weights that holds what LoRA learned, where it is not in them.
    `people` is the number of subjects in the `ledger.jsonl` beside the weights.
    """

    name: str
    data: str
    about_data: str = ""
    deidentification: tuple[str, ...] = ()
    steps: int | None = None
    started_from: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    instructions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    adapter: str = ""
    people: int = 0


def write_card(
    card: Card,
    config: DeemoLlamaConfig,
    *,
    parameters: int,
    licences: Sequence[str] = (),
    parity: Mapping[str, Any] | None,
) -> str:
    """The card as Markdown; `parity` is what `verify` returned, None if not run.

    `licences` are those of `card.started_from`, by `base_names`, whose licence lies in
    the folder.
    """
    sections = [
        _front(card),
        _introduction(card, config, parameters, licences),
        _use(card, config),
        _data(card),
        _results(card),
        _parity(parity),
        _training(card),
    ]
    return "\n\n".join(sections) + "\n"


def _front(card: Card) -> str:
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [emotion-recognition, de-identified, video, audio, deemo]",
            "---",
            "",
            f"# {card.name}",
        ]
    )


def base_names(sources: Sequence[str]) -> list[str]:
    """What bases are called: folders by their last part, not by where they lie here.

    base_names(["some/llama", "/a/clip", "/b/clip"]) == ["some/llama", "clip", "clip-2"]
    """
    paths = [(source, Path(source)) for source in sources]
    names = [
        path.resolve().name if path.is_absolute() or path.exists() else source
        for source, path in paths
    ]
    earlier = [names[:i].count(name) for i, name in enumerate(names)]
    return [
        f"{name}-{count + 1}" if count else name
        for name, count in zip(names, earlier, strict=True)
    ]


def _introduction(
    card: Card, config: DeemoLlamaConfig, parameters: int, licences: Sequence[str]
) -> str:
    llama, vision = config.language_model, config.vision_tower
    parts = [
        NAMES[part.model_type]
        for part in (
            vision, config.audio_tower, config.video_connector, config.audio_connector
        )
    ]  # fmt: skip
    if card.started_from:
        bases = base_names(card.started_from)
        start = f"Training started from {_list(bases)}, whose licence applies."
        if licences:
            start += f" That of {_list(licences)} is in `licences/`."
        if lacking := [base for base in bases if base not in licences]:
            start += f" No licence file was found with {_list(lacking)}: look it up."
    elif card.config.get("train", {}).get("stage") == "full":
        start = "Every weight was trained from random values."
    else:
        start = "Training started from random values."
    return (
        "A DEEMO-LLaMA model (method: arXiv 2504.19549; these are not its authors' "
        "weights): it reads emotion from clips whose faces are masked and whose voices "
        "are changed, and answers in words. It was trained with deemo-jax.\n\n"
        f"{parameters:,} parameters: a vision tower ({parts[0]}, {vision.image_size} "
        f"pixels), an audio tower ({parts[1]}), a connector each ({parts[2]} and "
        f"{parts[3]}), and a LLaMA decoder ({llama.num_hidden_layers} layers, "
        f"{llama.hidden_size} wide). {start}"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _use(card: Card, config: DeemoLlamaConfig) -> str:
    seconds = config.max_audio_frames / FRAMES_PER_SECOND
    size = config.vision_tower.image_size
    data = card.config.get("data", {})
    frames = data.get("num_frames", config.video_connector.max_positions)
    heard = data.get("audio_seconds", seconds)
    plain = [task for task, text in card.instructions.items() if "{" not in text]
    question = next(iter(plain), "Which emotion is it?")
    lines = [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoProcessor",
        "",
        "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)",
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)",
        f'prompts = [processor.prompt("{question}", transcript=transcript)]',
        "inputs = processor(text=prompts, videos=[frames], audio=[waveform])",
        "tokens = model.generate(**inputs, max_new_tokens=64)",
        "tokens = tokens[:, inputs.input_ids.shape[1] :]",
        "answers = processor.batch_decode(tokens, skip_special_tokens=True)",
        "```",
        *_adapter(card),
        "",
        "`frames` is a list of images of Pillow, or of uint8 arrays",
        "`[height, width, 3]`, RGB, of any size; `waveform` is a float array `[N]`,",
        "16 kHz mono. Of a clip without video, `prompt` is told `video=False` and the",
        "list holds None; likewise for audio; one without transcript is given none.",
        "Several clips make a batch, padded on the left.",
        "",
        "The processor takes the frames at the middles of",
        f"{frames} equal parts of the clip, makes the shortest side {size} pixels and",
        "cuts out the centre; of the audio it takes the middle",
        f"{heard:g} s, or all of it with zeros up to that length.",
        f"At most {config.video_connector.max_positions} frames and {seconds:g} s fit.",
    ]
    if card.instructions:
        lines += ["", "Questions it was trained on, asked in full or by name:", ""]
        lines += [f"- {task}: {text}" for task, text in card.instructions.items()]
        if len(plain) < len(card.instructions):
            lines += ["", "`prompt` is told what stands for {label} and {seconds}."]
    return "\n".join(lines)


def _adapter(card: Card) -> list[str]:
    if not card.adapter:
        return []
    return [
        "",
        f"What LoRA learned lies apart, in `{card.adapter}/`; the results below are",
        "those with it (the agreement with JAX was measured without):",
        "",
        "```python",
        "from peft import PeftModel",
        "",
        f'model = PeftModel.from_pretrained(model, f"{{folder}}/{card.adapter}")',
        "```",
    ]


def _data(card: Card) -> str:
    versions = ", ".join(f"`{version}`" for version in card.deidentification)
    lines = ["## Data", "", f"Trained on `{card.data}`. {card.about_data}".strip()]
    lines += ["", f"De-identification of its records: {versions or 'not recorded'}."]
    if card.people:
        lines += [
            "",
            f"`ledger.jsonl` lists the {card.people} people that it, or what it began",
            "with, was trained on, by pseudonyms that only the owner of their salt can",
            "tell: so nobody of them is taken to judge it, and who takes consent back",
            "is found. Of a copy without it, neither can be known.",
        ]
    return "\n".join(lines)


def _results(card: Card) -> str:
    rows = list(_leaves(card.metrics))
    if not rows:
        return "## Results\n\nNo metrics were given at export: nothing is claimed."
    table = ["## Results", "", "| measured | value |", "|---|---|"]
    return "\n".join(table + [f"| {name} | {value:.6g} |" for name, value in rows])


def _parity(parity: Mapping[str, Any] | None) -> str:
    if parity is None:
        return (
            "## Agreement with the model that was trained\n\n"
            "Not measured at this export."
        )
    text = (
        "## Agreement with the model that was trained\n\n"
        f"Measured at export, PyTorch against JAX in {parity['dtype']}, on "
        f"{parity['tokens']} tokens of {parity['rows']} rows: logits differ by at most "
        f"{parity['max_abs_difference']:.2g}, the most likely token is the same for "
        f"{parity['top1_agreement']:.2%}, and the {parity['greedy_tokens']} tokens "
        "answered greedily are the same. Details and versions: `parity.json`."
    )
    if shorter := parity.get("computed_in_weights_dtype"):
        text += (
            f"\n\nThe weights were rounded to {parity['weights']}, and the model that "
            f"was compared has them so. Computed in {parity['weights']}, PyTorch's "
            "logits differ from those by at most "
            f"{shorter['max_abs_difference']:.2g} (the largest logit is "
            f"{shorter['largest_logit']:.3g}; rounding explains up to "
            f"{shorter['tolerance']:.2g}), by {shorter['kl']:.2g} nats in the mean, "
            "and the most likely token is the same for "
            f"{shorter['top1_agreement']:.2%}."
        )
    return text


def _training(card: Card) -> str:
    lines = ["## Training", ""]
    if card.steps is not None:
        lines += [f"{card.steps:,} steps.", ""]
    settings = [
        f"{name} = {value!r}"
        for group in ("seed", "train", "lora", "optimizer", "data", "mesh")
        if group in card.config
        for name, value in _settings(card.config[group], group)
    ]
    if not settings:
        return "\n".join([*lines, "The configuration was not given at export."])
    return "\n".join([*lines, "```", *settings, "```"])


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested groups, by dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Nested settings, by dotted name; paths of the machine stay out of a card."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}")
    elif not (isinstance(value, str) and "/" in value):
        yield name, value
