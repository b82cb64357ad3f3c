"""How `deemo deidentify` masks faces and changes voices; these are its defaults.

    deemo deidentify --config=configs/deidentify.py --input=clips --output=clips_deid

A line may be changed on the command line, too, without naming this file:
--config.mask.method=solid. What each setting hides, and what is left, stands in
`deidentify.md` beside this file.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """The settings; what each means stands in `deemo_jax/deidentify/settings.py`."""
    config = ml_collections.ConfigDict()
    config.threshold = 0.2  # CenterFace's score from which a detection is a face
    config.longest_side = 640  # pixels; larger frames are looked at scaled down
    config.look_again = 10  # of so many masked frames, it looks for faces in one
    config.bridging = dict(
        before=15,  # frames masked before a face is first found
        after=config_dict.placeholder(int),  # none: until found again, or the shot ends
    )
    config.mask = dict(
        scale=1.4,  # the ellipse's axes over the sides of the detected box
        method="blur",  # or mosaic, solid
    )
    config.voice = dict(
        method="drift",  # or mcadams, which can be undone
        coefficients=(0.5, 0.9),  # McAdams': drawn between them for each clip
    )
    config.words = dict(
        transcribe=True,  # a clip with a voice and without a transcript
        model="",  # folder of a Whisper for CTranslate2; none: tiny, English
        redact=True,  # names, places, dates, numbers in transcript and reasoning
        silence=True,  # and in the voice, where Whisper hears them
        redactor="",  # spaCy pipeline, name or folder; none: en_core_web_md
    )
    config.audit = dict(  # a clip that has more fails
        faces_left=0,  # detections where faces were, by another detector
        gap_frames=0,  # frames on end that show a face without mask
        alike=0.0,  # share of the masked faces that are taken for their originals
        voice=0.5,  # likeness of the voice to its original's, a cosine of CAM++
        seen=0.7,  # share of the masked faces that the audit must see, too
        longest_side=960,  # pixels that it scales frames down to, to see 20 and more
        every=3,  # of so many frames, one is looked at
    )
    return config
