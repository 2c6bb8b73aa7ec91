"""Writing a store, so that what was done is not done again: a part at a time, with a journal.

The files of a store grow in a folder of another name. After every :data:`PART` pairs they are synced, and a journal is
written that says how long each is and how far the corpora are read. Whoever finds such a folder cuts its files to the
lengths of its journal and goes on from there: the store comes out the same, byte for byte. Where a corpus breaks its
contract the folder is removed, as it is where no part of it was ever finished.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nmt.config import DataConfig
from nmt.data.corpus import Chunk, read_chunks
from nmt.data.filters import FilterReport, Filters, HashSet
from nmt.data.preparing import Prepared, Preparer
from nmt.data.ragged import Ragged
from nmt.data.text import count_lines
from nmt.data.tokenizer import Tokenizers
from nmt.data.workers import Workers
from nmt.errors import DataError

__all__ = ["FORMAT", "SIDES", "Progress", "build", "read_manifest", "write_whole"]

FORMAT = 2
CHUNK = 4096
"""Pairs that are worked on together."""

PART = 64 * CHUNK
"""Pairs after which what is done is safe."""

FEW = 8 * CHUNK
"""So many pairs are prepared in less time than it takes to start other processes for them."""

SIDES = ("source", "target")
COLUMNS = [f"{side}.{part}" for side in SIDES for part in ("ids", "offsets", "text", "places")]
SEEN = "seen"
"""The hashes of the pairs so far, where duplicates are dropped; no part of the store."""

Progress = Callable[[int, int | None], None]


def build(
    place: Path, data: DataConfig, tokenizers: Tokenizers, workers: int, progress: Progress | None = None
) -> None:
    """Write a store beside ``place``, or go on with one that stands there, and rename it to ``place``.

    ``workers`` is how many processes work on it; 1 is this one alone. Raises DataError for corpora that break their
    contract or of which the filters leave nothing, OSError where files cannot be written.
    """
    partial = place.with_name(f"{place.name}.partial")
    if place.exists():
        shutil.rmtree(place)
    partial.mkdir(exist_ok=True)
    try:
        if not (partial / "manifest.json").exists():  # it is the last to be written
            _write(partial, data, tokenizers, workers, progress)
        for name in (SEEN, "journal.json", "journal.json.partial"):
            (partial / name).unlink(missing_ok=True)
        partial.rename(place)
        _sync_folder(place.parent)
    except BaseException as error:
        if isinstance(error, DataError) or not (partial / "journal.json").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


@dataclass
class _Journal:
    """How far a store is: in which corpus, and how many of its pairs are read; what has come of them so far.

    ``rows`` are the pairs kept of each corpus, ``longest`` the most ids of a kept sentence a side, ``longer`` the ids
    of the longer sides of all kept pairs.
    """

    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COLUMNS, SEEN), 0))
    corpus: int = 0
    pairs: int = 0
    rows: list[int] = field(default_factory=list)
    longest: list[int] = field(default_factory=lambda: [0, 0])
    longer: int = 0
    report: dict[str, Any] = field(default_factory=lambda: asdict(FilterReport()))

    @classmethod
    def read(cls, folder: Path, corpora: int) -> _Journal:
        """The journal in a folder, one that begins where there is none or its files are not as long as it says."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = cls(**json.loads((folder / "journal.json").read_text(encoding="utf-8")))
            if all((folder / name).stat().st_size >= size for name, size in found.sizes.items()):
                return found
        (folder / "journal.json").unlink(missing_ok=True)
        return cls(rows=[0] * corpora)


class _Column:
    """A file of things of several bytes one after the other, and a file of where each begins."""

    def __init__(self, content: BinaryIO, offsets: BinaryIO, itemsize: int) -> None:
        self._content, self._offsets = content, offsets
        self._end = content.tell() // itemsize
        if not offsets.tell():
            offsets.write(np.zeros(1, dtype="<i8").tobytes())

    def write(self, things: Ragged) -> None:
        """Add some things."""
        self._content.write(things.flat.data)
        self._offsets.write((self._end + things.offsets[1:]).astype("<i8").tobytes())
        self._end += int(things.offsets[-1])


class _Writer:
    """The files of a store that is being written, and its journal."""

    def __init__(self, folder: Path, data: DataConfig, tokenizers: Tokenizers, files: contextlib.ExitStack) -> None:
        self.folder = folder
        self.journal = _Journal.read(folder, len(data.train))
        self.filters = Filters(data)
        self.filters.report = FilterReport(**self.journal.report)
        self.types = {"source": tokenizers.source.id_type, "target": tokenizers.target.id_type}
        self._files = {name: files.enter_context(self._at_end(name)) for name in self.journal.sizes}
        self._ids = [
            _Column(self._files[f"{side}.ids"], self._files[f"{side}.offsets"], self.types[side].itemsize)
            for side in SIDES
        ]
        self._texts = [_Column(self._files[f"{side}.text"], self._files[f"{side}.places"], 1) for side in SIDES]
        if self.filters.seen is not None:
            self.filters.seen = HashSet(np.fromfile(folder / SEEN, dtype=np.uint64))
        self._since = 0

    @contextlib.contextmanager
    def _at_end(self, name: str) -> Iterator[BinaryIO]:
        """A file, cut to what the journal says is safe, to be written on."""
        path = self.folder / name
        path.touch()
        with path.open("r+b") as file:
            file.truncate(self.journal.sizes[name])
            file.seek(0, os.SEEK_END)
            yield file

    def add(self, corpus: int, one: Prepared) -> None:
        """Write what is kept of a chunk."""
        journal = self.journal
        new = None
        if self.filters.seen is not None:
            new = self.filters.seen.add(one.hashes)
            self._files[SEEN].write(one.hashes[new].tobytes())
        keep = self.filters.keep(one.read, one.reasons, new)
        columns = [one.source_ids, one.target_ids, one.source_text, one.target_text]
        if not keep.all():
            columns = [column.select(keep) for column in columns]
        for column, things in zip((*self._ids, *self._texts), columns, strict=True):
            column.write(things)
        source, target = (ids.lengths for ids in columns[:2])
        longest = zip((source, target), journal.longest, strict=True)
        journal.longest = [int(lengths.max(initial=most)) for lengths, most in longest]
        journal.longer += int(np.maximum(source, target).sum())
        journal.rows[corpus] += int(np.count_nonzero(keep))
        journal.pairs = one.read + (journal.pairs if corpus == journal.corpus else 0)
        journal.corpus = corpus
        self._since += one.read
        if self._since >= PART:
            self._finish_part()

    def _finish_part(self) -> None:
        self.sync()
        self.journal.report = asdict(self.filters.report)
        write_whole(self.folder / "journal.json", json.dumps(asdict(self.journal)).encode())
        self._since = 0

    def sync(self) -> None:
        """Have on the disk what was written so far."""
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            self.journal.sizes[name] = file.tell()


def _write(folder: Path, data: DataConfig, tokenizers: Tokenizers, workers: int, progress: Progress | None) -> None:
    """Write the files of a store into ``folder``, from where its journal stands."""
    total = _total(data)
    with contextlib.ExitStack() as stack:
        writer = _Writer(folder, data, tokenizers, stack)
        report = writer.filters.report
        chunks = _chunks(data, writer.journal.corpus, writer.journal.pairs)
        for corpus, one in stack.enter_context(contextlib.closing(_prepared(chunks, data, tokenizers, workers))):
            writer.add(corpus, one)
            if progress is not None:
                progress(report.read, total)
        writer.sync()
    if not report.kept:
        raise DataError(f"data.train: nothing is left to train on; {report.text()}")
    journal = writer.journal
    manifest = {
        "format": FORMAT,
        "files": {name: journal.sizes[name] for name in COLUMNS},
        "types": {side: writer.types[side].str for side in SIDES},
        "rows": journal.rows,
        "longest": journal.longest,
        "longer": journal.longer,
        "report": asdict(report),
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _chunks(data: DataConfig, first: int, start: int) -> Iterator[tuple[int, Chunk]]:
    """The chunks of all corpora from pair ``start`` of corpus ``first`` on, each with its corpus's number."""
    for number, corpus in enumerate(data.train[first:], first):
        for chunk in read_chunks(corpus, CHUNK, start):
            yield number, chunk
        start = 0


def _prepared(
    chunks: Iterator[tuple[int, Chunk]], data: DataConfig, tokenizers: Tokenizers, workers: int
) -> Generator[tuple[int, Prepared], None, None]:
    """The chunks prepared, in order, by other processes where there are enough of them to be worth it."""
    head = list(itertools.islice(chunks, FEW // CHUNK)) if workers > 1 else []
    if workers > 1 and len(head) == FEW // CHUNK:
        with Workers(workers, data, tokenizers) as pool:
            yield from pool.map(itertools.chain(head, chunks))
        return
    preparer = Preparer(data, tokenizers)
    for corpus, chunk in itertools.chain(head, chunks):
        yield corpus, preparer(chunk)


def _total(data: DataConfig) -> int | None:
    """The pairs of all corpora, where counting them is cheap."""
    counts = [count_lines(corpus.source) if corpus.format == "text" else None for corpus in data.train]
    return None if None in counts else sum(count for count in counts if count is not None)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store. Raises DataError where its files are not as it says."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        if manifest["format"] == FORMAT and sizes == manifest["files"]:
            return manifest
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a whole store of token ids: {error}") from error
    raise DataError(f"{folder}: not a whole store of token ids: its files are not of the sizes they were written in")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, and is on the disk when this returns."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
