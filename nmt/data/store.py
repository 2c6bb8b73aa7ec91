"""Token ids on disk: tokenised once, memory-mapped ever after.

A store is a folder whose name is a hash of all that decides what is in it: the corpora's bytes, the tokenizers and the
filters, with the held-out sets whose lines they leave out. It holds, for each side::

    source.ids       every kept sentence's ids one after the other, uint16 or uint32
    source.offsets   int64, where each begins, and the end
    source.text      the same sentences as UTF-8, one after the other (subword sampling tokenises anew)
    source.places    int64, where each begins, and the end

and ``manifest.json``: sizes of the files, rows of each corpus, lengths, and what the filters dropped. It is written in
one pass over the corpora into a folder of another name (:mod:`nmt.data.writing`), which is synced and renamed: a store
that has its name is whole. One whose files have not the sizes of its manifest is made anew.

What is read of it is copied out and let go of, some rows at a time, so that memory does not grow with the corpus: the
system would count what is mapped as ours although it can take it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config import DataConfig
from nmt.data.corpus import Pair, digest_corpus
from nmt.data.filters import FilterReport
from nmt.data.ragged import Numbers, Ragged
from nmt.data.tokenizer import Tokenizers
from nmt.data.workers import processors
from nmt.data.writing import FORMAT, SIDES, Progress, build, read_manifest
from nmt.errors import DataError, NmtError
from nmt.files import lock

__all__ = ["CorpusRows", "Store", "name_of", "prepare"]

SLICE = 1024
"""Rows that are read together: at most 64 KiB are mapped for each, four times over."""

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class CorpusRows:
    """The rows ``start`` to ``stop`` (excluded) of a store came from one corpus, of this weight."""

    start: int
    stop: int
    weight: float


class Store:
    """Kept pairs by row: their ids without BOS and EOS, and their text.

    Attributes:
        source, target: the ids of all rows, memory-mapped.
        corpora: which rows came from which corpus, in the recipe's order.
        report: what the filters dropped.
        max_length: the recipe's limit on ids a side, 0 for none.
        longest: the most ids of a source and of a target.
        mean_length: the ids of the longer side of a pair, on average.
        digests: a hash of what each corpus held when the store was prepared.
    """

    def __init__(self, folder: Path, data: DataConfig, digests: Sequence[str] = ()) -> None:
        """Open the store in ``folder``. Raises DataError where its files are not what its manifest says."""
        self.folder = folder
        self.digests = list(digests)
        manifest = read_manifest(folder)
        self.report = FilterReport(**manifest["report"])
        self.max_length = data.max_length
        self.corpora = _corpus_rows(manifest["rows"], [corpus.weight for corpus in data.train])
        self._maps: list[mmap.mmap] = []
        self.source, self.target = (self._map(side, "ids", "offsets", manifest["types"][side]) for side in SIDES)
        self._texts = [self._map(side, "text", "places", "|u1") for side in SIDES]
        self.longest: tuple[int, int] = tuple(manifest["longest"])
        self.mean_length: float = manifest["longer"] / len(self)

    def _map(self, side: str, content: str, offsets: str, dtype: str) -> Ragged:
        return Ragged(self._mapped(f"{side}.{content}", dtype), self._mapped(f"{side}.{offsets}", "<i8"))

    def _mapped(self, name: str, dtype: str) -> npt.NDArray[Any]:
        with (self.folder / name).open("rb") as file:
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], dtype=np.dtype(dtype))

    def __len__(self) -> int:
        return len(self.source)

    def ids(self, row: int) -> tuple[Ids, Ids]:
        """The ids of a pair."""
        return self.source[row], self.target[row]

    def text(self, row: int) -> Pair:
        """The text of a pair, as the corpus has it."""
        return Pair(*(side[row].tobytes().decode() for side in self._texts))

    def take(self, rows: Numbers) -> tuple[Ragged, Ragged]:
        """The ids of some rows (R), in their order: R sources and R targets, copied."""
        order = np.argsort(rows, kind="stable")  # so that the files are read from front to back
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        parts = [(self.source.take(some), self.target.take(some)) for some in self._slices(rows[order])]
        source, target = (Ragged.joined(side).take(places) for side in zip(*parts, strict=True))
        return source, target

    def texts(self, rows: Numbers) -> Iterator[Pair]:
        """The text of some rows, in their order."""
        for some in self._slices(rows):
            yield from map(self.text, some.tolist())

    def _slices(self, rows: Numbers) -> Iterator[Numbers]:
        """Some rows at a time; what was mapped for them is let go of after."""
        for first in range(0, len(rows), SLICE):
            yield rows[first : first + SLICE]
            for one in self._maps:
                one.madvise(mmap.MADV_DONTNEED)


def prepare(
    data: DataConfig, tokenizers: Tokenizers, folder: Path, *, workers: int = 0, progress: Progress | None = None
) -> Store:
    """The training corpora as a store in ``folder``, made now unless one is there already.

    ``workers`` is how many processes work on a large one, 0 being as many as there are processors, 1 this one alone;
    what comes of it is the same. One that was stopped is gone on with. ``progress`` is called with the pairs read so
    far and, where it can be known, their number. Raises DataError for corpora that break their contract or of which
    the filters leave nothing, NmtError where ``folder`` cannot be written or a process ends before its time.
    """
    digests = [digest_corpus(corpus) for corpus in data.train]
    key = name_of(data, tokenizers, digests)
    place = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock"):
            with contextlib.suppress(DataError):
                return Store(place, data, digests)
            build(place, data, tokenizers, workers or processors(), progress)
    except OSError as error:
        raise NmtError(f"{folder}: token ids cannot be written there: {error.strerror or error}") from error
    return Store(place, data, digests)


def name_of(data: DataConfig, tokenizers: Tokenizers, digests: Sequence[str]) -> str:
    """A name for all that decides what a store holds; ``digests`` are those of the training corpora."""
    held_out = [one and digest_corpus(one) for one in (data.valid, data.test)] if data.drop_held_out else []
    parts = {
        "format": FORMAT,
        "corpora": digests,
        "tokenizers": [tokenizers.source.digest, tokenizers.target.digest],
        "filters": [data.max_length, data.max_ratio, data.drop_duplicates, *held_out],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _corpus_rows(counts: Sequence[int], weights: Sequence[float]) -> tuple[CorpusRows, ...]:
    stops = list(itertools.accumulate(counts))
    return tuple(
        CorpusRows(stop - count, stop, weight) for stop, count, weight in zip(stops, counts, weights, strict=True)
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Whoever comes second waits, and then finds the store there; a process that dies lets go of its lock.

    Raises NmtError on a file system that knows of no locks: two who made one store would spoil it.
    """
    with path.open("w") as file:
        try:
            lock(file, wait=True)
        except OSError as error:
            raise NmtError(
                f"{path.parent}: cannot be locked ({error.strerror}), as a place for token ids has to be: name one on "
                f"another disk with --store"
            ) from error
        yield
