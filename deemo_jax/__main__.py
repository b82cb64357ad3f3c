"""`python -m deemo_jax VERB` is `deemo VERB`."""

from deemo_jax.cli import run

run()
