"""Corpora of sentence pairs, whatever they are kept in: two text files, TSV, JSONL, TMX, or what ``datasets`` loads.

One reader a format, each a generator of :class:`Pair` in the corpus' own order, holding one pair at a time. Readers
keep every pair, blank sides too: what is dropped, and why, is :mod:`nmt.data.filters`' business. To add a format: a
class in :mod:`nmt.config`, a reader here and a case wherever formats are told apart.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from nmt.config import AnyCorpus, DataConfig, DatasetsCorpus, JsonlCorpus, TextCorpus, TmxCorpus, TsvCorpus
from nmt.data.text import COMPRESSIONS, OnBadBytes, check_file, count_lines, decode_block, read_blocks, read_lines
from nmt.data.tmx import read_tmx
from nmt.errors import ConfigError, DataError

__all__ = [
    "VALID_NAMES",
    "Chunk",
    "Pair",
    "PairStream",
    "check_files",
    "check_pairs",
    "describe",
    "digest_corpus",
    "files_of",
    "read_chunks",
    "read_eval_pairs",
    "read_pairs",
    "with_folder",
]

VALID_NAMES = ("valid", "validation", "val", "dev")


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation, raw text in one line each."""

    source: str
    target: str


def read_pairs(corpus: AnyCorpus, *, on_bad_bytes: OnBadBytes = "error") -> Iterator[Pair]:
    """All pairs of a corpus in order, blank sides included.

    ``on_bad_bytes`` is :func:`~nmt.data.text.read_lines`', for files that are read by lines.
    Raises DataError, with file and line, for text that breaks the contract: unequal line counts (both numbers are
    named, before the first pair), bytes that are not UTF-8, a column or field that is not there.
    """
    match corpus:
        case TextCorpus():
            return _read_text(corpus, on_bad_bytes)
        case TsvCorpus():
            return _read_tsv(corpus, on_bad_bytes)
        case JsonlCorpus():
            return _read_jsonl(corpus, on_bad_bytes)
        case TmxCorpus():
            return _read_tmx(corpus)
        case DatasetsCorpus():
            return _read_datasets(corpus)
        case _:
            assert_never(corpus)


def read_eval_pairs(corpus: AnyCorpus, *, on_bad_bytes: OnBadBytes = "error") -> list[Pair]:
    """All pairs of a validation or test set: never filtered, blank lines kept, so that line n is line n.

    Raises DataError as :func:`read_pairs` does, and for a set without any pair.
    """
    pairs = list(read_pairs(corpus, on_bad_bytes=on_bad_bytes))
    if not pairs:
        raise DataError(f"{describe(corpus)}: there are no sentence pairs in it")
    return pairs


@dataclass(frozen=True)
class Chunk:
    """Some pairs of a corpus as bytes, the first of them being number ``first``, from 1.

    A side is UTF-8, a sentence a line; where it is a file's, whose name is in ``names``, it is as the file has it.
    """

    source: bytes
    target: bytes
    first: int
    names: tuple[str, str] | None

    def lines(self) -> tuple[list[str], list[str]]:
        """The two sides. Raises DataError, with file and line, for bytes that are not UTF-8."""
        if self.names is None:
            source, target = (side.decode("utf-8").split("\n") for side in (self.source, self.target))
            return source, target
        source, target = (
            decode_block(side, name, self.first)
            for side, name in zip((self.source, self.target), self.names, strict=True)
        )
        return source, target


def read_chunks(corpus: AnyCorpus, size: int, start: int = 0) -> Iterator[Chunk]:
    """The pairs of :func:`read_pairs`, ``size`` at a time, from pair ``start`` on, counted from 0.

    Of text files the bytes are read and nothing else is done. Raises DataError as :func:`read_pairs` does.
    """
    if isinstance(corpus, TextCorpus):
        _check_counts(corpus)
        sides = (read_blocks(path, size, start) for path in (corpus.source, corpus.target))
        names = str(corpus.source), str(corpus.target)
        try:
            for number, (source, target) in enumerate(zip(*sides, strict=True)):
                yield Chunk(source, target, start + number * size + 1, names)
        except ValueError as error:  # they had as many lines a moment ago
            raise DataError(f"{describe(corpus)}: changed while they were read: begin again") from error
        return
    pairs = itertools.islice(read_pairs(corpus), start, None)
    while some := list(itertools.islice(pairs, size)):
        source, target = "\n".join(one.source for one in some), "\n".join(one.target for one in some)
        yield Chunk(source.encode(), target.encode(), start + 1, None)
        start += len(some)


def describe(corpus: AnyCorpus) -> str:
    """What messages call a corpus."""
    match corpus:
        case TextCorpus():
            return f"{corpus.source} and {corpus.target}"
        case TsvCorpus() | JsonlCorpus() | TmxCorpus():
            return str(corpus.path)
        case DatasetsCorpus():
            return f"{corpus.dataset} ({corpus.split})"
        case _:
            assert_never(corpus)


def files_of(corpus: AnyCorpus) -> tuple[Path, ...]:
    """The text files that a corpus is read from by lines; none of what ``datasets`` loads."""
    match corpus:
        case TextCorpus():
            return corpus.source, corpus.target
        case TsvCorpus() | JsonlCorpus() | TmxCorpus():
            return (corpus.path,)
        case DatasetsCorpus():
            return ()
        case _:
            assert_never(corpus)


def check_files(corpus: AnyCorpus) -> None:
    """Raise DataError for a file that cannot be read, or only once: a pipe."""
    for path in files_of(corpus):
        check_file(path)


def check_pairs(corpus: AnyCorpus) -> None:
    """Read all of a corpus, and raise DataError where it breaks its contract."""
    for _ in read_pairs(corpus):
        pass


def digest_corpus(corpus: AnyCorpus) -> str:
    """A hash of what a corpus holds and how it is read, the same wherever it lies.

    Local files count with their bytes. A data set from the hub counts with the fingerprint of ``datasets``; where it is
    streamed there is none, and it counts with its name, split and version. Raises DataError for what cannot be read.
    """
    match corpus:
        case TextCorpus():
            parts = [_digest_file(corpus.source), _digest_file(corpus.target)]
        case TsvCorpus() | JsonlCorpus() | TmxCorpus():
            parts = [_digest_file(corpus.path)]
        case DatasetsCorpus():
            parts = _digest_dataset(corpus)
        case _:
            assert_never(corpus)
    places = {"text": {"source", "target"}, "datasets": {"dataset"} if _is_local(corpus) else set[str]()}
    how = corpus.model_dump(mode="json", exclude={"weight", "path"} | places.get(corpus.format, set()))
    return hashlib.sha256(json.dumps([how, parts]).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    try:
        status = path.stat()
        return _digest_content(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


@functools.cache
def _digest_content(path: Path, size: int, changed: int) -> str:
    """The digest of a file, remembered while the file does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_local(corpus: AnyCorpus) -> bool:
    """Whether it is a data set that lies in files here."""
    return isinstance(corpus, DatasetsCorpus) and Path(corpus.dataset).exists()


def _digest_dataset(corpus: DatasetsCorpus) -> list[str]:
    path = Path(corpus.dataset)
    if _is_local(corpus):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        return [f"{file.relative_to(path)} {_digest_file(file)}" for file in files]
    rows = load_dataset(corpus)
    return [str(getattr(rows, "_fingerprint", rows.info.version))]


# ------------------------------------------------------------------------------------------------------------- readers


def _read_text(corpus: TextCorpus, on_bad_bytes: OnBadBytes) -> Iterator[Pair]:
    _check_counts(corpus)
    sides = (read_lines(path, on_bad_bytes=on_bad_bytes) for path in files_of(corpus))
    for source, target in zip(*sides, strict=True):
        yield Pair(source, target)


def _check_counts(corpus: TextCorpus) -> None:
    """Raise DataError where the two files have not as many lines."""
    counts = count_lines(corpus.source), count_lines(corpus.target)
    if counts[0] != counts[1]:
        raise DataError(
            f"{corpus.source} has {counts[0]} lines, {corpus.target} has {counts[1]}: they must pair up line by line"
        )


def _read_tsv(corpus: TsvCorpus, on_bad_bytes: OnBadBytes) -> Iterator[Pair]:
    """Columns are what stands between tabs, quotes being characters like any other, as in the field's corpora."""
    lines = read_lines(corpus.path, on_bad_bytes=on_bad_bytes)
    first = 1
    source, target = corpus.source, corpus.target
    if isinstance(source, str) or isinstance(target, str):
        names = next(lines, "").split("\t")
        first = 2
        source, target = _column(corpus.path, names, source), _column(corpus.path, names, target)
    for column in (source, target):
        if column < 1:
            raise ConfigError(f"{corpus.path}: there is no column {column}: columns are counted from 1")
    needed = max(source, target)
    for number, line in enumerate(lines, first):
        columns = line.split("\t")
        if len(columns) < needed:
            if not line.strip():
                yield Pair("", "")
                continue
            raise DataError(
                f"{corpus.path}:{number}: column {needed} is missing: the line has {len(columns)}, "
                f"columns being what stands between tabs"
            )
        yield Pair(columns[source - 1], columns[target - 1])


def _column(path: Path, names: list[str], column: int | str) -> int:
    """The number of a column given by number or by name, from 1."""
    if isinstance(column, int):
        return column
    if column not in names:
        raise DataError(f"{path}:1: there is no column {column!r}; the first line names {', '.join(map(repr, names))}")
    return names.index(column) + 1


def _read_jsonl(corpus: JsonlCorpus, on_bad_bytes: OnBadBytes) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(corpus.path, on_bad_bytes=on_bad_bytes), 1):
        where = f"{corpus.path}:{number}"
        if not line.strip():
            yield Pair("", "")
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        yield Pair(_field(record, corpus.source, where), _field(record, corpus.target, where))


def _read_tmx(corpus: TmxCorpus) -> Iterator[Pair]:
    for source, target in read_tmx(corpus.path, corpus.source, corpus.target):
        yield Pair(*(_one_line(text, "seg", str(corpus.path)) for text in (source, target)))


def _field(record: Any, name: str, where: str) -> str:
    """The text at ``name`` in a record, dots going down; null is blank.

    Raises DataError where there is none, where it is no text, and where no UTF-8 could hold it.
    """
    value = record
    if not (isinstance(value, Mapping) and name in value):
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                known = ", ".join(map(repr, value)) if isinstance(value, Mapping) else "no names"
                raise DataError(f"{where}: there is no {name!r}: {part!r} is not among {known}")
            value = value[part]
    else:
        value = value[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} is not text but {json.dumps(value, default=str)[:60]}")
    return _one_line(value, name, where)


def _one_line(text: str, name: str, where: str) -> str:
    """The text in one line: a sentence is a line everywhere else."""
    if "\n" in text or "\r" in text:
        text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start + 1} of {name!r} is half of a surrogate pair, which is no text"
            ) from error
    return text


# ------------------------------------------------------------------------------------------------------------ datasets


def _read_datasets(corpus: DatasetsCorpus) -> Iterator[Pair]:
    """The rows, read an Arrow table at a time; messages count rows from 1."""
    name = describe(corpus)
    rows = load_dataset(corpus)
    columns = rows.column_names
    wanted = []
    for column in (corpus.source, corpus.target):
        wanted.append(column if columns is None or column in columns else column.split(".")[0])
        if columns is not None and wanted[-1] not in columns:
            raise DataError(f"{name}: there is no column {column!r}; it has {', '.join(map(repr, columns))}")
    number = 0
    try:
        for table in rows.with_format("arrow").iter(batch_size=1000):
            for column in wanted:
                if column not in table.column_names:
                    raise DataError(f"{name}: there is no column {column!r}")
            for source, target in zip(*(_cells(table.column(column)) for column in wanted), strict=True):
                number += 1
                record = {wanted[0]: source, wanted[1]: target}
                where = f"{name}, row {number}"
                yield Pair(_field(record, corpus.source, where), _field(record, corpus.target, where))
    except _unreadable_rows() as error:
        raise DataError(f"{name}, after row {number}: cannot be read: {_first_line(error)}") from error


def _cells(column: Any) -> list[Any]:
    """What an Arrow column holds. Where rows of a JSON file are not of one form, ``datasets`` keeps parts of it as JSON
    text, which is read here.
    """
    cells: list[Any] = column.to_pylist()
    return [_parsed(cell, column.type) for cell in cells] if _JSON in str(column.type) else cells


_JSON = "arrow.json"
"""What Arrow calls JSON text among its types."""


def _parsed(cell: Any, kind: Any) -> Any:
    """A cell of an Arrow type with what is JSON text in it read."""
    if cell is None:
        return None
    if getattr(kind, "extension_name", None) == _JSON:
        return json.loads(cell)
    if isinstance(cell, Mapping):
        return {field.name: _parsed(cell[field.name], field.type) for field in kind}
    return cell


class PairStream:
    """The pairs of a data set as they come, from the place on whose ``mark`` is given; at the beginning without one.

    Raises ConfigError and DataError as :func:`load_dataset` does.
    """

    def __init__(self, corpus: DatasetsCorpus, mark: dict[str, Any] | None = None) -> None:
        rows = load_dataset(corpus)
        self._corpus, self._number = corpus, 0
        self._rows = rows if hasattr(rows, "load_state_dict") else rows.to_iterable_dataset()
        if mark is not None:
            self._number = int(mark["pairs"])
            self._rows.load_state_dict(mark["stream"])
        self._iterator = iter(self._rows)

    def read(self, number: int) -> list[Pair]:
        """The next pairs, so many or as many as there are left.

        Raises DataError, with the number of the row, for what cannot be read or has no such columns.
        """
        name, pairs = describe(self._corpus), []
        try:
            for record in itertools.islice(self._iterator, number):
                self._number += 1
                where = f"{name}, row {self._number}"
                pairs.append(Pair(*(_field(record, key, where) for key in (self._corpus.source, self._corpus.target))))
        except _unreadable_rows() as error:
            raise DataError(f"{name}, after row {self._number}: cannot be read: {_first_line(error)}") from error
        return pairs

    def mark(self) -> dict[str, Any]:
        """Where the stream stands, by the state that ``datasets`` has of it; ready for JSON."""
        return {"pairs": self._number, "stream": self._rows.state_dict()}


def load_dataset(corpus: DatasetsCorpus) -> Any:
    """The data set as ``datasets`` gives it: a hub id, a local folder or file, or what ``save_to_disk`` wrote.

    Raises ConfigError for one that is not there or has no such split, DataError for one that cannot be read.
    """
    import logging

    import datasets
    from datasets.packaged_modules.text.text import Text

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a server would be told that something is read, a local file too
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what fails is said by the error raised here, on one line
    try:
        if Path(corpus.dataset, "state.json").exists() or Path(corpus.dataset, "dataset_dict.json").exists():
            saved = datasets.load_from_disk(corpus.dataset)
            return saved[corpus.split] if isinstance(saved, datasets.DatasetDict) else saved
        path, options = _loader(corpus)
        builder = datasets.load_dataset_builder(path, corpus.name, **options)
        if isinstance(builder, Text):
            raise ConfigError(
                f"data set {corpus.dataset!r} is plain text, whose lines 'datasets' splits otherwise than at their "
                f"ends: read it with format = 'text'"
            )
        if hasattr(builder.config, "keep_default_na"):
            options["keep_default_na"] = False  # or the words NA, null, None and nan would be nothing at all
        try:
            return datasets.load_dataset(path, corpus.name, split=corpus.split, streaming=corpus.streaming, **options)
        except ValueError as error:
            if str(error).startswith(_NO_SPLIT):
                raise
            raise DataError(f"data set {corpus.dataset!r} cannot be read: {_first_line(error)}") from error
    except (FileNotFoundError, ConnectionError) as error:
        raise ConfigError(f"data set {corpus.dataset!r} cannot be found: {_first_line(error)}") from error
    except _unreadable() as error:
        raise DataError(f"data set {corpus.dataset!r} cannot be read: {_first_line(error)}") from error
    except (KeyError, ValueError) as error:
        raise ConfigError(f"data set {corpus.dataset!r} cannot be loaded: {_first_line(error)}") from error


_NO_SPLIT = ("Unknown split", "Bad split", "Unrecognized instruction format")
"""How ``datasets`` begins to say that a split is not there; what else it says of values is about those of the data."""

_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


def _loader(corpus: DatasetsCorpus) -> tuple[str, dict[str, Any]]:
    """What to ask ``datasets`` for: a file needs its format's name, a folder and a hub id are known by themselves."""
    path = Path(corpus.dataset)
    if not path.is_file():
        return corpus.dataset, {}
    if path.suffix not in _FORMATS:
        raise ConfigError(
            f"data set {path}: not one of {', '.join(_FORMATS)}, nor a folder, nor the name of a data set"
        )
    return _FORMATS[path.suffix], {"data_files": {corpus.split: str(path)}} | (
        {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}  # as _read_tsv has it
    )


def _unreadable() -> tuple[type[Exception], ...]:
    """What ``datasets`` raises for files that are damaged or not of one form."""
    import pyarrow
    from datasets.exceptions import DatasetGenerationError

    return DatasetGenerationError, pyarrow.ArrowException, UnicodeDecodeError


def _unreadable_rows() -> tuple[type[Exception], ...]:
    """What reading row by row raises for them besides: the errors of pandas and of JSON are of values.

    And those of files and of the network, which a data set that is streamed may break off with.
    """
    return (*_unreadable(), ValueError, OSError)


def _first_line(error: BaseException) -> str:
    """The reason, without the lines of advice and the wrapping around it."""
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return (str(cause) or type(cause).__name__).strip().splitlines()[0].rstrip(".")


# -------------------------------------------------------------------------------------------------------- a data folder


def with_folder(data: DataConfig, folder: Path) -> DataConfig:
    """The same recipe on the files of a folder: ``train``, ``valid`` and ``test``, ending in the two languages.

    ``train.en`` and ``train.de.gz`` pair up where the languages are ``en`` and ``de``; the validation set may be called
    validation, val or dev as well. What the folder lacks the recipe lacks too. Raises ConfigError where it has none of
    them, one without the other, or two that could be meant.
    """
    if not folder.is_dir():
        raise ConfigError(f"--data {folder}: there is no such folder")
    found = {name: _find(folder, names, data) for name, names in _SPLITS.items()}
    if not any(found.values()):
        there = " and ".join(f".{language}" for language in _languages(folder))
        raise ConfigError(
            f"--data {folder}: has no train, valid or test file ending in .{data.source} and .{data.target}, "
            f"the recipe's data.source and data.target"
            + (f"; those that it has end in {there}: --set data.source=... --set data.target=..." if there else "")
        )
    train = found.pop("train")
    return data.model_copy(update={"train": () if train is None else (train,), **found})


_SPLITS = {"train": ("train",), "valid": VALID_NAMES, "test": ("test",)}


def _languages(folder: Path) -> list[str]:
    """What the files of a folder that are called as those of a corpus end in, compression left out."""
    names = {name for names in _SPLITS.values() for name in names}
    parts = [file.name.split(".") for file in folder.iterdir()]
    return sorted({part[1] for part in parts if len(part) > 1 and part[0] in names})


def _find(folder: Path, names: tuple[str, ...], data: DataConfig) -> TextCorpus | None:
    """The two files of one split, or None."""
    found = []
    for language in (data.source, data.target):
        endings = ("", *COMPRESSIONS)
        files = [folder / f"{name}.{language}{ending}" for name in names for ending in endings]
        files = [file for file in files if file.exists()]
        if len(files) > 1:
            raise ConfigError(f"--data {folder}: both {files[0].name} and {files[1].name} are there; which is meant?")
        found += files
    if len(found) == 1:
        raise ConfigError(
            f"--data {folder}: {found[0].name} is there without its other side; "
            f"the languages are {data.source} and {data.target}"
        )
    return TextCorpus(source=found[0], target=found[1]) if found else None
