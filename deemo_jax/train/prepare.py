"""What a run needs before its first step: records and a tokenizer, made once."""

import dataclasses
import json
from pathlib import Path
import shutil
import tempfile

from deemo_jax.config import Config, ConfigError
from deemo_jax.data import prompt
from deemo_jax.data.source import ShardSource
from deemo_jax.data.tokenizer import (
    AUDIO,
    VIDEO,
    Tokenizer,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from deemo_jax.data.turns import Asker
from deemo_jax.progress import bars
from deemo_jax.storage import AnyPath, copy_folder, fetched, locate
from deemo_jax.train.frozen import check_encoding


def open_split(config: Config, packed: AnyPath, split: str) -> ShardSource:
    """The records of a split of a run's data, or of the run's side of its fold.

    Raises:
      ConfigError: if they are not there, not as they were packed, or encoded otherwise
        than the run would encode them.
    """
    data = config.data
    try:
        source = ShardSource(packed, split, folds=data.folds, fold=data.fold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    check_encoding(config, source.encoding)
    return source


def prepare_data(config: Config, workdir: AnyPath) -> AnyPath:
    """The packed folder of the run: `config.data.path`, or one made in the workdir.

    A generated corpus (`corpus/`, packed into `data/`) is a function of the
    configuration, and a killed generation goes on where it stopped.
    """
    if config.data.path:
        return locate(config.data.path)
    if not isinstance(workdir, Path):
        raise ConfigError(
            f"config.data.path is empty, and in --workdir={workdir} no corpus can be "
            f"generated; pack one elsewhere and name it"
        )
    packed = workdir / "data"
    if (packed / "dataset_info.json").exists():  # written last
        return packed
    # Only a run that generates its data needs what reads and writes media.
    # While this is imported, other threads' relative imports fail, rich's among them:
    # so not while a bar is drawn.
    import tensorflow_datasets  # noqa: F401

    from deemo_jax.data.pack import pack_folder
    from deemo_jax.data.synthetic import card, generate_corpus

    corpus = workdir / "corpus"
    with bars() as progress:
        generate_corpus(
            corpus,
            seed=config.seed,
            **dataclasses.asdict(config.data.synthetic),
            progress=progress,
        )
        pack_folder(
            corpus,
            packed,
            name=config.data.name,
            description=card(),
            progress=progress,
        )
    return packed


def prepare_tokenizer(
    config: Config, workdir: AnyPath, source: ShardSource
) -> Tokenizer:
    """The tokenizer of the run; unless it is named, kept in the workdir.

    It is `config.data.tokenizer`; or that of `config.init_from`, or that of
    `config.pretrained.language_model` with the media's tokens, whose embeddings mean
    its tokens; or else one trained on the records.

    Raises:
      ConfigError: if the model has too few embeddings for it, or takes other ids for
        the places of media; or `config.init_from` has none.
    """
    folder = locate(config.data.tokenizer or workdir / "tokenizer")
    model = config.model
    if not config.data.tokenizer and not (folder / "tokenizer_config.json").exists():
        if config.init_from:
            with fetched(_tokenizer_of(locate(config.init_from))) as theirs:
                kept = load_tokenizer(theirs)
        elif config.pretrained.language_model:
            kept = read_tokenizer(Path(config.pretrained.language_model))
            kept.add_tokens([VIDEO, AUDIO], special_tokens=True)
        else:
            asker = Asker(
                config=config.data,
                emotions=source.taxonomy.emotions,
                classes=source.classes,
            )
            texts = prompt.corpus_texts(source, asker)
            kept = train_tokenizer(texts, model.language_model.vocab_size)
        _keep(kept, folder)
    with fetched(folder) as here:
        tokenizer = load_tokenizer(here)
    if len(tokenizer) > model.language_model.vocab_size:
        raise ConfigError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, but "
            f"config.model.language_model.vocab_size is "
            f"{model.language_model.vocab_size}; set it to {len(tokenizer)} or more"
        )
    vocabulary = tokenizer.get_vocab()
    for key, token in (("video", VIDEO), ("audio", AUDIO)):
        taken = getattr(model, f"{key}_token_id")
        if vocabulary[token] != taken:
            raise ConfigError(
                f"config.model.{key}_token_id is {taken}, but {token} has id "
                f"{vocabulary[token]} in the tokenizer of {folder}; set it to that"
            )
    return tokenizer


def _keep(tokenizer: Tokenizer, folder: AnyPath) -> None:
    """Writes a tokenizer, `tokenizer_config.json` last or all of it at once."""
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory() as beside:
            tokenizer.save_pretrained(beside)
            copy_folder(Path(beside), folder)
        return
    beside = folder.with_name(".tokenizer.partial")
    shutil.rmtree(beside, ignore_errors=True)
    tokenizer.save_pretrained(str(beside))
    beside.rename(folder)


def _tokenizer_of(init_from: AnyPath) -> AnyPath:
    """The tokenizer of a workdir, or of a Hugging Face folder."""
    run = init_from / "config.json"
    if (init_from / "checkpoints").is_dir() and run.exists():
        named = json.loads(run.read_text(encoding="utf-8"))["data"]["tokenizer"]
        return locate(named or init_from / "tokenizer")
    if (init_from / "tokenizer_config.json").exists():
        return init_from
    raise ConfigError(
        f"config.init_from is {str(init_from)!r}, which is neither a workdir with "
        f"checkpoints nor a Hugging Face folder with a tokenizer; give one of these, "
        f"or set config.data.tokenizer to the one that its embeddings belong to"
    )
