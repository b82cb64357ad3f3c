"""Every verb declares what its function takes, and says what it does."""

import inspect

import pytest

from deemo_jax import verbs


@pytest.mark.parametrize(("name", "verb"), verbs.VERBS.items())
def test_the_function_takes_exactly_the_flags(name, verb):
    taken = set(inspect.signature(verb.act).parameters)
    declared = {flag.name for flag in verb.flags}
    assert taken == declared | ({"config"} if verb.config != "none" else set())
    assert verb.example.startswith(f"deemo {name} ")
