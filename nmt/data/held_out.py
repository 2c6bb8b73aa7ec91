"""One corpus as three: pairs are held out to validate and to test on, none of whose lines stands in what is left.

A model knows by heart what it has been trained on, so that a held-out pair is worth something only where neither of its
sides can be met in training. Of the pairs, in an order that the seed decides, the first are taken whose two lines stand
in the corpus once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nmt.config import TextCorpus
from nmt.data.corpus import VALID_NAMES, Pair, check_pairs, describe, read_chunks
from nmt.data.filters import is_blank
from nmt.data.order import Permutation
from nmt.data.text import COMPRESSIONS, count_lines
from nmt.errors import ConfigError, DataError, NmtError
from nmt.files import check_writable, written_whole

__all__ = ["SPLITS", "Held", "hold_out", "language_of"]

SPLITS = ("train", "valid", "test")

MOST = 1000
"""How many pairs are held out for each purpose where nobody says how many, a twentieth of them at most."""

CHUNK = 4096
"""Pairs that are read together."""


@dataclass(frozen=True)
class Held:
    """How many pairs each split has, by name, and how many were passed over since a line of theirs is not alone."""

    pairs: dict[str, int]
    passed: int


def language_of(path: Path) -> str:
    """What a file of text ends in, compression left out: ``fr`` for ``news.fr.gz``; nothing where it has no ending."""
    plain = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return plain.suffix.removeprefix(".")


def hold_out(
    corpus: TextCorpus,
    folder: Path,
    languages: tuple[str, str],
    *,
    valid: int | None = None,
    test: int | None = None,
    seed: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> Held:
    """Write ``train``, ``valid`` and ``test``, each ending in both ``languages``, into ``folder``; with 0 none of it.

    Where nobody says how many, a twentieth of the pairs is held out for ``valid`` and for ``test``, up to 1,000. What
    is in train is in the order of the corpus, blank sides and all, what is held out in the order in which it was drawn.
    ``progress`` is called with how many pairs were read so far; the corpus is read three times at least.

    Raises ConfigError for sizes that cannot be and for a folder that holds such files, DataError for a corpus that
    breaks its contract or has too few pairs of lines that stand in it once, NmtError where nothing can be written.
    """
    total = count_lines(corpus.source)
    usual = max(1, min(MOST, total // 20))
    sizes = {"test": usual if test is None else test, "valid": usual if valid is None else valid}
    wanted = sum(sizes.values())
    if min(sizes.values()) < 0 or seed < 0:
        raise ConfigError("how many pairs are held out, and the seed, are numbers from 0 on")
    if not wanted:
        raise ConfigError("nothing is to be held out: ask for some pairs with --valid or --test")
    paths = _paths(folder, languages, sizes)
    try:  # what cannot be written is found before the long reading
        folder.mkdir(parents=True, exist_ok=True)
        for both in paths.values():
            check_writable(both[0])
    except OSError as error:
        raise NmtError(f"{folder}: the corpus cannot be written: {error.strerror}") from error
    if wanted >= total:
        check_pairs(corpus)  # which may have something to say against the corpus
        raise DataError(f"{describe(corpus)}: {total:,} pairs are too few to hold {wanted:,} of them out")
    reading = _Reading(corpus, progress)
    chosen, passed = _choose(reading, total, wanted, np.random.Philox(seed))
    split_of = {row: "test" if place < sizes["test"] else "valid" for place, row in enumerate(chosen)}
    held: dict[int, Pair] = {}
    try:
        with ExitStack() as stack:
            streams = {split: [_writer(stack, path) for path in both] for split, both in paths.items()}

            def write(split: str, pair: Pair) -> None:
                for stream, side in zip(streams[split], (pair.source, pair.target), strict=True):
                    stream.write(side.encode() + b"\n")

            for row, pair in enumerate(reading.pairs()):
                if row in split_of:
                    held[row] = pair
                else:
                    write("train", pair)
            for row in chosen:
                write(split_of[row], held[row])
    except OSError as error:
        raise NmtError(f"{folder}: the corpus cannot be written: {error.strerror or error}") from error
    return Held({"train": total - wanted, "valid": sizes["valid"], "test": sizes["test"]}, passed)


class _Reading:
    """A corpus that is read several times; ``progress`` hears of all of it."""

    def __init__(self, corpus: TextCorpus, progress: Callable[[int], object]) -> None:
        self.corpus = corpus
        self._progress = progress
        self._done = 0

    def chunks(self) -> Iterator[tuple[list[str], list[str]]]:
        """The two sides of all pairs, some at a time."""
        for chunk in read_chunks(self.corpus, CHUNK):
            sides = chunk.lines()
            yield sides
            self._done += len(sides[0])
            self._progress(self._done)

    def pairs(self) -> Iterator[Pair]:
        """All pairs."""
        for source, target in self.chunks():
            yield from map(Pair, source, target)


def _choose(reading: _Reading, total: int, wanted: int, random: np.random.Philox) -> tuple[list[int], int]:
    """The rows of the first ``wanted`` pairs both of whose lines stand in the corpus once, and how many were passed.

    Raises DataError where there are not so many.
    """
    order, drawn = Permutation(total, random), min(total, 2 * wanted + 100)
    while True:
        rows = order(np.arange(drawn)).tolist()
        sources, targets = _counted(reading, set(rows))
        alone = [row for row in rows if row in sources and sources[row] == targets[row] == 1]
        if len(alone) >= wanted:
            chosen = alone[:wanted]
            return chosen, rows.index(chosen[-1]) + 1 - wanted
        if drawn == total:
            raise DataError(
                f"{describe(reading.corpus)}: of {total:,} pairs {len(alone):,} have lines that stand in it once, "
                f"{wanted:,} are to be held out: ask for fewer with --valid and --test"
            )
        drawn = min(total, 8 * drawn)


def _counted(reading: _Reading, rows: set[int]) -> tuple[dict[int, int], dict[int, int]]:
    """How often the source and the target line of each of these rows stand in the corpus; of blank ones nothing."""
    found: dict[int, Pair] = {}
    for row, pair in enumerate(reading.pairs()):
        if row in rows and not is_blank(pair.source) and not is_blank(pair.target):
            found[row] = pair
    sources, targets = {pair.source for pair in found.values()}, {pair.target for pair in found.values()}
    of_source, of_target = Counter[str](), Counter[str]()
    for source_lines, target_lines in reading.chunks():
        of_source.update(line for line in source_lines if line in sources)
        of_target.update(line for line in target_lines if line in targets)
    return (
        {row: of_source[pair.source] for row, pair in found.items()},
        {row: of_target[pair.target] for row, pair in found.items()},
    )


def _paths(folder: Path, languages: tuple[str, str], sizes: dict[str, int]) -> dict[str, list[Path]]:
    """The files to write, by split. Raises ConfigError where there are such already, compressed ones among them."""
    paths = {
        split: [folder / f"{split}.{language}" for language in languages]
        for split in SPLITS
        if split == "train" or sizes[split]
    }
    names = [*paths, *(VALID_NAMES if sizes["valid"] else ())]
    for name, language, ending in itertools.product(names, languages, ("", *COMPRESSIONS)):
        if (there := folder / f"{name}.{language}{ending}").exists():
            raise ConfigError(f"{there}: is there already: name another folder with --out")
    return paths


def _writer(stack: ExitStack, path: Path) -> BinaryIO:
    """A file that has its name when the stack is left, and is not there where that is by an error."""
    return stack.enter_context(stack.enter_context(written_whole(path)).open("wb"))
