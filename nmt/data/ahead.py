"""What training needs of its corpora before its first step, made once and kept: tokenizers, token ids, overlaps.

All of it is kept in one folder under hashes of what it was made of. ``nmt prepare`` makes it ahead; what is not there
training makes itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sentencepiece

from nmt.config import DataConfig, Recipe, TokenizerConfig
from nmt.data.corpus import check_files, check_pairs, describe, digest_corpus
from nmt.data.filters import Overlap, find_overlaps
from nmt.data.store import Store, prepare
from nmt.data.tokenizer import TRAINING_LINES, Tokenizer, Tokenizers, train_tokenizers
from nmt.data.writing import Progress, write_whole
from nmt.errors import CheckpointError, ConfigError, NmtError

__all__ = ["prepare_ahead", "ready_overlaps", "ready_tokenizers", "store_folder"]

TEXT_DECIDES = {"type", "vocabulary", "joint", "byte_fallback", "character_coverage", "normalization"}
"""The keys of ``tokenizer`` that a model trained on the corpora depends on."""


def store_folder() -> Path:
    """Where token ids are kept from run to run: ``$XDG_CACHE_HOME/nmt``, or ``~/.cache/nmt``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nmt"


def prepare_ahead(
    recipe: Recipe,
    folder: Path,
    *,
    workers: int = 0,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> Store:
    """Have all in ``folder`` that training on the recipe's corpora would make first; gives the token ids.

    ``workers`` and ``progress`` are as for :func:`~nmt.data.store.prepare`, ``note`` hears what else is done. Raises
    ConfigError for a recipe without training corpora, DataError for held-out ones that break their contract, and what
    prepare and :func:`~nmt.data.tokenizer.train_tokenizers` raise.
    """
    if not recipe.data.train:
        raise ConfigError("the recipe has no data.train; name corpora there, or a folder with --data")
    if (stream := recipe.data.stream) is not None:
        raise ConfigError(
            f"{describe(stream)}: is read as it comes, and nothing of it can be ready: set streaming = false"
        )
    for corpus in recipe.data.train:
        check_files(corpus)
    for held_out in (recipe.data.valid, recipe.data.test):  # a fault in them is told before the long work
        if held_out is not None:
            check_pairs(held_out)
    tokenizers = ready_tokenizers(recipe.data, recipe.tokenizer, recipe.training.seed, folder, note)
    store = prepare(recipe.data, tokenizers, folder, workers=workers, progress=progress)
    ready_overlaps(recipe.data, folder)
    return store


def ready_tokenizers(
    data: DataConfig, config: TokenizerConfig, seed: int, folder: Path, note: Callable[[str], None]
) -> Tokenizers:
    """The recipe's tokenizers (:func:`~nmt.data.tokenizer.train_tokenizers`), trained if they are not in ``folder``.

    Raises NmtError, before they are, where token ids could not be written there.
    """
    if config.source_model is not None or not data.train:
        return train_tokenizers(data, config, seed)
    decided = [config.model_dump(mode="json", include=TEXT_DECIDES), seed, TRAINING_LINES, sentencepiece.__version__]
    path = folder / f"{_key(data, decided)}.tokenizers"
    with contextlib.suppress(OSError, ValueError, KeyError, CheckpointError):
        return _read_tokenizers(path)
    if data.stream is None:
        _check_place(folder)
    note(f"training a {'joint ' if config.joint else ''}{config.type} tokenizer of {config.vocabulary}")
    tokenizers = train_tokenizers(data, config, seed)
    models = [one.to_bytes() for one in (tokenizers.source, tokenizers.target)[: 1 if tokenizers.joint else 2]]
    listing = [[len(model), hashlib.sha256(model).hexdigest()] for model in models]
    _keep(path, json.dumps(listing).encode() + b"\n" + b"".join(models))
    return tokenizers


def _check_place(folder: Path) -> None:
    """Raise NmtError where nothing can be kept in ``folder``, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NmtError(
            f"{folder}: token ids cannot be written there: {error.strerror}; name another folder with --store"
        ) from error


def _read_tokenizers(path: Path) -> Tokenizers:
    """The tokenizers in a file. Raises ValueError for one that is damaged."""
    listing, _, content = path.read_bytes().partition(b"\n")
    models = []
    for size, digest in json.loads(listing):
        model, content = content[:size], content[size:]
        if hashlib.sha256(model).hexdigest() != digest:
            raise ValueError(f"{path}: damaged")
        models.append(Tokenizer(model))
    return Tokenizers(models[0], models[-1])


def ready_overlaps(data: DataConfig, folder: Path) -> list[Overlap]:
    """What :func:`~nmt.data.filters.find_overlaps` finds, looked for if it is not in ``folder``.

    That is nothing where ``data.drop_held_out`` leaves such pairs out.
    """
    if data.drop_held_out:
        return []
    held_out = [None if corpus is None else digest_corpus(corpus) for corpus in (data.valid, data.test)]
    path = folder / f"{_key(data, held_out)}.overlaps.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        names = {split: describe(corpus) for split, corpus in (("valid", data.valid), ("test", data.test)) if corpus}
        return [Overlap(**{**one, "name": names[one["split"]]}) for one in json.loads(path.read_bytes())]
    found = find_overlaps(data)
    _keep(path, json.dumps([asdict(one) for one in found]).encode())
    return found


def _key(data: DataConfig, others: Any) -> str:
    """A name for what was made of the training corpora and of ``others``."""
    parts = [[digest_corpus(corpus) for corpus in data.train], others]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _keep(path: Path, content: bytes) -> None:
    """Write a file if that is possible: what is not kept is made again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
