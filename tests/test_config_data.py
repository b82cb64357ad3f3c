"""Settings of the data that contradict each other are refused by name."""

import dataclasses

import pytest

from configs import deemo_llama_7b, deemo_llama_8b, tiny
from deemo_jax.config import from_config_dict
from deemo_jax.config_data import NFBL_TASKS, PHRASINGS, TASKS
from deemo_jax.fields import ConfigError

DATA = from_config_dict(tiny.get_config()).data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("singing",)}, "data.tasks is 'singing'; .* nfbl_which, nfbl_when"),
        ({"task_weights": (1.0,)}, r"task_weights is \(1.0,\); .* recognition, reaso"),
        ({"task_weights": (1.0, -1.0)}, "data.task_weights is .*from 0 on"),
        ({"task_weights": (0.0, 0.0)}, "data.task_weights is .*one of them above 0"),
        ({"phrasings": 0}, f"data.phrasings is 0; it must be from 1 to {PHRASINGS}"),
        ({"phrasings": PHRASINGS + 1}, "data.phrasings is 6"),
        ({"nfbl_never": 1.0}, "data.nfbl_never is 1.0; .* below 1"),
        ({"nfbl_cues": True, "tasks": TASKS}, "nfbl_cues is True; .*task_weights"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DATA, **changes).check()


def test_cues_stand_where_they_give_no_answer_away():
    dataclasses.replace(DATA, nfbl_cues=True).check()
    weights = (1.0, 0.0, 2.0, 1.0)
    mixed = dataclasses.replace(DATA, tasks=TASKS, task_weights=weights, nfbl_cues=True)
    mixed.check()
    assert mixed.trained_tasks == ("recognition", *NFBL_TASKS)
    assert DATA.trained_tasks == DATA.tasks


def test_what_presets_ask():
    assert (DATA.phrasings, DATA.task_weights, DATA.nfbl_cues) == (1, (), False)
    for preset in (deemo_llama_7b, deemo_llama_8b):
        assert from_config_dict(preset.get_config("tune")).data.phrasings == PHRASINGS
