"""Rows of a table of names for the parts that every tower is made of."""

from deemo_jax.pretrained import Row


def norm_rows(name: str, path: str) -> tuple[Row, Row]:
    """A layer norm: PyTorch's `weight` and `bias`, our `scale` and `bias`."""
    return Row(f"{name}.weight", f"{path}/scale"), Row(f"{name}.bias", f"{path}/bias")


def linear_rows(name: str, path: str) -> tuple[Row, Row]:
    """A linear map; a bias that the tower does not have stays out of the reading."""
    return (
        Row(f"{name}.weight", f"{path}/kernel", "linear"),
        Row(f"{name}.bias", f"{path}/bias"),
    )


def attention_rows(name: str, path: str) -> tuple[Row, ...]:
    """The four projections of a `SelfAttention`."""
    return tuple(
        row
        for part in ("q_proj", "k_proj", "v_proj", "out_proj")
        for row in linear_rows(f"{name}.{part}", f"{path}/{part}")
    )
