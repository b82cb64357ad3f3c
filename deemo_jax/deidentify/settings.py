"""How clips are de-identified: the settings that `configs/deidentify.py` shows."""

import dataclasses
import math

from deemo_jax.config import ConfigError

METHODS = ("blur", "mosaic", "solid")
VOICES = ("drift", "mcadams")
AUDIBLE = 0.05  # of McAdams' coefficient, from 1, which changes nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bridging:
    """How many frames a face is masked for around those in which it was found.

    `before`: before its first detection; so many frames are held in memory.
    `after`: after each detection; None holds it until it is found again, or to the end
    of its shot (and 25 frames more): hands before a face are a long gap, and a mask
    left behind by one who left does no harm. A face never found with a score of 0.5 or
    more is held only for as many frames as it was found in: a false alarm does not
    linger.
    """

    before: int = 15
    after: int | None = None

    def __post_init__(self):
        _require(self.before >= 0, "bridging.before", self.before, "0 or more")
        after = 0 if self.after is None else self.after
        _require(after >= 0, "bridging.after", self.after, "0 or more, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """How faces are masked.

    `scale`: axes of the ellipse over the sides of the detected box. Larger ones hide
    hands near the face, which are body language; at 1.0 corners of the face remain.
    `method`: "blur" and "mosaic" keep the colour of skin and light, "solid" keeps
    nothing.
    """

    scale: float = 1.4
    method: str = "blur"

    def __post_init__(self):
        sound = 0 < self.scale < math.inf
        _require(sound, "mask.scale", self.scale, "more than 0")
        known = self.method in METHODS
        _require(known, "mask.method", self.method, f"one of {', '.join(METHODS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """How voices are changed.

    `method`: "drift" gives every clip a voice of its own, which nobody has; "mcadams"
    bends formants, and an attacker bends them back.
    `coefficients`: of "mcadams": the range that its coefficient is drawn from, for each
    clip anew; (0.8, 0.8) is the fixed one of the VoicePrivacy challenge of 2020.
    """

    method: str = "drift"
    coefficients: tuple[float, float] = (0.5, 0.9)

    @property
    def drawn(self) -> bool:
        """Whether a clip gets another voice when it is made again."""
        low, high = self.coefficients
        return self.method == "drift" or low < high

    def __post_init__(self):
        known = self.method in VOICES
        _require(known, "voice.method", self.method, f"one of {', '.join(VOICES)}")
        low, high = self.coefficients
        _require(
            0 < low <= high < math.inf,
            "voice.coefficients",
            self.coefficients,
            "above 0, the smaller one first",
        )
        _require(
            high < 1 - AUDIBLE or low > 1 + AUDIBLE,
            "voice.coefficients",
            self.coefficients,
            f"below {1 - AUDIBLE:g} or above {1 + AUDIBLE:g}, since 1 changes nothing",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """What becomes of words.

    `transcribe`: whether a clip with a voice and without a transcript gets one.
    `model`: a folder of CTranslate2 weights of a Whisper; "" is the tiny English one.
    `redact`: whether names, places, dates and numbers leave transcript and reasoning.
    `silence`: whether, with `redact`, the voice is silent where Whisper hears them.
    `redactor`: a spaCy pipeline, by its name or folder; "" is `en_core_web_md`.
    """

    transcribe: bool = True
    model: str = ""
    redact: bool = True
    silence: bool = True
    redactor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """When a clip fails its audit; another detector and verifier than the masks' look.

    `faces_left`: so many detections may be left where faces were.
    `gap_frames`: so many frames on end may show a face that no mask covers.
    `alike`: share of the masked faces that may be taken for their originals.
    `voice`: likeness up to which a voice is not taken for its original's, a cosine of
    CAM++; `configs/deidentify.md` says what it is of the same and of other speakers.
    `seen`: share of the masked faces that the audit must have seen, too; below it, it
    cannot tell, and the clip stays unaudited. So it is with the frames in which two
    faces, three and more were masked at once: who stands beside others must be seen.
    `longest_side`: pixels that larger frames are scaled down to; in these, faces of 20
    pixels and more are seen.
    `every`: of so many frames one is looked at; faces of those between are put between
    its neighbours', and masks are seen to be on them in every frame.
    """

    faces_left: int = 0
    gap_frames: int = 0
    alike: float = 0.0
    voice: float = 0.5
    seen: float = 0.7
    longest_side: int = 960
    every: int = 3

    def __post_init__(self):
        for name in ("faces_left", "gap_frames"):
            value = getattr(self, name)
            _require(value >= 0, f"audit.{name}", value, "0 or more")
        for name in ("alike", "voice", "seen"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"audit.{name}", value, "from 0 to 1")
        enough = self.longest_side >= 32
        _require(enough, "audit.longest_side", self.longest_side, "32 pixels or more")
        some = 1 <= self.every <= 30
        _require(some, "audit.every", self.every, "from 1 to 30 frames")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How clips are de-identified; every part has its defaults.

    `threshold`: score from which CenterFace's detections count as faces.
    `longest_side`: pixels that larger frames are scaled down to before it looks.
    `look_again`: of so many masked frames, it looks for faces in one. That is no audit,
    but tells of masks that are too small.
    """

    threshold: float = 0.2
    longest_side: int = 640
    look_again: int = 10
    bridging: Bridging = dataclasses.field(default_factory=Bridging)
    mask: Mask = dataclasses.field(default_factory=Mask)
    voice: Voice = dataclasses.field(default_factory=Voice)
    words: Words = dataclasses.field(default_factory=Words)
    audit: Audit = dataclasses.field(default_factory=Audit)

    def __post_init__(self):
        between = 0 < self.threshold < 1
        _require(between, "threshold", self.threshold, "more than 0 and below 1")
        enough = self.longest_side >= 32
        _require(enough, "longest_side", self.longest_side, "32 pixels or more")
        _require(self.look_again >= 1, "look_again", self.look_again, "1 frame or more")


def _require(holds: bool, key: str, value: object, what: str) -> None:
    if not holds:
        raise ConfigError(f"config.{key} is {value!r}; it must be {what}")
