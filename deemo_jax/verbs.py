"""What each verb of the command line takes, and which of the acts it is."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from deemo_jax import acts, acts_clips
from deemo_jax.config import Config
from deemo_jax.deidentify.settings import Settings

# Packages that some verbs need, and the extra of setup.py that brings each.
EXTRAS = {
    "onnx": "deidentify",
    "onnxruntime": "deidentify",
    "jiwer": "deidentify",
    "pyworld": "deidentify",
    "dlib": "audit",
    "kaldi_native_fbank": "audit",
    "torch": "export",
    "gcsfs": "gcs",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a verb: of its default's type, and required where there is none.

    Of a path, `in_bucket` says whether it may be `gs://`, and `is_read` whether
    something must be there.
    """

    name: str
    help: str
    default: str | int | bool | None = None
    required: bool = True
    is_path: bool = False
    in_bucket: bool = False
    is_read: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing `deemo` does; `act` takes its flags as keywords, returns the exit code.

    `config` says whether it takes `--config`: "needed", "optional" or "none"; of which
    `settings` it is. Of a verb that does one of several things, `modes` has the flag
    that asks for each, and which others it goes by; of "", what is done without one.
    """

    summary: str
    example: str
    flags: tuple[Flag, ...]
    act: Callable[..., int]
    config: str = "none"
    settings: type[Config] | type[Settings] = Config
    modes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def _folder(name: str, help: str, **kwargs: Any) -> Flag:
    return Flag(name=name, help=help, is_path=True, **kwargs)


def _read(name: str, help: str, **kwargs: Any) -> Flag:
    return _folder(name, help, is_read=True, **kwargs)


WORKDIR = _folder(
    "workdir",
    "folder of the run, or gs://: config, checkpoints, logs, evaluations",
    in_bucket=True,
)

WINDOW = Flag(
    name="window",
    help="seconds: longer clips are cut into windows, by 0 none; default: 16 for data "
    "named deemo_nfbl, else 0",
    default=-1,
)
HOP = Flag(
    name="hop",
    help="seconds from one window to the next; default: WINDOW",
    default=0,
)

VERBS: dict[str, Verb] = {
    "annotate": Verb(
        summary="write annotations.jsonl from the files of iMiGUE, MERR or AffectGPT",
        example="deemo annotate --format=imigue --input=labels.csv --media=clips",
        flags=(
            Flag(name="format", help="imigue, merr (Emotion-LLaMA) or affectgpt (EMER, "
                 "MERTools)"),
            Flag(name="input", help="file of that format, or several by commas, of one "
                 "matter each; of imigue also a folder of NUMBER_label.csv"),
            _read("media", "folder with the media, found by the clips' names"),
            _folder("output", "folder to write; default: MEDIA. Media are linked below "
                    "it", required=False),
            _read("taxonomy", "taxonomy.json; default: the classes of iMiGUE, and "
                    "the emotions that occur", required=False),
            _read("transcripts", "CSV of what is said: name, and sentence, english "
                    "or chinese", required=False),
            _read("subjects", "CSV of who is in the clips: name, subject",
                    required=False),
            Flag(name="subject_pattern", help="regular expression of what in a clip's "
                 "name is its subject, such as '^(\\d+)_'", default=""),
            Flag(name="subject_per_clip", help="true: each clip counts as a subject; "
                 "people may then be in training and test at once", default=False),
            Flag(name="fps", help="of the videos whose frames are counted; default: as "
                 "they say", default=""),
            Flag(name="language", help="english (default) or chinese, of files that "
                 "have both", default="english"),
        ),
        act=acts_clips.annotate,
    ),
    "deidentify": Verb(
        summary="mask faces and change voices of every clip in a folder",
        example="deemo deidentify --input=clips --output=clips_deid",
        flags=(
            _read("input", "folder with annotations.jsonl and the media"),
            _folder("output", "folder to write; run again, it goes on"),
            Flag(name="workers", help="processes, a clip each at a time; default: one "
                 "for every core", default=0),
        ),
        act=acts_clips.deidentify,
        config="optional",
        settings=Settings,
    ),
    "audit": Verb(
        summary="measure what is left of faces and voices in a de-identified folder",
        example="deemo audit --input=clips --output=clips_deid",
        flags=(
            _read("input", "folder that the clips were made from"),
            _read("output", "folder that `deemo deidentify` wrote; gets verdicts, "
                    "audit/audit.json, audit/report.html"),
            Flag(name="workers", help="processes, a clip each at a time; default: one "
                 "for every core", default=0),
            Flag(name="show_originals", help="true: the report shows faces as they "
                 "were, too", default=False),
        ),
        act=acts_clips.audit,
        config="optional",
        settings=Settings,
    ),
    "pack": Verb(
        summary="pack de-identified clips into shards of records with an index",
        example="deemo pack --input=clips_deid --output=packed --name=deemo_mer",
        flags=(
            _read("input", "folder that `deemo deidentify` wrote, or with --features a "
                    "packed one", required=False),
            _folder("output", "folder to write, in the layout of TFDS"),
            Flag(name="name", help="of the data set: a-z, 0-9 and _", default=""),
            _folder(
                "salt_file",
                "salt of the pseudonyms; default: INPUT/salt.txt, made if need be",
                required=False,
            ),
            Flag(name="shards", help="a split; default 8", default=8),
            Flag(name="format", help="tfrecord or array_record; default: tfrecord",
                 default="tfrecord"),
            Flag(name="stratify", help="true: deal out subjects without split so that "
                 "splits have the labels alike", default=False),
            WINDOW,
            HOP,
            Flag(name="allow_unaudited", help="true: take clips that no audit has "
                 "judged; never those that failed", default=False),
            Flag(name="check", help="read every byte of OUTPUT instead, and say what "
                 "is wrong", default=False),
            Flag(name="reindex", help="build the indexes of OUTPUT from its shards "
                 "instead", default=False),
            Flag(name="withdraw", help="SUBJECT, who took consent back: left out of "
                 "the indexes of OUTPUT", default=""),
            _folder(
                "runs",
                "with --withdraw: the folder, or gs://, of runs and exports to look "
                "for those that saw SUBJECT; default: runs",
                in_bucket=True,
                required=False,
            ),
            Flag(name="purge", help="rewrite the shards of OUTPUT without those who "
                 "withdrew", default=False),
            Flag(name="features", help="INPUT is packed, --config=configs/…:align: "
                 "write what its frozen towers make of the media in place of these",
                 default=False),
            Flag(name="dtype", help="of --features: bfloat16 (default), float16, "
                 "float32", default="bfloat16"),
        ),
        act=acts_clips.pack,
        config="optional",
        modes={
            "": ("input", "name", "salt_file", "shards", "format", "stratify",
                 "window", "hop", "allow_unaudited"),
            "check": (),
            "reindex": (),
            "withdraw": ("input", "salt_file", "runs"),
            "purge": (),
            "features": ("input", "shards", "dtype", "config"),
        },
    ),
    "train": Verb(
        summary="train, or go on where an earlier run of the workdir stopped",
        example="deemo train --config=configs/tiny.py --workdir=runs/tiny",
        flags=(
            WORKDIR,
            Flag(
                name="coordinator",
                help="HOST:PORT of process 0; found out on SLURM, MPI, TPU, GKE",
                default="",
            ),
            Flag(name="process_count", help="of the run; found out likewise",
                 default=-1),
            Flag(name="process_index", help="of this process, from 0; likewise",
                 default=-1),
            Flag(name="explain_sharding", help="true: say how every parameter and "
                 "activation would lie on the devices, and stop", default=False),
            Flag(name="replay", help="a step of metrics.jsonl to run again, compared "
                 "to the last bit; nothing is changed", default=0),
            Flag(name="profile_steps", help="such as 10:15: a trace of these steps in "
                 "WORKDIR/profile", default=""),
        ),
        act=acts.train,
        config="needed",
    ),
    "evaluate": Verb(
        summary="score every task of the run, write report.html",
        example="deemo evaluate --workdir=runs/tiny",
        flags=(WORKDIR,),
        act=acts.evaluate,
        config="optional",
    ),
    "generate": Verb(
        summary="ask the model about every clip of a de-identified folder",
        example="deemo generate --workdir=runs/tiny --input=clips_deid",
        flags=(
            WORKDIR,
            _read("input", "folder that `deemo deidentify` wrote"),
            Flag(name="task", help="recognition (default), reasoning, nfbl_which or "
                 "nfbl_when", default="recognition"),
            Flag(name="label", help="class of body language that nfbl_when asks for",
                 default=""),
            Flag(name="question", help="any question in words, in place of a task",
                 default=""),
            WINDOW,
            HOP,
        ),
        act=acts.generate,
        config="optional",
    ),
    "export": Verb(
        summary="write a Hugging Face folder for PyTorch, proved to compute the same",
        example="deemo export --workdir=runs/tiny --output=runs/tiny_pytorch",
        flags=(
            WORKDIR,
            _folder("output", "folder to write"),
            Flag(
                name="adapter",
                help="true: LoRA apart in OUTPUT/adapter, for `peft`; default: merged",
                default=False,
            ),
            Flag(name="dtype", help="of the weights: float32 (default), bfloat16, "
                 "float16", default="float32"),
            Flag(name="verify", help="false: no proof, and the card says so; default: "
                 "compare with PyTorch, exit 1 where it differs", default=True),
        ),
        act=acts.export,
        config="optional",
    ),
    "convert": Verb(
        summary="make a folder to start from of a hub folder or a GGUF file",
        example="deemo convert --input=llama.gguf --output=llama --dtype=bfloat16",
        flags=(
            _read("input", "Hugging Face folder of a LLaMA, ours too, or GGUF file"),
            _folder("output", "folder to write"),
            Flag(name="dtype", help="float32, bfloat16, float16; default: as it is",
                 default="keep"),
        ),
        act=acts.convert,
    ),
    "plan": Verb(
        summary="compile the training step for hardware that is not there",
        example="deemo plan --config=configs/deemo_llama_7b.py:tune --topology=v5e-256",
        flags=(
            Flag(name="topology", help="v5e-256, v5p-512, 4xv6e-256, h100-8x8, …; of "
                 "several, by commas, a table",
                 default=""),
            Flag(name="largest_batch", help="true: look for the largest that fits",
                 default=False),
            Flag(name="scaling", help="topologies, by commas: a row for each, with as "
                 "many rows a chip as on the first", default=""),
            Flag(name="json", help="true: print JSON", default=False),
        ),
        act=acts.plan,
        config="needed",
    ),
    "demo": Verb(
        summary="the whole path on real and generated clips, in minutes on a laptop",
        example="deemo demo --workdir=runs/demo",
        flags=(
            _folder("workdir", "folder to write", default="runs/demo"),
            Flag(name="seed", help="of corpus and training; default 0", default=0),
        ),
        act=acts.demo,
    ),
}  # fmt: skip
