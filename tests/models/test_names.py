from deemo_jax.models.names import attention_rows, linear_rows, norm_rows
from deemo_jax.pretrained import Row


def test_a_norm_and_a_linear_map_have_a_row_for_each_parameter():
    assert norm_rows("a.b", "c/d") == (
        Row("a.b.weight", "c/d/scale"),
        Row("a.b.bias", "c/d/bias"),
    )
    assert linear_rows("a.b", "c/d") == (
        Row("a.b.weight", "c/d/kernel", "linear"),
        Row("a.b.bias", "c/d/bias"),
    )


def test_attention_is_four_linear_maps():
    rows = attention_rows("layers.{layer}.attn", "layers/attn")
    assert len(rows) == 8
    assert rows[:2] == linear_rows("layers.{layer}.attn.q_proj", "layers/attn/q_proj")
    assert rows[6:] == linear_rows(
        "layers.{layer}.attn.out_proj", "layers/attn/out_proj"
    )
