"""Eight simulated devices, checked shapes, and no silent broadcasting."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["HF_HUB_OFFLINE"] = "1"
# Code that exported folders carry is imported from a cache that goes with the tests.
modules = tempfile.TemporaryDirectory(prefix="deemo-modules-")
os.environ["HF_MODULES_CACHE"] = modules.name

from jaxtyping import install_import_hook

install_import_hook("deemo_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
