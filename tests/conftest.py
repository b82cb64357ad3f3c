"""Eight simulated devices, checked shapes, and no silent broadcasting."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["HF_HUB_OFFLINE"] = "1"
# Most programs are run once or twice: compiling them well would take longer than it
# saves. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Caches that go with the tests. The first is for the code that exported folders carry.
# Through the second, the tests' processes compile a program once between them.
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has these from its parent
    caches = tempfile.TemporaryDirectory(prefix="deemo-tests-")
    os.environ["HF_MODULES_CACHE"] = os.path.join(caches.name, "modules")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(caches.name, "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

from jaxtyping import install_import_hook

install_import_hook("deemo_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
