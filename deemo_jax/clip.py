"""Clips before and after de-identification, and the media files behind them."""

from collections.abc import Iterable
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from deemo_jax.annotation import Annotation, Taxonomy, folder_taxonomy, parse_annotation
from deemo_jax.refusals import Refusal, Rejection, check_inside, parse_object, reject
from deemo_jax.storage import write_whole

MANIFEST = "deidentified.jsonl"
MEASURE = "faces/8"  # of audits: a change of figures or of what is judged counts up
AGAIN = "run `deemo deidentify` again; only what it wrote can be packed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """An unprocessed clip: a person's face and voice. It cannot be packed."""

    annotation: Annotation
    media: Path

    @functools.cached_property
    def media_digest(self) -> str:
        """SHA-256 of the file; `Refusal` if it cannot be read. It is kept nowhere."""
        try:
            return file_digest(self.media)
        except OSError as error:
            raise Refusal(
                f"{self.media.name} cannot be read ({error.strerror})",
                "make it readable",
            ) from error

    def digest(self) -> str:
        """SHA-256 of the file and of which part of it the clip is, in hexadecimal.

        Raises:
            Refusal: the file cannot be read.
        """
        span = f"{self.annotation.start!r} {self.annotation.end!r}"
        return hashlib.sha256(f"{self.media_digest} {span}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeidentifiedClip:
    """A clip without face or voice identity, the only thing that can be packed.

    Its files hold the clip alone, so its annotation's `start` is 0 and its `end` the
    clip's length in seconds, but for a `Window`. A part that the clip lacks is None.

    Attributes:
        annotation: what people said of it; `media` names the first file below.
        video: MP4 (H.264) with masked faces and no audio track.
        audio: FLAC, 16 kHz mono, anonymised.
        sha256: of the files, under "video" and "audio".
        deidentification: methods and their version, such as "centerface+drift/3".
        verdict: of the audit: "passed", "failed", "unaudited", or "generated" where
            there is no person.
        faces: counts, such as "frames", "frames_with_face", "boxes", and those that
            `together` names; may be empty.
        words: counts, see `words.reworded`: "transcribed", "silenced", and placeholders
            in transcript and reasoning by type, such as "NAME"; may be empty.
        source: digest of what it was made from; when that changes, it is made anew. It
            begins with `Clip.digest`.
        audit: what the verdict follows from, and "reasons"; empty if nobody looked.
    """

    annotation: Annotation
    video: Path | None
    audio: Path | None
    sha256: dict[str, str]
    deidentification: str
    verdict: str
    faces: dict[str, int]
    words: dict[str, int] = dataclasses.field(default_factory=dict)
    source: str = ""
    audit: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self, folder: Path) -> dict[str, Any]:
        """The object of its line in the folder's `deidentified.jsonl`."""
        return {
            "annotation": self.annotation.to_json(),
            "video": self.video and self.video.relative_to(folder).as_posix(),
            "audio": self.audio and self.audio.relative_to(folder).as_posix(),
            "sha256": self.sha256,
            "deidentification": self.deidentification,
            "verdict": self.verdict,
            "faces": self.faces,
            "words": self.words,
            "source": self.source,
            "audit": self.audit,
        }

    @classmethod
    def from_json(
        cls, fields: dict[str, Any], folder: Path, taxonomy: Taxonomy
    ) -> "DeidentifiedClip":
        """The clip of such an object; `Refusal` if it is none or a file was changed."""
        try:
            names = {part: fields[part] for part in ("video", "audio")}
            files = {
                part: check_inside(folder, name) and folder / name
                for part, name in names.items()
                if name is not None
            }
            annotation = parse_annotation(fields["annotation"], taxonomy)
            rest = {k: v for k, v in fields.items() if k not in ("annotation", *names)}
            clip = cls(
                annotation=annotation,
                video=files.get("video"),
                audio=files.get("audio"),
                **rest,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"not a de-identified clip ({error})", AGAIN) from error
        parts = (clip.sha256, clip.faces, clip.words, clip.audit)
        if not all(isinstance(part, dict) for part in parts):
            raise Refusal("sha256, faces, words and audit are not all objects", AGAIN)
        counts = [*clip.faces.values(), *clip.words.values()]
        if not all(isinstance(count, int) for count in counts):
            raise Refusal("what is counted of its faces or words is no number", AGAIN)
        reasons = clip.audit.get("reasons", [])
        texts = [clip.deidentification, clip.verdict, clip.source]
        texts += reasons if isinstance(reasons, list) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise Refusal("its verdict, or what made it, is no text", AGAIN)
        for part, path in files.items():
            if clip.sha256.get(part) != file_digest(path):
                raise Refusal(f"{names[part]} is not the file that was written", AGAIN)
        if not files:
            raise Refusal("neither video nor audio is listed", AGAIN)
        return clip


def together(faces: int) -> str:
    """What the frames with so many faces and more, of which it is sure, count as."""
    return f"frames_with_{faces}_faces"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_deidentified(folder: Path, clip: DeidentifiedClip) -> None:
    """Adds a clip to `folder/deidentified.jsonl`, after whatever stands there.

    A line torn by an interruption is cut off first. A clip that is listed already is
    superseded: the last line of an id counts. One process writes at a time.
    """
    mend_deidentified(folder)
    with open(folder / MANIFEST, "ab") as file:
        line = json.dumps(clip.to_json(folder), ensure_ascii=False)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def mend_deidentified(folder: Path) -> None:
    """Ends the last line of `folder/deidentified.jsonl`, or cuts off a torn one."""
    if not (folder / MANIFEST).exists():
        return
    with open(folder / MANIFEST, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        text = file.read()
        whole = text.rfind(b"\n") + 1
        try:
            parse_object(text[whole:])
            file.write(b"\n")
        except Refusal:
            file.truncate(whole)


def read_deidentified(
    folder: Path,
) -> tuple[list[DeidentifiedClip], list[Rejection]]:
    """Reads `folder/deidentified.jsonl` and verifies the SHA-256 of every file.

    A clip whose file is missing or was changed, a torn line, a line that is no such
    clip: each is left out with a rejection. The last line of a clip id counts; clips
    come in the order of the first ones.

    Raises:
        ValueError: the folder has no `deidentified.jsonl`.
    """
    try:
        lines = (folder / MANIFEST).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f"cannot read {folder / MANIFEST} ({error.strerror}): "
            "write the folder with `deemo deidentify` first"
        ) from error
    taxonomy = folder_taxonomy(folder)
    clips: dict[str | int, DeidentifiedClip] = {}
    rejections: dict[str | int, Rejection] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key = number
        try:
            fields = parse_object(line)
            about = fields.get("annotation")
            if isinstance(about, dict) and isinstance(about.get("clip_id"), str):
                key = about["clip_id"]
            clips[key] = DeidentifiedClip.from_json(fields, folder, taxonomy)
            rejections.pop(key, None)
        except Refusal as refusal:
            clips.pop(key, None)
            clip_id = key if isinstance(key, str) else None
            rejections[key] = reject(refusal, line=number, clip_id=clip_id)
    return list(clips.values()), list(rejections.values())


def replace_deidentified(folder: Path, clips: Iterable[DeidentifiedClip]) -> None:
    """Puts clips in the place of those of their ids, whole or not at all.

    Of several lines of an id the first is that place. Lines of other clips stay as they
    are, sound or not.
    """
    new = {clip.annotation.clip_id: clip.to_json(folder) for clip in clips}
    lines: dict[str | int, bytes] = {}  # by the id of what is new, by number else
    for number, line in enumerate((folder / MANIFEST).read_bytes().split(b"\n")):
        key = number
        with contextlib.suppress(Refusal, KeyError, TypeError):
            clip_id = parse_object(line)["annotation"]["clip_id"]
            line = json.dumps(new[clip_id], ensure_ascii=False).encode()
            key = clip_id
        lines[key] = line
    write_whole(folder / MANIFEST, b"\n".join(lines.values()))
