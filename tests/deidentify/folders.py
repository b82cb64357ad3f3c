"""A folder of clips to de-identify: what is in it, and what is done with it."""

import functools
import json

from deemo_jax.deidentify import folder as room

# In this process: another one takes seconds to begin. One test has several.
deidentify_folder = functools.partial(room.deidentify_folder, workers=1)

GOOD = {
    "face": {"transcript": "We won.", "emotion": "positive"},
    "three": {"media": "three.mp4"},
    "voice": {"media": "voice.wav", "split": "test"},
}


def annotate(raw, rows: dict[str, dict], *lines: str) -> None:
    texts = [
        json.dumps({"clip_id": clip_id, "media": "face.mp4", "subject": "s"} | fields)
        for clip_id, fields in rows.items()
    ]
    (raw / "annotations.jsonl").write_text("\n".join([*texts, *lines]) + "\n")


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
