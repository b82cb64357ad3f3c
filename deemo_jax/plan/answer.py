"""What `deemo plan` answers: one plan in words, several in a table, or JSON."""

import json

from rich.console import Console

from deemo_jax.config import Config, ConfigError
from deemo_jax.plan import report, search
from deemo_jax.plan.estimate import make_plan
from deemo_jax.plan.topology import read_topology
from deemo_jax.progress import bars
from deemo_jax.train.frozen import recognised


def answer(
    config: Config,
    *,
    topology: str = "",
    largest_batch: bool = False,
    scaling: str = "",
    as_json: bool = False,
) -> str:
    """Compiles the training step for hardware that is not there, and says what it is.

    `topology` or `scaling` names hardware, several separated by commas.

    Raises:
        ConfigError: both are named or none, or what is named is not known.
    """
    import jax

    # Nothing is computed, and no device that happens to be here is taken.
    jax.config.update("jax_platforms", "cpu")
    if bool(topology) == bool(scaling):
        raise ConfigError("give either --topology or --scaling")
    config = recognised(config)
    found = [read_topology(name) for name in (topology or scaling).split(",")]
    if largest_batch and len(found) > 1:
        raise ConfigError("--largest_batch is looked for on one --topology")
    with bars(Console(stderr=True)) as progress:
        if scaling:
            plans = list(search.scaling(config, found, progress=progress))
        elif largest_batch:
            plans = [search.largest_batch(config, found[0], progress=progress)]
        else:
            plans = []
            for each in found:
                progress(f"compiling for {each.name}", 0, None)
                plans.append(make_plan(config, each))
                progress(f"compiling for {each.name}", 1, 1)
    if as_json:
        return json.dumps([report.to_json(each) for each in plans], indent=2)
    return report.table(plans) if len(plans) > 1 else report.describe(plans[0])
