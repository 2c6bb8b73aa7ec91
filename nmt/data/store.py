"""Token ids on disk: tokenised once, memory-mapped ever after.

A store is a folder whose name is a hash of all that decides what is in it: the corpora's bytes, the tokenizers and the
filters. It holds, for each side::

    source.ids       every kept sentence's ids one after the other, uint16 or uint32
    source.offsets   int64, where each begins, and the end
    source.text      the same sentences as UTF-8, one after the other (subword sampling tokenises anew)
    source.places    int64, where each begins, and the end

and ``manifest.json``: sizes of the files, rows of each corpus, and what the filters dropped. It is written in one pass
over the corpora, a chunk in memory at a time, into a folder of another name, which is synced and renamed: a store that
has its name is whole. One whose files have not the sizes of its manifest is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nmt.config import DataConfig
from nmt.data.corpus import Pair, digest_corpus, read_pairs
from nmt.data.filters import FilterReport, Filters
from nmt.data.ragged import Numbers, Ragged
from nmt.data.text import count_lines
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.errors import DataError, NmtError

__all__ = ["CorpusRows", "Store", "prepare"]

FORMAT = 1
CHUNK = 4096
SIDES = ("source", "target")

Ids = npt.NDArray[np.unsignedinteger[Any]]
Progress = Callable[[int, int | None], None]


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
        digests: a hash of what each corpus held when the store was prepared.
    """

    def __init__(self, folder: Path, data: DataConfig, digests: Sequence[str] = ()) -> None:
        """Open the store in ``folder``. Raises DataError where its files are not what its manifest says."""
        self.folder = folder
        self.digests = list(digests)
        manifest = _read_manifest(folder)
        self.report = FilterReport(**manifest["report"])
        self.max_length = data.max_length
        self.corpora = _corpus_rows(manifest["rows"], [corpus.weight for corpus in data.train])
        self.source, self.target = (self._map(side, "ids", "offsets", manifest["types"][side]) for side in SIDES)
        self._texts = [self._map(side, "text", "places", "|u1") for side in SIDES]

    def _map(self, side: str, content: str, offsets: str, dtype: str) -> Ragged:
        flat = np.memmap(self.folder / f"{side}.{content}", dtype=np.dtype(dtype), mode="r")
        starts = np.memmap(self.folder / f"{side}.{offsets}", dtype=np.dtype("<i8"), mode="r")
        return Ragged(flat.view(np.ndarray), starts.view(np.ndarray))  # plain arrays are quicker to index

    def __len__(self) -> int:
        return len(self.source)

    @property
    def source_lengths(self) -> Numbers:
        """How many ids each source has."""
        return self.source.lengths

    @property
    def target_lengths(self) -> Numbers:
        """How many ids each target has."""
        return self.target.lengths

    def ids(self, row: int) -> tuple[Ids, Ids]:
        """The ids of a pair."""
        return self.source[row], self.target[row]

    def text(self, row: int) -> Pair:
        """The text of a pair, as the corpus has it."""
        return Pair(*(side[row].tobytes().decode() for side in self._texts))


def prepare(data: DataConfig, tokenizers: Tokenizers, folder: Path, *, progress: Progress | None = None) -> Store:
    """The training corpora as a store in ``folder``, made now unless one is there already.

    ``progress`` is called with the pairs read so far and, where it can be known, their number. Raises DataError for
    corpora that break their contract or of which the filters leave nothing, NmtError where ``folder`` cannot be
    written.
    """
    digests = [digest_corpus(corpus) for corpus in data.train]
    key = _key(data, tokenizers, digests)
    place = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{key}.lock"):
            with contextlib.suppress(DataError):
                return Store(place, data, digests)
            _build(place, data, tokenizers, progress)
    except OSError as error:
        raise NmtError(f"{folder}: token ids cannot be written there: {error.strerror or error}") from error
    return Store(place, data, digests)


def _key(data: DataConfig, tokenizers: Tokenizers, digests: Sequence[str]) -> str:
    """A name for all that decides what a store holds."""
    parts = {
        "format": FORMAT,
        "corpora": digests,
        "tokenizers": [tokenizers.source.digest, tokenizers.target.digest],
        "filters": [data.max_length, data.max_ratio, data.drop_duplicates],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _corpus_rows(counts: Sequence[int], weights: Sequence[float]) -> tuple[CorpusRows, ...]:
    stops = list(itertools.accumulate(counts))
    return tuple(
        CorpusRows(stop - count, stop, weight) for stop, count, weight in zip(stops, counts, weights, strict=True)
    )


# ------------------------------------------------------------------------------------------------------------- writing


class _Column:
    """A file of things of several bytes one after the other, and a file of where each begins."""

    def __init__(self, content: BinaryIO, offsets: BinaryIO) -> None:
        self._content, self._offsets = content, offsets
        self._end = 0
        offsets.write(np.zeros(1, dtype="<i8").tobytes())

    def write(self, content: bytes, lengths: Numbers) -> None:
        """Add things of ``lengths`` (in items, whatever their size), which are ``content`` together."""
        self._content.write(content)
        self._offsets.write((self._end + np.cumsum(lengths)).astype("<i8").tobytes())
        self._end += int(lengths.sum())


def _build(place: Path, data: DataConfig, tokenizers: Tokenizers, progress: Progress | None) -> None:
    """Write a store beside ``place`` and rename it to ``place``."""
    partial = place.with_name(f"{place.name}.partial")
    for old in (partial, place):
        if old.exists():
            shutil.rmtree(old)
    partial.mkdir()
    try:
        _write(partial, data, tokenizers, progress)
        partial.rename(place)
        _sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, data: DataConfig, tokenizers: Tokenizers, progress: Progress | None) -> None:
    filters = Filters(data)
    types = {"source": _id_type(tokenizers.source), "target": _id_type(tokenizers.target)}
    names = [f"{side}.{part}" for side in SIDES for part in ("ids", "offsets", "text", "places")]
    total = _total(data)
    rows = []
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in names}
        ids = {side: _Column(files[f"{side}.ids"], files[f"{side}.offsets"]) for side in SIDES}
        text = {side: _Column(files[f"{side}.text"], files[f"{side}.places"]) for side in SIDES}
        for corpus in data.train:
            before = filters.report.kept
            for chunk in _chunks(read_pairs(corpus)):
                for side, sentences, encoded in _encode(filters, chunk, tokenizers):
                    _write_ids(ids[side], encoded, types[side])
                    _write_text(text[side], sentences)
                if progress is not None:
                    progress(filters.report.read, total)
            rows.append(filters.report.kept - before)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if not filters.report.kept:
        raise DataError(f"data.train: nothing is left to train on; {filters.report.text()}")
    manifest = {
        "format": FORMAT,
        "files": {name: (folder / name).stat().st_size for name in names},
        "types": {side: types[side].str for side in SIDES},
        "rows": rows,
        "report": asdict(filters.report),
    }
    with (folder / "manifest.json").open("w", encoding="utf-8") as listing:
        json.dump(manifest, listing, indent=1)
        listing.flush()
        os.fsync(listing.fileno())
    _sync_folder(folder)


def _encode(
    filters: Filters, chunk: Sequence[Pair], tokenizers: Tokenizers
) -> Iterator[tuple[str, list[str], list[list[int]]]]:
    """For each side of the kept pairs of a chunk: its name, its sentences, their ids."""
    pairs = filters.before(chunk)
    sentences = {"source": [pair.source for pair in pairs], "target": [pair.target for pair in pairs]}
    ids = {
        "source": tokenizers.source.encode_batch(sentences["source"]),
        "target": tokenizers.target.encode_batch(sentences["target"]),
    }
    keep = filters.after(ids["source"], ids["target"])
    for side in SIDES:
        yield side, list(itertools.compress(sentences[side], keep)), list(itertools.compress(ids[side], keep))


def _write_ids(column: _Column, sentences: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> None:
    lengths = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
    flat = np.fromiter(itertools.chain.from_iterable(sentences), dtype=dtype, count=int(lengths.sum()))
    column.write(flat.tobytes(), lengths)


def _write_text(column: _Column, sentences: Sequence[str]) -> None:
    encoded = [sentence.encode() for sentence in sentences]
    column.write(b"".join(encoded), np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))


def _id_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(itertools.islice(pairs, CHUNK)):
        yield chunk


def _total(data: DataConfig) -> int | None:
    """The pairs of all corpora, where counting them is cheap."""
    counts = [count_lines(corpus.source) if corpus.format == "text" else None for corpus in data.train]
    return None if None in counts else sum(count for count in counts if count is not None)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Whoever comes second waits, and then finds the store there; a process that dies lets go of its lock."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------------------------------------------------- reading


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, if the files are as it says; DataError if not."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        if manifest["format"] == FORMAT and sizes == manifest["files"]:
            return manifest
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a whole store of token ids: {error}") from error
    raise DataError(f"{folder}: not a whole store of token ids: its files are not of the sizes they were written in")
