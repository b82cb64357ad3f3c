"""Installs deemo-jax and its command, `deemo`."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="deemo-jax",
    version="0.1.0",
    description="Emotion understanding without identity, trained at scale on JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["deemo_jax", "deemo_jax.*"]),
    package_data={"deemo_jax": ["*.json", "*.html", "*/*.html"]},
    entry_points={"console_scripts": ["deemo = deemo_jax.cli:run"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "transformers>=5.0",
        "tensorflow-datasets>=4.9.10",
        "grain>=0.2.18",
        "ml-collections>=1.1",
        "absl-py",
        "array_record",
        # Frames are scaled by it; elsewhere by Pillow, which takes longer.
        "cykooz.resizer>=4.0,<5; platform_machine == 'x86_64'",
        "av",  # media in and out
        "etils[epath]",
        "fsspec",
        "google-crc32c",  # of TFRecord's framing, and of buckets
        "jaxtyping",
        "jinja2",  # chat templates and the report
        "markupsafe",
        "ml-dtypes",  # bfloat16 in files
        "matplotlib",  # the report's plots
        "numpy",
        "pillow>=11.0",
        "rich",
        "safetensors",
        "simplejpeg",  # frames out of JPEG, sooner than Pillow
        "soundfile",
        "tensorboard",
    ],
    extras_require={
        # Weights are installed apart: see requirements-media.txt
        "deidentify": [
            "faster-whisper>=1.2",  # transcripts
            "jiwer>=4.0",  # their errors
            "onnx",
            "onnxruntime",
            "pyworld-prebuilt",  # WORLD; `pyworld` itself has to be compiled
            "spacy>=3.8",  # redaction
        ],
        # Verifiers that are not those that masked; their weights are installed apart:
        # see requirements-audit.txt
        "audit": [
            "dlib-bin",  # recognises faces
            "face_recognition_models",  # whose weights these are
            "faster-whisper>=1.2",  # Silero's detector of speech
            "kaldi-native-fbank",
            "onnxruntime",
            "torch",
        ],
        "export": ["torch"],
        "gguf": ["torch", "gguf", "accelerate"],  # `deemo convert` of a GGUF file
        "gcs": ["gcsfs"],  # workdirs and packed folders in gs://
        "tf": ["tensorflow"],  # `as_dataset` of packed folders
        "plan": ["jax[tpu]"],  # its compiler; `deemo plan` needs no TPU
        # Of the version that jax has, and without what they depend on (`--no-deps`):
        # compiling for GPUs needs neither CUDA nor a GPU.
        "plan-gpu": ["jax-cuda13-plugin", "jax-cuda13-pjrt"],
        "wandb": ["wandb"],  # shown there too where WANDB_PROJECT is set
        "tpu": ["jax[tpu]"],
        "cuda13": ["jax[cuda13]"],
        "dev": [
            "beartype",
            "gcp-storage-emulator",
            "gcsfs",
            "hypothesis",
            "jsonschema",  # launch/gke_jobset.yaml is checked by it
            "peft",  # adapters are checked against it
            "pyright",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "pyyaml",
            "ruff",
            "scikit-learn",  # metrics are checked against it
            "wandb",
        ],
    },
)
