"""The PyTorch model: its parts agree with transformers', its masks leave no trace."""

import dataclasses

import pytest
import torch

from deemo_jax.export import modeling_deemo_llama as modeling


def same(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=0)


def test_media_tokens_take_the_places_in_order():
    embeddings = torch.arange(10.0).reshape(2, 5, 1)
    media = torch.tensor([[[70.0], [71.0]], [[80.0], [81.0]]])
    places = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]]).bool()
    merged = modeling.merge(embeddings, places, media)[..., 0]
    #             .   x   x   .  x: the third place has no token
    assert merged.tolist() == [
        [0, 70, 71, 3, 4],
        [80, 6, 7, 8, 9],
    ]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_masked_features_leave_no_trace_and_an_empty_row_is_finite(
    make_twin, implementation
):
    twin = make_twin()
    twin.set_attn_implementation(implementation)
    features = torch.randn(2, 6, 14, requires_grad=True)
    positions = torch.tensor([[0, 1, 2, 3, 4, 4]]).expand(2, -1)
    mask = torch.tensor([[True, True, False, True, False, False], [False] * 6])
    tokens = twin.video_connector(features, positions, mask)
    other = torch.where(mask[..., None], features, torch.full_like(features, 1e3))
    same(tokens, twin.video_connector(other, positions, mask))
    shorter = twin.video_connector(
        *(x[:1, mask[0]] for x in (features, positions, mask))
    )
    same(tokens[:1], shorter)
    tokens.sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert (features.grad[~mask] == 0).all()
    silent = torch.zeros_like(features)
    with torch.no_grad():
        twin.video_connector.encoder_layernorm.bias.zero_()
        twin.video_connector.position_embedding.weight.zero_()
        expected = twin.video_connector(silent, positions, torch.ones_like(mask))
    same(tokens[1], expected[1])


def test_what_is_not_there_does_not_matter(twin, inputs):
    with torch.no_grad():
        expected = twin(**inputs).logits
        frames, audio = inputs["frames"].clone(), inputs["audio"].clone()
        frames[~inputs["frame_mask"]] = 255
        audio[1, 2_345:] = 9.0
        found = twin(**inputs | {"frames": frames, "audio": audio}).logits
        same(found, expected)
        frames[0, 0] = 255 - frames[0, 0]
        heard = twin(**inputs | {"frames": frames}).logits
    assert (heard - expected)[0].abs().max() > 1e-3
    same(heard[1], expected[1])


def test_padding_on_either_side_or_none_gives_the_same(twin, inputs):
    media = {key: inputs[key][:1] for key in modeling.MEDIA}
    tokens = inputs["input_ids"][:1, 2:]
    pad = torch.zeros(1, 2, dtype=torch.long)
    with torch.no_grad():
        bare = twin(input_ids=tokens, **media).logits
        for padded, valid in (
            (torch.cat([pad, tokens], 1), slice(2, None)),
            (torch.cat([tokens, pad], 1), slice(None, -2)),
        ):
            mask = (padded > 0).long()
            logits = twin(input_ids=padded, attention_mask=mask, **media).logits
            same(logits[:, valid], bare, 2e-5)


def test_generation_reads_the_media_once_and_keeps_them(twin, inputs, monkeypatch):
    uncached = twin.generate(
        **inputs, max_new_tokens=6, do_sample=False, use_cache=False, eos_token_id=99
    )
    calls = []
    for name in ("encode_video", "encode_audio"):
        encode = getattr(twin, name)

        def counted(*args, name=name, encode=encode):
            calls.append(name)
            return encode(*args)

        monkeypatch.setattr(twin, name, counted)
    cached = twin.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=99)
    assert calls == ["encode_video", "encode_audio"]
    assert cached.tolist() == uncached.tolist()
    beams = twin.generate(**inputs, max_new_tokens=3, num_beams=2)
    assert beams.shape[0] == 2


def test_a_row_generates_alone_what_it_generates_in_a_batch(twin, inputs):
    together = twin.generate(
        **inputs, max_new_tokens=5, do_sample=False, eos_token_id=99
    )
    alone = {key: value[:1] for key, value in inputs.items()}
    for key in ("input_ids", "attention_mask"):
        alone[key] = alone[key][:, 2:]
    answer = twin.generate(**alone, max_new_tokens=5, do_sample=False, eos_token_id=99)
    assert answer[0, -5:].tolist() == together[0, -5:].tolist()


def test_the_loss_is_of_the_labels(twin, inputs):
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] < 9, -100)
    with torch.no_grad():
        output = twin(**inputs, labels=labels)
    logits = output.logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
    same(output.loss, expected)


@pytest.mark.parametrize("tie", [False, True])
def test_saved_and_loaded_it_is_the_same(make_twin, inputs, tmp_path, tie):
    twin = make_twin(tie=tie)
    twin.save_pretrained(tmp_path)
    loaded, info = type(twin).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for (name, ours), (_, theirs) in zip(
        twin.named_buffers(), loaded.named_buffers(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    head = loaded.language_model.lm_head.weight
    assert (head is loaded.get_input_embeddings().weight) is tie
    with torch.no_grad():
        assert torch.equal(twin(**inputs).logits, loaded.eval()(**inputs).logits)


def test_half_precision_stays_near(make_twin, inputs):
    with torch.no_grad():
        full = make_twin()(**inputs).logits
        half = make_twin().to(torch.bfloat16)(**inputs).logits.float()
    assert torch.isfinite(half).all()
    assert (half - full).abs().mean() < 0.1 * full.abs().mean()


@dataclasses.dataclass
class Fault:
    """Arguments that cannot stand, and a word of the complaint."""

    changes: dict
    match: str


@pytest.mark.parametrize(
    "fault",
    [
        Fault({"frames": torch.zeros(2, 6, 15, 15, 3)}, "6 frames .* 5 positions"),
        Fault({"audio": torch.zeros(2, 9_000)}, "positions .* at most 0.46 s"),
        Fault({"input_ids": None}, "give input_ids"),
        Fault({"inputs_embeds": torch.zeros(2, 10, 24)}, "need input_ids"),
    ],
    ids=lambda fault: fault.match,
)
def test_what_cannot_be_is_refused_in_words(twin, inputs, fault):
    if "frames" in fault.changes:
        inputs.pop("frame_mask")
    with pytest.raises(ValueError, match=fault.match):
        twin(**inputs | fault.changes)
