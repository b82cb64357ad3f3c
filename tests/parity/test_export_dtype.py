"""Weights stored shorter: the same in float32, and as near as rounding lets them be.

Tolerances. In float32 both have the same rounded weights: 1e-4, as ever. What PyTorch
computes in the shorter dtype is held to `parity.ROUNDINGS` half units of the last place
of the largest logit: 6 % of it in bfloat16, 0.8 % in float16.
"""

import json
from typing import Any

from flax import nnx
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
import transformers

from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.export.parity import ExportError
from deemo_jax.models.deemo_llama import DeemoLlama
from tests.parity.test_export import Words, check, make
from tests.small import ODD

transformers.utils.logging.disable_progress_bar()

CARD = Card(name="tiny", data="noise")
LAST_PLACES = {"bfloat16": 2.0**-7, "float16": 2.0**-10}


@pytest.fixture(
    scope="module", params=["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def exported(request, tmp_path_factory):
    """The dtype, a model of float32 weights, its shorter folder, what was measured."""
    dtype = request.param
    made = make(ODD)  # on the host, as a run's parameters are when it is exported
    model = nnx.merge(nnx.graphdef(made), jax.device_get(nnx.state(made)))
    folder = tmp_path_factory.mktemp("export") / "model"
    measured = export(model, Words(), folder, card=CARD, dtype=dtype, max_new_tokens=6)
    return dtype, model, folder, measured


def test_every_weight_is_stored_in_the_dtype(exported):
    dtype, _, folder, _ = exported
    short = {"bfloat16": "BF16", "float16": "F16"}[dtype]
    with safe_open(folder / "model.safetensors", framework="np") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {short}
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


def test_in_float32_the_rounded_weights_give_the_same(exported):
    dtype, model, folder, measured = exported
    assert measured["passed"]
    assert measured["dtype"] == "float32"
    assert measured["weights"] == dtype
    assert measured["tolerance"] == 1e-4
    assert measured["max_abs_difference"] < 1e-4
    assert measured["top1_agreement"] == 1.0
    # The model that was trained, without rounding, is another.
    assert not check(folder, model)["passed"]


def test_in_the_dtype_they_differ_by_what_rounding_explains(exported):
    dtype, _, folder, measured = exported
    shorter = measured["computed_in_weights_dtype"]
    allowed = 8 * LAST_PLACES[dtype] * shorter["largest_logit"]
    np.testing.assert_allclose(shorter["tolerance"], allowed, rtol=1e-6)
    assert 1e-4 < shorter["max_abs_difference"] < allowed
    assert 0 < shorter["kl"] < 0.1
    assert json.loads((folder / "parity.json").read_text()) == measured
    card = (folder / "README.md").read_text()
    assert f"rounded to {dtype}" in card
    assert f"at most {shorter['max_abs_difference']:.2g} (the largest" in card


def test_the_folder_comes_back_into_jax_rounded(exported):
    dtype, model, folder, _ = exported
    again = DeemoLlama.from_pretrained(folder)
    kinds = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
    pairs: Any = (
        (model.video_connector.projection, again.video_connector.projection),
        (model.language_model.lm_head, again.language_model.lm_head),
    )
    for ours, theirs in pairs:
        trained = np.asarray(ours.kernel[...])
        rounded = trained.astype(kinds[dtype]).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(theirs.kernel[...]), rounded)
        assert (rounded != trained).any()


def test_it_fails_where_float32_agrees_and_the_dtype_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr("deemo_jax.export.parity.ROUNDINGS", 1e-3)
    with pytest.raises(ExportError, match="computed in bfloat16 they differ by up to"):
        export(
            make(ODD), Words(), tmp_path / "model", card=CARD, dtype="bfloat16",
            max_new_tokens=1,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_planted_error_is_caught_though_weights_are_rounded(exported, tmp_path):
    _, _, folder, _ = exported
    rounded = DeemoLlama.from_pretrained(folder)
    assert check(folder, rounded)["passed"]
    kernel = rounded.audio_connector.projection.kernel
    kernel[...] = kernel[...] + 0.01
    assert not check(folder, rounded)["passed"]


def test_what_float16_does_not_reach_is_refused(tmp_path):
    model = make(ODD)
    kernel = model.audio_connector.projection.kernel
    kernel[...] = kernel[...].at[0, 0].set(70_000.0)
    with pytest.raises(ExportError, match=r"audio_connector.*float16 does not reach"):
        export(model, Words(), tmp_path / "m", card=CARD, dtype="float16", verify=False)
    assert list(tmp_path.iterdir()) == []
