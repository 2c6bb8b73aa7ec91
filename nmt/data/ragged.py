"""Rows of unequal length in one flat array: how token ids lie on disk, in memory, and on their way into a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Numbers", "Ragged"]

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Rows one after the other in ``flat`` (memory-mapped or not); row i is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: npt.NDArray[Any]
    offsets: Numbers

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Plain sequences of ids as rows."""
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)), out=offsets[1:])
        flat = np.fromiter(itertools.chain.from_iterable(sequences), dtype=np.int64, count=int(offsets[-1]))
        return cls(flat, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        """One row, as a view."""
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Numbers:
        """The length of each row."""
        return np.diff(self.offsets)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of several, one after the other, copied."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(np.concatenate([part.flat for part in parts]), offsets)

    def select(self, keep: npt.NDArray[np.bool_]) -> Ragged:
        """The rows that are to be kept, copied."""
        lengths = self.lengths
        offsets = np.zeros(int(np.count_nonzero(keep)) + 1, dtype=np.int64)
        np.cumsum(lengths[keep], out=offsets[1:])
        return Ragged(self.flat[np.repeat(keep, lengths)], offsets)

    def take(self, rows: Numbers) -> Ragged:
        """The given rows in that order, copied."""
        starts = self.offsets[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        lengths = self.offsets[rows + 1] - starts
        np.cumsum(lengths, out=offsets[1:])
        return Ragged(self.flat[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets)

    def fill(self, value: int, *, extra: int = 0) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """All rows as one matrix filled up with ``value``, and its mask, True where an id stands.

        The matrix is ``extra`` columns wider than the longest row.
        """
        lengths = self.lengths
        mask = np.arange(int(np.max(lengths, initial=0)) + extra) < lengths[:, None]
        ids = np.full(mask.shape, value, dtype=np.int64)
        ids[mask] = self.flat
        return ids, mask
