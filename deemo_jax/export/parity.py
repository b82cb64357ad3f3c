"""Proof that PyTorch, given an exported folder, computes what our model computes."""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
from importlib import metadata
from pathlib import Path
import platform
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from deemo_jax.architecture import (
    FRAMES_PER_SECOND,
    SAMPLE_RATE,
    DeemoLlamaConfig,
)
from deemo_jax.batch import Batch
from deemo_jax.generate import generate
from deemo_jax.models.deemo_llama import DeemoLlama

TOLERANCE = 1e-4  # of logits, in float32; it is never relaxed
# Of logits that PyTorch computes in bfloat16 or float16, in half units of the last
# place of the largest logit. Every layer rounds some ten results, by up to a half unit
# each, up or down alike: of n such errors the square root of n is left, 16 of 256.
ROUNDINGS = 16


class ExportError(ValueError):
    """A folder that is not fit to be handed over: what is wrong, and what to do."""


def verify(
    folder: Path,
    model: DeemoLlama,
    batches: Sequence[Batch],
    *,
    eos_token_id: int,
    pad_token_id: int,
    max_new_tokens: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Runs `batches` through the folder's PyTorch model and through `model`.

    Logits are compared at every token that is not padding, in float32 and with JAX's
    highest precision of matrix products. Then each row's prompt (its tokens before the
    first of the answer, or all of them) is padded on the left and answered greedily by
    both. The folder is loaded as its reader would load it, by `AutoModelForCausalLM`.

    Where weights are stored in a shorter `dtype`, `model` is to have them so rounded:
    that both compute the same of them in float32 proves the conversion, and is held to
    the same tolerance. What PyTorch computes of them in `dtype` itself is compared with
    the same float32 logits, and held to what rounding explains (`ROUNDINGS`).

    Returns:
      `passed`; `max_abs_difference` of logits and the `tolerance` it was held to; `kl`,
      the mean Kullback-Leibler divergence of PyTorch's distribution from ours in nats;
      `top1_agreement`, the share of tokens with the same most likely successor;
      `greedy_text_equal`; how many `rows`, `tokens` and `greedy_tokens` were compared;
      `dtype`, in which both computed, `weights`, the dtype they are stored in, and
      `versions`; where `weights` are shorter, under `computed_in_weights_dtype` again
      `passed`, `max_abs_difference`, `tolerance`, `kl` and `top1_agreement`.

    Raises:
      ExportError: tensors are missing from the folder, left over or misshapen.
      ValueError: the model does not compute in float32, a row packs several
        conversations, or there is nothing to compare.
    """
    if model.dtype != jnp.float32:
        raise ValueError(
            f"parity is measured in float32 and the model computes in "
            f"{jnp.dtype(model.dtype).name}; build it with dtype=jnp.float32"
        )
    batches = [_filled_rows(batch) for batch in batches]
    if not sum(batch.tokens.shape[0] for batch in batches):
        raise ValueError("there is no row to compare; give a batch with an index >= 0")
    twin = load_twin(folder)
    largest, _, found = _compare(model, twin, batches)
    equal, greedy_tokens = True, 0
    with jax.default_matmul_precision("highest"):
        for prompt in prompts(batches):
            stop = {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
            answers = zip(
                _generate(model, prompt, max_new_tokens, **stop),
                _twin_generate(twin, prompt, max_new_tokens, **stop),
                strict=True,
            )
            for our_answer, their_answer in answers:
                our_text = _until(our_answer, eos_token_id)
                equal = equal and our_text == _until(their_answer, eos_token_id)
                greedy_tokens += len(our_text)
    del twin  # before another is loaded
    reduced = {}
    if dtype != "float32":
        reduced["computed_in_weights_dtype"] = _reduced(folder, model, batches, dtype)
    return {
        "passed": bool(
            largest < TOLERANCE
            and equal
            and all(there["passed"] for there in reduced.values())
        ),
        "max_abs_difference": largest,
        "tolerance": TOLERANCE,
        **found,
        "greedy_text_equal": bool(equal),
        "rows": sum(batch.tokens.shape[0] for batch in batches),
        "tokens": sum(int((batch.segment_ids > 0).sum()) for batch in batches),
        "greedy_tokens": greedy_tokens,
        "dtype": "float32",
        "weights": dtype,
        **reduced,
        "versions": {
            "python": platform.python_version(),
            **{
                name: metadata.version(name)
                for name in ("jax", "flax", "torch", "transformers")
            },
        },
    }


def _compare(
    model: DeemoLlama, twin: Any, batches: Sequence[Batch]
) -> tuple[float, float, dict[str, float]]:
    """The largest difference of logits, the largest logit, and what else is measured.

    `model` computes in float32, with JAX's highest precision.
    """
    largest, scale, divergences, agreements = 0.0, 0.0, [], []
    for batch in batches:
        valid = np.asarray(batch.segment_ids) > 0
        with jax.default_matmul_precision("highest"):
            ours = np.asarray(_logits(model, batch), np.float64)[valid]
        theirs = _twin_logits(twin, batch).astype(np.float64)[valid]
        largest = max(largest, _largest(ours - theirs))
        scale = max(scale, _largest(ours))
        divergences.append(_divergence(ours, theirs))
        agreements.append(ours.argmax(-1) == theirs.argmax(-1))
    measured = {
        "kl": float(np.concatenate(divergences).mean()),
        "top1_agreement": float(np.concatenate(agreements).mean()),
    }
    return largest, scale, measured


def _reduced(
    folder: Path, model: DeemoLlama, batches: Sequence[Batch], dtype: str
) -> dict[str, Any]:
    """What PyTorch makes of the weights in their own dtype, against float32."""
    largest, scale, measured = _compare(model, load_twin(folder, dtype), batches)
    tolerance = ROUNDINGS * float(jnp.finfo(dtype).eps) / 2 * scale
    return {
        "passed": bool(largest < tolerance),
        "max_abs_difference": largest,
        "tolerance": tolerance,
        "largest_logit": scale,
        **measured,
    }


def load_twin(folder: Path, dtype: str = "float32") -> Any:
    """The folder's PyTorch model, in `dtype`; refuses a folder that does not fit it."""
    import torch
    from transformers import AutoModelForCausalLM

    with no_progress_bar():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
    twin, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in info[kind]):
            raise ExportError(
                f"{folder} has {len(names)} {kind.replace('_', ' ')}, such as "
                f"{names[0]}; its config.json and its tensors are of different models, "
                f"export it again"
            )
    return twin.eval()


def random_batch(config: DeemoLlamaConfig, *, seed: int) -> Batch:
    """Rows of noise that cover what clips lack: both media, each alone, none.

    Tokens are drawn from the vocabulary, lengths differ, and so does the number of
    valid frames and samples.
    """
    draw = np.random.default_rng(seed)
    spans = [
        (config.video_connector.num_query_tokens, config.video_token_id),
        (config.audio_connector.num_query_tokens, config.audio_token_id),
    ]
    words = np.setdiff1d(
        np.arange(config.language_model.vocab_size), [token for _, token in spans]
    )
    rows = [(True, True), (True, False), (False, True), (False, False)]
    length = min(
        sum(count for count, _ in spans) + 13,
        config.language_model.max_position_embeddings,
    )
    times = min(3, config.video_connector.max_positions)
    samples = min(8_000, SAMPLE_RATE // FRAMES_PER_SECOND * config.max_audio_frames)
    size = config.vision_tower.image_size
    shape = (len(rows), length)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    loss_mask = np.zeros(shape, bool)
    frame_mask = np.zeros((len(rows), times), bool)
    audio_length = np.zeros(len(rows), np.int32)
    for row, present in enumerate(rows):
        media = [
            np.full(count, token)
            for (count, token), there in zip(spans, present, strict=True)
            if there
        ]
        text = draw.choice(words, size=int(draw.integers(8, 14)))
        line = np.concatenate([text[:1], *media, text[1:]])[:length]
        tokens[row, : len(line)] = line
        segments[row, : len(line)] = 1
        loss_mask[row, len(line) - 3 : len(line)] = True
        if present[0]:
            frame_mask[row, : draw.integers(1, times + 1)] = True
        if present[1]:
            audio_length[row] = draw.integers(samples // 2, samples + 1)
    audio = draw.normal(scale=0.1, size=(len(rows), samples))
    audio[np.arange(samples)[None] >= audio_length[:, None]] = 0.0
    return Batch(
        tokens=tokens,
        positions=_positions(segments),
        segment_ids=segments,
        loss_mask=loss_mask,
        frames=draw.integers(0, 256, (len(rows), times, size, size, 3), dtype=np.uint8),
        frame_mask=frame_mask,
        audio=audio.astype(np.float32),
        audio_length=audio_length,
        index=np.arange(len(rows), dtype=np.int32),
    )


def prompts(batches: Sequence[Batch]) -> list[Batch]:
    """Each row's tokens before its first answer, padded on the left.

    All batches are padded to one length, so that equal ones are compiled once.

    tokens        <s> how does she feel yes </s> <pad>
    loss_mask      .   .   .    .   .    1   1    .
    result        <pad> <pad> <pad> <s> how does she feel
    """
    asked = [
        (np.asarray(batch.segment_ids) > 0)
        & ~np.maximum.accumulate(np.asarray(batch.loss_mask), axis=1)
        for batch in batches
    ]
    longest = max(int(each.sum(axis=1).max()) for each in asked)
    return [_left(*pair, longest) for pair in zip(batches, asked, strict=True)]


def _left(batch: Batch, asked: Bool[np.ndarray, "B S"], length: int) -> Batch:
    """The batch's tokens that are asked, at the right of rows of some length."""
    tokens, segments = np.asarray(batch.tokens), np.asarray(batch.segment_ids)
    shape = (tokens.shape[0], length)
    left, left_segments = np.zeros(shape, tokens.dtype), np.zeros(shape, segments.dtype)
    for row, here in enumerate(asked):
        count = int(here.sum())
        left[row, length - count :] = tokens[row, here]
        left_segments[row, length - count :] = 1
    return dataclasses.replace(
        batch,
        tokens=left,
        segment_ids=left_segments,
        positions=_positions(left_segments),
        loss_mask=np.zeros(shape, bool),
    )


def _positions(segments: Int[np.ndarray, "B S"]) -> Int[np.ndarray, "B S"]:
    valid = segments > 0
    return np.where(valid, valid.cumsum(axis=1) - 1, 0).astype(np.int32)


def _filled_rows(batch: Batch) -> Batch:
    """The batch in numpy, without the rows that only fill it."""
    batch = jax.tree.map(np.asarray, batch)
    if int(batch.segment_ids.max(initial=0)) > 1:
        raise ValueError(
            "a row of the batch holds several conversations, which a Hugging Face "
            "model does not take; give unpacked batches, segment_ids 0 or 1"
        )
    keep = (batch.index >= 0) & (batch.segment_ids > 0).any(axis=1)
    return jax.tree.map(lambda values: values[keep], batch)


def _logits(model: DeemoLlama, batch: Batch) -> Float[jax.Array, "B S V"]:
    return _call(*nnx.split(model), batch)


@functools.partial(jax.jit, static_argnums=0)
def _call(graphdef, params, batch):
    return nnx.merge(graphdef, params)(batch)


def _generate(
    model: DeemoLlama, prompt: Batch, max_new_tokens: int, **stop: int
) -> Int[np.ndarray, "B _"]:
    return np.asarray(generate(model, prompt, max_new_tokens=max_new_tokens, **stop))


def _inputs(batch: Batch) -> dict[str, Any]:
    """The batch as the arguments of the PyTorch model."""
    import torch

    return {
        "input_ids": torch.from_numpy(np.array(batch.tokens, np.int64)),
        "attention_mask": torch.from_numpy(np.array(batch.segment_ids > 0, np.int64)),
        "frames": torch.from_numpy(np.array(batch.frames)),
        "frame_mask": torch.from_numpy(np.array(batch.frame_mask)),
        "audio": torch.from_numpy(np.array(batch.audio, np.float32)),
        "audio_length": torch.from_numpy(np.array(batch.audio_length, np.int64)),
    }


def _twin_logits(twin: Any, batch: Batch) -> Float[np.ndarray, "B S V"]:
    import torch

    with torch.no_grad():
        return twin(**_inputs(batch)).logits.float().numpy()


def _twin_generate(
    twin: Any, prompt: Batch, max_new_tokens: int, **stop: int
) -> Int[np.ndarray, "B _"]:
    tokens = twin.generate(
        **_inputs(prompt), max_new_tokens=max_new_tokens, do_sample=False, **stop
    )
    return tokens[:, prompt.tokens.shape[1] :].numpy()


def _until(answer: Int[np.ndarray, " _"], eos_token_id: int) -> list[int]:
    """The answer up to its end, the end included."""
    ends = np.flatnonzero(answer == eos_token_id)
    return answer[: ends[0] + 1 if len(ends) else None].tolist()


def _largest(difference: Float[np.ndarray, "L V"]) -> float:
    """The largest absolute value; infinite where a value is not a number."""
    largest = float(np.abs(difference).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


def _divergence(
    ours: Float[np.ndarray, "L V"], theirs: Float[np.ndarray, "L V"]
) -> Float[np.ndarray, " L"]:
    """Kullback-Leibler divergence of softmax(theirs) from softmax(ours), in nats."""

    def log_softmax(logits):
        logits = logits - logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    p, q = log_softmax(ours), log_softmax(theirs)
    return (np.exp(p) * (p - q)).sum(axis=-1)


@contextlib.contextmanager
def no_progress_bar():
    """Loading goes without the bar that `transformers` draws."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
