"""The embedded corpus: English and French sentences with gold word links, drawn from a grammar of our own.

The grammar (:mod:`nmt.data.grammar`) is data: some 1,100 English and 2,500 French word forms; noun phrases
that agree in gender and number, adjectives before and behind the noun, elision and contraction, object pronouns,
negation, relative and subordinate clauses, questions, orders, three tenses, numbers up to 999,999, dates and years in
words. An English sentence has one right translation: *you* is always *vous* to men, who speaks is a man, the past of an
event is the passé composé and that of a state the imperfect.

Lines are plain text, a capital at the front and a full stop at the end; ``.align`` has one line of links a pair in
Pharaoh form, ``0-0 1-2``, source-target, counting the words between spaces from 0. What is linked:

- a word to its counterpart; a word that has grown together from two (``l'homme``, ``du``, ``voit-il``) to the
  counterparts of both, and what counts as one word to every word of the other side (``potato``, ``pomme de terre``);
- ``not`` to ``ne`` and to ``pas``; a tense's auxiliary to what carries the tense on the other side (``did not see``,
  ``n'a pas vu``: ``did`` to ``a``, ``see`` to ``vu``; ``will see``, ``verra``: both to it);
- ``does``, ``did``, ``will`` at the front of a question to ``est-ce que``, or to the inverted verb;
- nothing for a word that the other language leaves out: ``on`` and ``of`` of a date, ``and`` inside a number.

The same seed gives the same sentences, on every machine and every version of Python that the toolkit runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random
from typing import TextIO

from nmt.data.grammar import Grammar, SyntheticPair
from nmt.errors import ConfigError, NmtError

__all__ = ["CorpusSummary", "SyntheticPair", "draw", "write_corpus"]

ENDINGS = ("en", "fr", "align")
SPLITS = ("train", "valid", "test")

#: Pairs of a split at most: all of them are remembered, so that none is drawn twice.
MOST = 100_000_000
SHORTEST, LONGEST = 3, 40
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class CorpusSummary:
    """What was written: the number of pairs by split, and the words between spaces in all of them."""

    folder: Path
    pairs: dict[str, int]
    source_words: int
    target_words: int


def draw(seed: int) -> Iterator[SyntheticPair]:
    """Sentence pairs without end: no source and no target comes twice, each has 3 to 40 words.

    What is kept in memory is a hash of 8 bytes for every sentence so far.
    """
    sample = Grammar.load().sampler(Random(seed).random)
    seen: set[int] = set()
    while True:
        pair = sample()
        lengths = pair.source.count(" ") + 1, pair.target.count(" ") + 1
        if min(lengths) < SHORTEST or max(lengths) > LONGEST:
            continue
        source, target = _digest(b"source", pair.source), _digest(b"target", pair.target)
        if source not in seen and target not in seen:
            seen.add(source)
            seen.add(target)
            yield pair


def write_corpus(
    folder: Path,
    *,
    pairs: int,
    seed: int,
    valid: int = 500,
    test: int = 500,
    progress: Callable[[int], object] | None = None,
) -> CorpusSummary:
    """Write ``train``, ``valid`` and ``test`` as ``.en``, ``.fr`` and ``.align`` into ``folder``.

    No sentence stands in two splits, on either side. ``test`` is drawn first and ``valid`` next, so that with the same
    seed they are the same for every number of training pairs. ``progress`` is called with the number of pairs done.

    A corpus that stands in the folder is replaced once the new one is complete. Raises ConfigError for sizes below 1, a
    seed below 0, and a folder that holds anything else, NmtError where it cannot be written.
    """
    for name, value, least in (("pairs", pairs, 1), ("valid", valid, 1), ("test", test, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} {value}: give {least} or more")
    if max(pairs, valid, test) > MOST:
        raise ConfigError(f"more than {MOST:,} pairs are more than the grammar is made for")
    _refuse_strangers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"test": test, "valid": valid, "train": pairs}
    stream = _counted(draw(seed), progress)
    words = [0, 0]
    try:
        for split, size in sizes.items():
            counts = _write_split(folder, split, islice(stream, size))
            words = [total + count for total, count in zip(words, counts, strict=True)]
        for path in _paths(folder):
            _unfinished(path).replace(path)
    except OSError as error:
        raise NmtError(f"{folder}: the corpus cannot be written: {error.strerror or error}") from error
    finally:
        for path in _paths(folder):
            _unfinished(path).unlink(missing_ok=True)
    return CorpusSummary(folder, {split: sizes[split] for split in SPLITS}, *words)


def _digest(side: bytes, sentence: str) -> int:
    return int.from_bytes(blake2b(sentence.encode(), digest_size=8, person=side).digest(), "little")


def _paths(folder: Path) -> list[Path]:
    return [folder / f"{split}.{ending}" for split in SPLITS for ending in ENDINGS]


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def _refuse_strangers(folder: Path) -> None:
    """A folder may be missing, empty, or hold an earlier corpus, which has word links."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: a file, not a folder: name a new or empty folder")
    ours = {path.name for known in _paths(folder) for path in (known, _unfinished(known))}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise ConfigError(f"{folder}: holds {others[0]!r}, which is no part of a corpus: name a new or empty folder")
    for path in _paths(folder):
        links = path.with_suffix(".align")
        if path.exists() and not (links.exists() or _unfinished(links).exists()):
            raise ConfigError(
                f"{folder}: holds {path.name!r} and no {links.name!r}, so it is somebody's corpus: name a new or empty "
                f"folder"
            )


def _counted(stream: Iterator[SyntheticPair], progress: Callable[[int], object] | None) -> Iterator[SyntheticPair]:
    """The pairs as they are, with every thousandth reported."""
    for done, pair in enumerate(stream, start=1):
        if progress is not None and done % 1000 == 0:
            progress(done)
        yield pair


def _write_split(folder: Path, split: str, pairs: Iterator[SyntheticPair]) -> tuple[int, int]:
    """Write the three files of a split under their unfinished names; the words of both sides."""
    source_words = target_words = 0
    with ExitStack() as stack:
        source, target, align = (
            stack.enter_context(_open(_unfinished(folder / f"{split}.{ending}"))) for ending in ENDINGS
        )
        for pair in pairs:
            source.write(f"{pair.source}\n")
            target.write(f"{pair.target}\n")
            align.write(" ".join(f"{i}-{j}" for i, j in pair.links) + "\n")
            source_words += pair.source.count(" ") + 1
            target_words += pair.target.count(" ") + 1
    return source_words, target_words


def _open(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")
