"""What `deemo plan` answers, and refuses."""

import json

import pytest

from deemo_jax import cli
from deemo_jax.plan.topology import NotCompiledError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --topology or --scaling"),
        (["--topology=v5e-8", "--scaling=v5e-8"], "give either"),
        (["--topology=v7-8"], "known are v5e"),
        (["--topology=v5e-8,v6e-8", "--largest_batch"], "looked for on one"),
        (["--topology=v5e-8", "--config.mesh.data=3"], "does not divide the 8 devices"),
    ],
)
def test_plans_that_cannot_be(words, message, capsys):
    plan = ["plan", "--config=configs/tiny.py", "--config.mesh.data=1"]
    assert cli.main([*plan, *words]) == 2
    assert message in capsys.readouterr().err


def test_plans_as_words_table_and_json(monkeypatch, capsys):
    """Without a compiler, so that it takes no time."""

    def refuse(topology):
        raise NotCompiledError("nothing is installed")

    monkeypatch.setattr("deemo_jax.plan.estimate.compile_only_devices", refuse)
    words = ["plan", "--config=configs/tiny.py"]
    assert cli.main([*words, "--topology=v5e-8"]) == 0
    assert "analytic only" in capsys.readouterr().out
    assert cli.main([*words, "--topology=v5e-8,h100-1x8"]) == 0
    assert "| h100-1x8 | 8     | full" in capsys.readouterr().out
    assert cli.main([*words, "--scaling=v5e-8,v5e-16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [plan["batch_size"] for plan in found] == [16, 32]
