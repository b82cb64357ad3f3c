"""Other settings or another workdir, as the processes tell each other of them.

Real processes do so in `tests/faults/test_failures.py`.
"""

import dataclasses
import types
from typing import Any

import pytest

from deemo_jax.config import ConfigError
from deemo_jax.train import agreement
from deemo_jax.train.agreement import check_agreement, check_same_data
from deemo_jax.train.local_checkpoints import RUN_ID
from tests.small import small_config


@pytest.fixture
def first(tmp_path, monkeypatch):
    """Process 0 with its workdir; afterwards this is process 1, which hears it."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / RUN_ID).write_text("1234")
    told = []
    monkeypatch.setattr(agreement, "broadcast", lambda x: told.append(x) or x)
    check_agreement(small_config(), workdir)
    monkeypatch.setattr(agreement, "broadcast", lambda _: told.pop(0))
    monkeypatch.setattr(agreement, "is_first", lambda: False)
    monkeypatch.setattr(agreement, "SEEN_SECONDS", 0.1)
    monkeypatch.setattr(agreement.jax, "process_index", lambda: 1)
    return workdir


def changed(group, **values):
    config = small_config()
    return dataclasses.replace(
        config, **{group: dataclasses.replace(getattr(config, group), **values)}
    )


def test_the_same_run_is_agreed_upon(first):
    check_agreement(small_config(), first)


@pytest.mark.parametrize("group", ["train", "data"])
def test_hosts_may_have_folders_of_their_own(first, group):
    name = {"train": "local_folder", "data": "path"}[group]
    check_agreement(changed(group, **{name: "/mnt/elsewhere"}), first)


def test_other_settings_are_refused(first):
    with pytest.raises(ConfigError, match="settings of process 1 are not those of pro"):
        check_agreement(changed("train", steps=7), first)


@pytest.mark.parametrize("run_id", [None, "1235"])
def test_another_workdir_is_refused(first, run_id):
    path = first / RUN_ID
    path.unlink() if run_id is None else path.write_text(run_id)
    with pytest.raises(ConfigError, match=r"process 1 is not the folder that process"):
        check_agreement(small_config(), first)


@pytest.mark.parametrize(
    ("manifest", "words", "said"),
    [("a1", {"sad": 5}, ""), ("b2", {"sad": 5}, "records"), ("a1", {}, "tokenizer")],
)
def test_other_records_or_another_tokenizer_are_refused(
    monkeypatch, manifest, words, said
):
    def tokenizer(words) -> Any:
        return types.SimpleNamespace(get_vocab=lambda: words, chat_template="{{ x }}")

    told = []
    monkeypatch.setattr(agreement, "broadcast", lambda x: told.append(x) or x)
    check_same_data("a1", tokenizer({"sad": 5}))
    monkeypatch.setattr(agreement, "broadcast", lambda _: told.pop(0))
    monkeypatch.setattr(agreement.jax, "process_index", lambda: 1)
    if not said:
        check_same_data(manifest, tokenizer(words))
        return
    with pytest.raises(ConfigError, match=f"the {said} of process 1 are not those of"):
        check_same_data(manifest, tokenizer(words))
