"""The tiny configuration made smaller still, and a corpus for it."""

from pathlib import Path
from typing import Any

from configs import tiny
from deemo_jax.config import Config, from_config_dict
from deemo_jax.train.prepare import prepare_data


def small_config(**changes: Any) -> Config:
    """Every part of the model is there; `train__steps=3` sets `train.steps`."""
    config: Any = tiny.get_config()
    config.data.synthetic.update(
        train_clips=12, test_clips=2, train_subjects=3, test_subjects=1
    )
    config.data.update(num_frames=2, image_size=32, audio_seconds=1.0)
    config.model.vision_tower.update(hidden_size=32, image_size=32, patch_size=16)
    config.model.audio_tower.update(d_model=32, max_source_positions=50)
    config.model.video_connector.update(encoder_hidden_size=32, num_query_tokens=4)
    config.model.audio_connector.update(encoder_hidden_size=32, num_query_tokens=2)
    config.model.language_model.update(num_hidden_layers=2)
    config.optimizer.warmup_steps = 5
    config.train.update(steps=20, batch_size=8, log_every=1, save_every=10, keep=3)
    for key, value in changes.items():
        *groups, name = key.split("__")
        group = config
        for part in groups:
            group = group[part]
        group[name] = value
    return from_config_dict(config)


def make_corpus(folder: Path) -> Path:
    """A packed folder that `small_config` can be trained on."""
    return prepare_data(small_config(), folder)
