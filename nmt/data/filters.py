"""Which pairs are kept for training, how many are not and why, and what of the held-out sets stands in training too.

Filters look at whole pairs: no side is ever dropped alone. Each pair dropped is counted under one reason, the first
that holds in the order of :data:`REASONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmt.config import DataConfig
from nmt.data.corpus import Chunk, Pair, describe, read_chunks, read_pairs
from nmt.data.ragged import Numbers
from nmt.errors import ConfigError

__all__ = [
    "REASONS",
    "FilterReport",
    "Filters",
    "HashSet",
    "HeldOutLines",
    "Overlap",
    "find_overlaps",
    "hash_texts",
    "is_blank",
    "judge",
]

REASONS = {
    "blank": "with a blank side",
    "duplicate": "seen before",
    "held_out": "sharing a line with data.valid or data.test",
    "length": "longer than data.max_length",
    "ratio": "beyond data.max_ratio",
}
"""The reasons for dropping a pair, and how a report puts them."""

CHUNK = 4096
"""Pairs of the training corpora that are looked at together for overlaps."""

_NUMBERS = {reason: number for number, reason in enumerate(REASONS, 1)}

Hashes = npt.NDArray[np.uint64]
Reasons = npt.NDArray[np.uint8]


@dataclass
class FilterReport:
    """How many pairs were read, and how many were dropped for each reason."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:  # one that was written down before may not know of every reason
        self.dropped = {**dict.fromkeys(REASONS, 0), **self.dropped}

    @property
    def kept(self) -> int:
        """How many pairs are left."""
        return self.read - sum(self.dropped.values())

    def text(self) -> str:
        """The report as one line for people."""
        dropped = [f"{count} {REASONS[reason]}" for reason, count in self.dropped.items() if count]
        return f"training pairs: {self.kept} of {self.read} kept" + (
            f", dropped {', '.join(dropped)}" if dropped else ""
        )


class Filters:
    """The filters of a recipe, applied to pairs a chunk at a time, in order; ``report`` counts as they go."""

    def __init__(self, data: DataConfig) -> None:
        self.report = FilterReport()
        self.seen = HashSet() if data.drop_duplicates else None

    def keep(self, read: int, reasons: Reasons, new: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Which of the pairs of a chunk are kept.

        Of ``read`` pairs those without a blank side are asked after: ``reasons`` is what :func:`judge` says of each,
        ``new`` says which of them were not seen before, where that is asked for (:meth:`HashSet.add`).
        """
        if new is not None:
            reasons = np.where(new, reasons, np.uint8(_NUMBERS["duplicate"]))
        self.report.read += read
        self.report.dropped["blank"] += read - len(reasons)
        counts = np.bincount(reasons, minlength=len(REASONS) + 1)
        for reason, number in _NUMBERS.items():
            self.report.dropped[reason] += int(counts[number])
        keep: npt.NDArray[np.bool_] = reasons == 0
        return keep


def judge(source: Numbers, target: Numbers, data: DataConfig, held_out: npt.NDArray[np.bool_] | None = None) -> Reasons:
    """Why each of some pairs, of so many tokens a side, is dropped: which of :data:`REASONS`, from 1, or 0 for none.

    ``held_out`` says of which a side is held out, where that is asked for (:class:`HeldOutLines`).
    """
    longer, shorter = np.maximum(source, target), np.minimum(source, target)
    reasons = np.zeros(len(source), dtype=np.uint8)
    if data.max_ratio:
        reasons[longer > data.max_ratio * shorter] = _NUMBERS["ratio"]
    if data.max_length:
        reasons[longer > data.max_length] = _NUMBERS["length"]
    if held_out is not None:
        reasons[held_out] = _NUMBERS["held_out"]
    reasons[shorter == 0] = _NUMBERS["blank"]  # a text of nothing but zero-width characters has no tokens
    return reasons


def is_blank(text: str) -> bool:
    """Whether there is nothing in a text but white space."""
    return not text or text.isspace()


# -------------------------------------------------------------------------------------------------------------- hashes


def hash_texts(texts: Iterable[bytes]) -> Hashes:
    """A 64-bit hash of each text; that any two of ten million agree by chance happens once in 370,000 times."""
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class HashSet:
    """A set of 64-bit numbers in 8 bytes each: sorted runs, merged whenever one is as long as the one before it."""

    def __init__(self, hashes: Hashes | None = None) -> None:
        """Begin with some numbers, no two of them equal."""
        self._runs: list[Hashes] = [] if hashes is None else [np.sort(hashes)]

    def add(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Put numbers in; True for each that was not there, the first of several equal ones counting as new."""
        unique, first = np.unique(hashes, return_index=True)
        fresh = ~self.contains(unique)
        new = np.zeros(len(hashes), dtype=np.bool_)
        new[first[fresh]] = True
        self._runs.append(unique[fresh])
        while len(self._runs) > 1 and len(self._runs[-1]) >= len(self._runs[-2]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()]), kind="stable"))
        return new

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of the numbers are there."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for run in self._runs:
            if len(run):
                place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
                found |= run[place] == hashes
        return found


# ------------------------------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True)
class Overlap:
    """What of a held-out set stands in the training corpora too: numbers of its lines, of ``total``.

    ``first`` is the number, from 1, of the first line that does.
    """

    split: str
    name: str
    total: int
    pairs: int
    sources: int
    targets: int
    first: int

    def text(self) -> str:
        """The finding as one line for people."""
        return (
            f"data.{self.split} ({self.name}): {self.pairs} of {self.total} pairs also stand in data.train, "
            f"and so do {self.sources} source and {self.targets} target lines (the first is line {self.first}); "
            f"scores on it will look better than they are; data.drop_held_out = true leaves pairs with such a line out "
            f"of a training"
        )


class HeldOutLines:
    """The lines of the validation and test sets, by side; blank ones are nobody's.

    Raises ConfigError where there is neither set, DataError as readers do.
    """

    def __init__(self, data: DataConfig) -> None:
        if data.valid is None and data.test is None:
            raise ConfigError(
                "data.drop_held_out: there is no data.valid and no data.test with lines to be left out: name one, "
                "or leave it out"
            )
        pairs = [pair for corpus in (data.valid, data.test) if corpus is not None for pair in read_pairs(corpus)]
        self.sources = frozenset(pair.source for pair in pairs if not is_blank(pair.source))
        self.targets = frozenset(pair.target for pair in pairs if not is_blank(pair.target))

    def have(self, sources: Sequence[str], targets: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Of which pairs a side is among them."""
        sides = zip(sources, targets, strict=True)
        found = (source in self.sources or target in self.targets for source, target in sides)
        return np.fromiter(found, dtype=np.bool_, count=len(sources))


def find_overlaps(data: DataConfig) -> list[Overlap]:
    """One :class:`Overlap` for each of the validation and test set that shares lines with training; blank lines apart.

    Reads the training corpora once and holds the held-out sets only. Raises DataError as the readers do.
    """
    held_out = [(split, corpus) for split, corpus in (("valid", data.valid), ("test", data.test)) if corpus is not None]
    sets = [list(read_pairs(corpus)) for _, corpus in held_out]
    wanted_sources = {pair.source for pairs in sets for pair in pairs if not is_blank(pair.source)}
    wanted_targets = {pair.target for pairs in sets for pair in pairs if not is_blank(pair.target)}
    sources: set[str] = set()
    targets: set[str] = set()
    both: set[Pair] = set()
    for chunk in _training_chunks(data) if held_out else ():
        source_lines, target_lines = chunk.lines()
        in_source, in_target = wanted_sources.intersection(source_lines), wanted_targets.intersection(target_lines)
        sources |= in_source
        targets |= in_target
        if in_source and in_target:
            lines = zip(source_lines, target_lines, strict=True)
            both.update(Pair(*pair) for pair in lines if pair[0] in in_source and pair[1] in in_target)
    found = []
    for (split, corpus), pairs in zip(held_out, sets, strict=True):
        hits = [n for n, pair in enumerate(pairs, 1) if pair.source in sources or pair.target in targets]
        if hits:
            found.append(
                Overlap(
                    split,
                    describe(corpus),
                    total=len(pairs),
                    pairs=sum(pair in both for pair in pairs),
                    sources=sum(pair.source in sources for pair in pairs),
                    targets=sum(pair.target in targets for pair in pairs),
                    first=hits[0],
                )
            )
    return found


def _training_chunks(data: DataConfig) -> Iterator[Chunk]:
    for corpus in data.train:
        yield from read_chunks(corpus, CHUNK)
