"""The two subsets as builders of TensorFlow Datasets, over folders that were packed.

import tensorflow_datasets as tfds
from deemo_jax.data.builders import DeemoMer

builder = DeemoMer("packed")  # or tfds.builder("deemo_mer", data_dir="packed")
builder.info.splits["train"].num_examples, builder.taxonomy.emotions
builder.records("train")[0].emotion  # without TensorFlow, checked when read
builder.as_dataset(split="train", as_supervised=True)  # with it
"""

import itertools
import os
from pathlib import Path
from typing import Any

from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder

from deemo_jax.annotation import Taxonomy, load_taxonomy
from deemo_jax.data.shards import read_splits
from deemo_jax.data.source import ShardSource, read_indexes
from deemo_jax.data.tfds import dataset_name


class _Packed(ReadOnlyBuilder, skip_registration=True):
    """A folder that `deemo pack` wrote under the builder's name; it never writes.

    Raises:
        ValueError: the folder holds no such data set.
    """

    def __init__(self, data_dir: str | os.PathLike[str]):
        self._folder = Path(data_dir)
        if (there := dataset_name(self._folder)) != type(self).name:
            raise ValueError(
                f"{data_dir} holds {there or 'no data set'}, not {type(self).name}: "
                f"write it with `deemo pack --name={type(self).name}`"
            )
        super().__init__(builder_dir=os.fspath(data_dir))
        self._original_state = {"data_dir": os.fspath(data_dir)}  # what is pickled

    @property
    def taxonomy(self) -> Taxonomy:
        """The label sets: of emotions, and of body language with its groups."""
        return load_taxonomy(self._folder / "taxonomy.json")

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """See `tfds.core.DatasetBuilder`.

        Raises:
            ValueError: the shards hold records of somebody who withdrew, or it cannot
                be told.
        """
        self._check_purged()
        return super().as_dataset(*args, **kwargs)

    def as_data_source(self, *args: Any, **kwargs: Any) -> Any:
        """See `tfds.core.DatasetBuilder`.

        Raises:
            ValueError: the shards hold records of somebody who withdrew, or it cannot
                be told.
        """
        self._check_purged()
        return super().as_data_source(*args, **kwargs)

    def _check_purged(self) -> None:
        """TFDS reads shards whole, past the indexes."""
        indexes = read_indexes(self._folder, read_splits(self._folder)[1])
        for shard, index in itertools.chain.from_iterable(indexes.values()):
            if any(index.withdrawn.values()):
                raise ValueError(
                    f"{shard} holds records of subjects who withdrew: take them out, "
                    f"`deemo pack --purge=true --output={self._folder}`, or read "
                    "`records`, which leaves them out"
                )

    def records(self, split: str, *, folds: int = 0, fold: int = 0) -> ShardSource:
        """The records of a split or a fold, in any order; see `ShardSource`."""
        return ShardSource(self._folder, split, folds=folds, fold=fold)


class DeemoMer(_Packed):
    """DEEMO-MER: a clip a record, with emotion, reasoning and transcript."""


class DeemoNfbl(_Packed):
    """DEEMO-NFBL: a window of a long video a record, with intervals of body language.

    How videos are cut says `deemo_jax.data.windows`.
    """
