"""What LoRA learned, put by `peft` onto the exported base, computes what JAX does."""

import dataclasses

from flax import nnx
import numpy as np
import peft
import pytest
import torch

from deemo_jax.config import LoraConfig
from deemo_jax.export import parity
from deemo_jax.export.adapter import base_params
from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.models.lora import add_lora, merge_lora
from tests.parity.test_export import Words
from tests.small import ODD, drawn

DECODER = LoraConfig(
    rank=3, alpha=7.0, dropout=0.25, targets=("language_model/layers/.*/[qv]_proj",)
)
TARGETS = {
    "decoder": DECODER.targets,
    "every map": (".*",),
}
# `peft` asks transformers for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
CARD = Card(name="tiny", data="noise", adapter="adapter")


def make(config=None):
    model = DeemoLlama(ODD, rngs=nnx.Rngs(0))
    return model if config is None else add_lora(model, config, nnx.Rngs(1))


@pytest.fixture(scope="module", params=list(TARGETS.values()), ids=list(TARGETS))
def exported(request, tmp_path_factory):
    """A model whose LoRA is not zero, its base and merged folders, a batch."""
    config = dataclasses.replace(DECODER, targets=request.param)
    model = drawn(lambda: make(config))
    plain = nnx.graphdef(nnx.eval_shape(make))
    folder = tmp_path_factory.mktemp("export")
    export(
        nnx.merge(plain, base_params(model)),
        Words(),
        folder / "base",
        card=CARD,
        verify=False,
        adapter=model,
    )
    export(model, Words(), folder / "merged", card=CARD, verify=False)
    return model, nnx.merge(plain, merge_lora(model)), folder


def adapted(folder):
    return peft.PeftModel.from_pretrained(
        parity.load_twin(folder / "base"), str(folder / "base" / "adapter")
    ).eval()


def logits(twin, batch):
    """Of the places that are not padding."""
    return parity._twin_logits(twin, batch)[np.asarray(batch.segment_ids) > 0]


def test_base_and_adapter_compute_what_was_trained(exported):
    model, merged, folder = exported
    batch = parity.random_batch(ODD, seed=1)
    valid = np.asarray(batch.segment_ids) > 0
    ours = np.asarray(parity._logits(model, batch))[valid]
    theirs = logits(adapted(folder), batch)
    assert np.abs(theirs - logits(parity.load_twin(folder / "base"), batch)).max() > 0.1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        np.asarray(parity._logits(merged, batch))[valid], ours, rtol=0, atol=1e-5
    )


def test_the_merged_export_is_base_and_adapter(exported):
    _, _, folder = exported
    batch = parity.random_batch(ODD, seed=2)
    twin = parity.load_twin(folder / "merged")
    both = adapted(folder)
    np.testing.assert_allclose(
        logits(twin, batch), logits(both, batch), rtol=0, atol=1e-5
    )
    united = both.merge_and_unload().state_dict()
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(united[name], tensor, rtol=1e-6, atol=1e-6)


def test_generation_goes_through_the_adapter(exported):
    _, merged, folder = exported
    (prompt,) = parity.prompts([parity.random_batch(ODD, seed=3)])
    stop = {"eos_token_id": 2, "pad_token_id": 0}
    ours = parity._generate(merged, prompt, 6, **stop)
    theirs = parity._twin_generate(adapted(folder), prompt, 6, **stop)
    width = theirs.shape[1]  # PyTorch stops when every row has ended
    np.testing.assert_array_equal(ours[:, :width], theirs)
