"""Who a run was trained on, by earlier runs too: nobody of them may judge it."""

import json

from deemo_jax.config import Config, ConfigError
from deemo_jax.data.shards import read_splits
from deemo_jax.data.source import ShardSource
from deemo_jax.storage import AnyPath, locate
from deemo_jax.train.log import read_ledger
from deemo_jax.train.prepare import open_split

NAMED = 3  # subjects that an error names


def check_beginning(config: Config, packed: AnyPath) -> None:
    """Refuses a run whose `evaluate.split` has people that `init_from` has seen.

    Else its evaluation would be refused, when all is done. Data without such a split
    can begin.

    Raises:
      ConfigError: naming some of them, and the run that saw them.
    """
    split = config.evaluate.split
    if config.init_from and (config.data.folds or split in read_splits(packed)[1]):
        check_unseen(locate(config.init_from), open_split(config, packed, split))


def check_unseen(workdir: AnyPath, source: ShardSource) -> None:
    """Refuses to evaluate a run on subjects that it, or one it began with, has seen.

    The records that a run was itself trained on may be asked for by their split: what
    it makes of these is no secret, and no result.

    Raises:
      ConfigError: naming some of the subjects, and the run that saw them.
    """
    subjects = {entry.subject for entry in source.entries}
    for seen_by, entry in _trained_on(workdir):
        own = seen_by == workdir and entry["data"]["manifest"] == source.manifest
        both = sorted(subjects & set(entry["subjects"]))
        if own or not both:
            continue
        more = f" and {len(both) - NAMED} more" if len(both) > NAMED else ""
        raise ConfigError(
            f"{len(both)} of {len(subjects)} subjects of {source.folder}, split "
            f"{source.split!r}, are people that {seen_by} was trained on "
            f"({', '.join(both[:NAMED])}{more}): evaluate on others, or begin with a "
            f"run that has the same splits and config.data.fold"
        )


def _trained_on(workdir: AnyPath) -> list[tuple[AnyPath, dict]]:
    """The ledgers' lines of a run, and of those that its parameters go back to."""
    found: list[tuple[AnyPath, dict]] = []
    known: set[str] = set()
    while str(workdir) not in known:
        known.add(str(workdir))
        found += [(workdir, entry) for entry in read_ledger(workdir)]
        path = workdir / "config.json"
        if not (workdir / "checkpoints").is_dir() or not path.is_file():
            break
        began_with = json.loads(path.read_bytes()).get("init_from")
        if not began_with:
            break
        workdir = locate(began_with)
    return found
