"""Which pairs are kept for training, how many are not and why, and what of the held-out sets stands in training too.

Filters look at whole pairs: no side is ever dropped alone. Each pair dropped is counted under one reason, the first
that holds in the order of :data:`REASONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmt.config import DataConfig
from nmt.data.corpus import Pair, describe, read_pairs

__all__ = ["REASONS", "FilterReport", "Filters", "Overlap", "find_overlaps"]

REASONS = {
    "blank": "with a blank side",
    "duplicate": "seen before",
    "length": "longer than data.max_length",
    "ratio": "beyond data.max_ratio",
}
"""The reasons for dropping a pair, and how a report puts them."""

Ids = Sequence[int]
Hashes = npt.NDArray[np.uint64]


@dataclass
class FilterReport:
    """How many pairs were read, and how many were dropped for each reason."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))

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
    """The filters of a recipe, applied to pairs a chunk at a time; ``report`` counts as they go."""

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self.report = FilterReport()
        self._seen = HashSet()

    def before(self, pairs: Sequence[Pair]) -> list[Pair]:
        """What is left of some pairs by the filters that look at text: blank sides and duplicates."""
        self.report.read += len(pairs)
        real = [pair for pair in pairs if not _is_blank(pair.source) and not _is_blank(pair.target)]
        self.report.dropped["blank"] += len(pairs) - len(real)
        if not self.data.drop_duplicates or not real:
            return real
        new = self._seen.add(hash_texts([f"{pair.source}\n{pair.target}" for pair in real]))
        self.report.dropped["duplicate"] += len(real) - int(new.sum())
        return [pair for pair, is_new in zip(real, new, strict=True) if is_new]

    def after(self, source: Sequence[Ids], target: Sequence[Ids]) -> npt.NDArray[np.bool_]:
        """Which of some tokenised pairs are kept by the filters that count tokens."""
        source_lengths = np.fromiter(map(len, source), dtype=np.int64, count=len(source))
        target_lengths = np.fromiter(map(len, target), dtype=np.int64, count=len(target))
        longer = np.maximum(source_lengths, target_lengths)
        shorter = np.minimum(source_lengths, target_lengths)
        keep = shorter > 0  # a text of nothing but zero-width characters has no tokens
        self.report.dropped["blank"] += int((~keep).sum())
        if self.data.max_length:
            keep = self._drop(keep, longer > self.data.max_length, "length")
        if self.data.max_ratio:
            keep = self._drop(keep, longer > self.data.max_ratio * shorter, "ratio")
        return keep

    def _drop(self, keep: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_], reason: str) -> npt.NDArray[np.bool_]:
        self.report.dropped[reason] += int((keep & bad).sum())
        return keep & ~bad


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


# -------------------------------------------------------------------------------------------------------------- hashes


def hash_texts(texts: Sequence[str]) -> Hashes:
    """A 64-bit hash of each text; that any two of ten million agree by chance happens once in 370,000 times."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class HashSet:
    """A set of 64-bit numbers in 8 bytes each: sorted runs, merged whenever one is as long as the one before it."""

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

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
            f"scores on it will look better than they are"
        )


def find_overlaps(data: DataConfig) -> list[Overlap]:
    """One :class:`Overlap` for each of the validation and test set that shares lines with training; blank lines apart.

    Reads the training corpora once and holds the held-out sets only. Raises DataError as the readers do.
    """
    held_out = [(split, corpus) for split, corpus in (("valid", data.valid), ("test", data.test)) if corpus is not None]
    sets = [list(read_pairs(corpus)) for _, corpus in held_out]
    wanted_sources = {pair.source for pairs in sets for pair in pairs if not _is_blank(pair.source)}
    wanted_targets = {pair.target for pairs in sets for pair in pairs if not _is_blank(pair.target)}
    sources: set[str] = set()
    targets: set[str] = set()
    both: set[Pair] = set()
    for pair in _training_pairs(data) if held_out else ():
        in_source, in_target = pair.source in wanted_sources, pair.target in wanted_targets
        if in_source:
            sources.add(pair.source)
        if in_target:
            targets.add(pair.target)
        if in_source and in_target:
            both.add(pair)
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


def _training_pairs(data: DataConfig) -> Iterator[Pair]:
    for corpus in data.train:
        yield from read_pairs(corpus)
