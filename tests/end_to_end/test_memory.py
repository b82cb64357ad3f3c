"""What large checkpoints take of the host's memory, in processes of their own.

`DEEMO_CHECKPOINT_GB=4` measures with the size that users have; a smaller one shows the
same in seconds, since each margin is a share of the size.
"""

import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from deemo_jax.models.llama import config_to_dict
from deemo_jax.pretrained import read_config
from deemo_jax.weights import Unwritten, write_json, write_weights
from tests.models.test_llama import CONFIG

GIGABYTES = float(os.environ.get("DEEMO_CHECKPOINT_GB", "0.4"))
LAYERS = 4

# Runs `work`, which is the code given, and reports the largest RssAnon beyond that
# before it. (Mapped files, which the system takes back at will, are not counted.)
MEASURE = """
import json, sys, threading, time
import jax, numpy as np
from pathlib import Path
source, output = map(Path, sys.argv[1:])

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

IMPORTS
peak, done = 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
WORK
done = True
watcher.join()
print(json.dumps({"peak": peak - before}))
"""
READ = (
    """
from deemo_jax.models.llama import Llama
mesh = jax.make_mesh((1, 4, 2), ("data", "fsdp", "tensor"))
jax.device_put(np.zeros(8), jax.devices()[0])
""",
    "model = Llama.from_pretrained(source, mesh=mesh)",
)
SAVE = (
    READ[0] + "\nmodel = Llama.from_pretrained(source, mesh=mesh)",
    "model.save_pretrained(output)",
)
CONVERT = (
    "from deemo_jax.export.convert import convert",
    "convert(source, output)",
)
BFLOAT16 = (CONVERT[0], "convert(source, output, dtype='bfloat16')")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights; a fifth each is the embedding and, read last, the head."""
    folder = tmp_path_factory.mktemp("memory") / "large"
    wanted = GIGABYTES * 1e9 / 4  # parameters
    width = 64 * round((0.6 * wanted / (16 * LAYERS)) ** 0.5 / 64)
    values = config_to_dict(CONFIG) | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": width // 8,
        "vocab_size": 64 * (round(0.2 * wanted / width) // 64),
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    rng = np.random.default_rng(0)

    def fill(shape):
        # Repeated: drawing this many numbers would take longer than what is measured.
        row = rng.normal(size=shape[-1]).astype(np.float32)
        return np.broadcast_to(row, shape)

    inner = {"gate_proj": (4 * width, width), "up_proj": (4 * width, width)}
    inner["down_proj"] = (width, 4 * width)
    shapes = {
        "model.embed_tokens.weight": (values["vocab_size"], width),
        "model.norm.weight": (width,),
        "lm_head.weight": (values["vocab_size"], width),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (width, width)
        for name, shape in inner.items():
            shapes[f"{at}.mlp.{name}.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{name}.weight"] = (width,)
    tensors = [
        Unwritten(name, shape, np.dtype(np.float32), lambda s=shape: fill(s))
        for name, shape in shapes.items()
    ]
    size = sum(tensor.nbytes for tensor in tensors)
    assert abs(size / (GIGABYTES * 1e9) - 1) < 0.2
    write_weights(folder, tensors, shard_bytes=size // 3)
    write_json(folder / "config.json", values)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder, size, max(tensor.nbytes for tensor in tensors)


def measure(what, source, output):
    program = MEASURE.replace("IMPORTS", what[0]).replace("WORK", what[1])
    flags = "--xla_force_host_platform_device_count=8"
    # Huge pages, which `make test` asks for, round every allocation up.
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(output)],
        cwd=Path(__file__).parents[2],
        env=inherited | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def test_reading_onto_a_mesh_takes_little_more_than_the_weights(checkpoint, tmp_path):
    folder, size, _ = checkpoint
    peak = measure(READ, folder, tmp_path)
    print(f"checkpoint {size / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
    assert 0.9 * size < peak < size + min(1e9, 0.08 * size + 2e7)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(SAVE, id="save"),
        pytest.param(CONVERT, id="same", marks=pytest.mark.slow),
        pytest.param(BFLOAT16, id="half"),
    ],
)
def test_writing_takes_a_tensor_or_two(what, checkpoint, tmp_path):
    folder, size, largest = checkpoint
    peak = measure(what, folder, tmp_path / "again")
    print(f"checkpoint {size / 1e9:.2f} GB, largest {largest / 1e9:.2f}, "
          f"peak {peak / 1e9:.2f} GB")  # fmt: skip
    assert peak < 2.2 * largest + 5e7
    assert read_config(tmp_path / "again")["hidden_size"] > 0
