"""A folder's processor settings are those of the model and of the training."""

import dataclasses

from deemo_jax.export.processor import processor_config
from tests.small import HUBERT, ODD


def settings(config=ODD, **data):
    return processor_config(
        config,
        video_token="<v>",
        audio_token="<a>",
        data=data,
        instructions={"recognition": "Which?"},
    )


def test_frames_and_sound_are_stated_as_transformers_states_them():
    found = settings()
    image = found["image_processor"]
    assert image["size"] == {"shortest_edge": 15}
    assert image["crop_size"] == {"height": 15, "width": 15}
    assert image["image_mean"] == [0.5, 0.4, 0.3]
    assert image["image_std"] == [0.25, 0.3, 0.2]
    sound = found["feature_extractor"]
    assert sound["feature_extractor_type"] == "WhisperFeatureExtractor"
    assert sound["feature_size"] == 11
    assert sound["sampling_rate"] == 16_000


def test_hubert_hears_a_waveform():
    for normalise in (True, False):
        tower = dataclasses.replace(HUBERT, do_normalize=normalise)
        connector = dataclasses.replace(ODD.audio_connector, encoder_hidden_size=12)
        config = dataclasses.replace(ODD, audio_tower=tower, audio_connector=connector)
        sound = settings(config)["feature_extractor"]
        assert sound["feature_extractor_type"] == "Wav2Vec2FeatureExtractor"
        assert sound["do_normalize"] is normalise
        assert sound["feature_size"] == 1


def test_rows_are_those_of_the_training_or_as_long_as_they_may_be():
    found = settings(num_frames=4, audio_seconds=0.25)
    assert (found["num_frames"], found["num_samples"]) == (4, 4_000)
    # Five temporal positions; 31 frames of the tower, 20 ms each.
    found = settings()
    assert (found["num_frames"], found["num_samples"]) == (5, 9_920)


def test_tokens_and_questions_are_named():
    found = settings()
    assert (found["video_token"], found["num_video_tokens"]) == ("<v>", 3)
    assert (found["audio_token"], found["num_audio_tokens"]) == ("<a>", 2)
    assert found["instructions"] == {"recognition": "Which?"}
