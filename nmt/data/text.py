r"""Lines of text out of files and pipes, and into them.

A line ends at ``\n`` and nowhere else: U+2028, form feeds and lone carriage returns are characters like any other
(they would end a line for ``str.splitlines``, and the two files of a parallel corpus would fall out of step). One
carriage return before the ``\n`` is dropped, as is a byte order mark at the start of the file. Compressed files are
known by their first bytes, whatever they are called.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, Self, cast

import zstandard

from nmt.errors import DataError, NmtError
from nmt.files import lock

__all__ = [
    "COMPRESSIONS",
    "DAMAGED",
    "UNSPACED",
    "LineWriter",
    "OnBadBytes",
    "check_file",
    "count_lines",
    "decode_block",
    "decode_lines",
    "decompressed",
    "in_word",
    "open_binary",
    "read_blocks",
    "read_lines",
    "whole_lines",
]

OnBadBytes = Literal["error", "replace"]

STANDARD = Path("-")
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
"""The endings that :class:`LineWriter` compresses for, and that ``--data`` looks for."""

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: words stand without spaces."""


def in_word(character: str) -> bool:
    """Whether it is a letter, a digit or a mark on one, of a script that parts words by spaces."""
    is_part = character.isalnum() or (character != "" and unicodedata.category(character)[0] == "M")
    return is_part and not UNSPACED.match(character)


_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


def read_lines(path: Path, *, on_bad_bytes: OnBadBytes = "error") -> Iterator[str]:
    """The lines of a file, plain or compressed, without their ends; ``-`` is standard input.

    ``on_bad_bytes`` says what becomes of bytes that are not UTF-8: an error, or U+FFFD. Raises DataError for a file
    that cannot be read, names file, line and byte for bytes that are not UTF-8, and ends no truncated archive quietly.
    """
    with open_binary(path) as stream:
        yield from decode_lines(stream, _name(path), on_bad_bytes=on_bad_bytes)


def decode_lines(stream: BinaryIO, name: str, *, on_bad_bytes: OnBadBytes = "error") -> Iterator[str]:
    """The lines of a stream of bytes, each as soon as it is whole; ``name`` stands for the stream in messages.

    Raises DataError as :func:`read_lines` does.
    """
    number = 0
    try:
        for number, line in enumerate(stream, 1):
            yield _decode(line, name, number, on_bad_bytes)
    except DAMAGED as error:
        raise DataError(f"{name}:{number + 1}: the compressed file is damaged or cut short: {error}") from error


def read_blocks(path: Path, size: int, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, plain or decompressed, ``size`` lines at a time, from line ``start`` on, counted from 0.

    :func:`decode_block` makes lines of them. Raises DataError as :func:`read_lines` does, but for what is no UTF-8.
    """
    number = start
    try:
        with open_binary(path) as stream:
            for _ in itertools.islice(stream, start):
                pass
            while block := b"".join(itertools.islice(stream, size)):
                yield block
                number += size
    except DAMAGED as error:
        raise DataError(f"{path}:{number + 1}: the compressed file is damaged or cut short: {error}") from error


def decode_block(block: bytes, name: str, number: int) -> list[str]:
    """The lines of a block of :func:`read_blocks` that begins with line ``number`` of a file, counted from 1.

    Raises DataError, with file, line and byte, for bytes that are not UTF-8.
    """
    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = []
    if not lines or b"\r" in block or (number == 1 and block.startswith(_MARK)):
        return [_decode(line, name, n, "error") for n, line in enumerate(io.BytesIO(block), number)]
    return lines[:-1] if block.endswith(b"\n") else lines


def _decode(line: bytes, name: str, number: int, on_bad_bytes: OnBadBytes) -> str:
    """One line without its end, and without the mark if it is the first."""
    start = len(_MARK) if number == 1 and line.startswith(_MARK) else 0
    end = len(line)
    if end > start and line[end - 1] == 10:
        end -= 1
    if end > start and line[end - 1] == 13:
        end -= 1
    content = line[start:end]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if on_bad_bytes == "replace":
            return content.decode("utf-8", "replace")
        place = start + error.start
        raise DataError(
            f"{name}:{number}: byte {place + 1} is not UTF-8: 0x{line[place]:02x} ({error.reason}); "
            f"convert the text to UTF-8"
        ) from error


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that was perhaps cut short, ends and all: those that have an end, as far as can be read.

    Raises DataError for a file that cannot be opened.
    """
    with open_binary(path) as stream, contextlib.suppress(*DAMAGED):
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def count_lines(path: Path) -> int:
    """The number of lines of a file, a last one without its end counted; remembered while the file does not change.

    Raises DataError for a file that cannot be read or is damaged.
    """
    status = check_file(path)
    return _count_lines(path, status.st_size, status.st_mtime_ns)


def check_file(path: Path) -> os.stat_result:
    """What the system says of a file. Raises DataError for what cannot be read, or not more than once."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is not a file; a corpus is read more than once, which pipes and folders cannot be")
    return status


@functools.lru_cache(maxsize=256)
def _count_lines(path: Path, size: int, changed: int) -> int:
    lines, last = 0, b"\n"
    try:
        with open_binary(path) as stream:
            while chunk := stream.read(_CHUNK):
                lines += chunk.count(b"\n")
                last = chunk[-1:]
    except DAMAGED as error:
        raise DataError(f"{path}:{lines + 1}: the compressed file is damaged or cut short: {error}") from error
    return lines + (last != b"\n")


# ---------------------------------------------------------------------------------------------------------- compression

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What the decompressors raise for files that are not what they began as; bz2's OSError is turned into EOFError."""


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where its first bytes say so; ``-`` is standard input, which stays open.

    Raises DataError for a file that cannot be opened; reading may raise EOFError and its like for damaged archives.
    """
    if path == STANDARD:
        yield decompressed(cast(io.BufferedReader, sys.stdin.buffer))
        return
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not a file")
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        yield decompressed(raw)


def decompressed(raw: io.BufferedReader) -> BinaryIO:
    """The stream as it is, or what is compressed in it: its first bytes say which."""
    start = raw.peek(_LONGEST_START)[:_LONGEST_START] if hasattr(raw, "peek") else b""
    if _may_begin(start):  # as much of it as a pipe has so far
        start = raw.read(len(start))
        while _may_begin(start) and (more := raw.read1(1)):
            start += more
        raw = io.BufferedReader(_Again(start, raw))
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    frames: _Frames | None = None
    if start.startswith(_XZ):
        frames = _Frames(raw, lzma.LZMADecompressor, padding=b"\0")
    elif start.startswith(b"BZh") and start[4:10] in _BZIP:
        frames = _Frames(raw, bz2.BZ2Decompressor)
    elif start[:4] in _ZSTANDARD:
        frames = _Frames(raw, _Zstandard)
    return raw if frames is None else cast(BinaryIO, io.BufferedReader(frames, _CHUNK))


_XZ = b"\xfd7zXZ\x00"
_BZIP = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
"""What follows ``BZh`` and a digit: the first block, or the end of nothing at all."""
_ZSTANDARD = (b"\x28\xb5\x2f\xfd", *(bytes((first, 0x2A, 0x4D, 0x18)) for first in range(0x50, 0x60)))
"""A frame, or one that is there to be skipped, as pzstd begins with."""
_STARTS = (b"\x1f\x8b", _XZ, *_ZSTANDARD, *(b"BZh%d" % level + block for level in range(1, 10) for block in _BZIP))
_LONGEST_START = max(map(len, _STARTS))


def _may_begin(start: bytes) -> bool:
    """Whether what has been read is the beginning of how something compressed begins, and no more than that."""
    return start != b"" and any(len(start) < len(one) and one.startswith(start) for one in _STARTS)


class _Again(io.RawIOBase):
    """A stream whose first bytes, which were read to see what it is, are still to come."""

    def __init__(self, start: bytes, rest: io.BufferedReader) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        made = self._start[: len(buffer)] or self._rest.read1(len(buffer))
        self._start = self._start[len(made) :]
        buffer[: len(made)] = made
        return len(made)


class _Decompressor(Protocol):
    """What reads one frame, as :mod:`bz2` and :mod:`lzma` have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zstandard:
    """One frame of zstandard, in the same form; it gives all that it has at once."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._frame.decompress(data)


_LARGEST_WINDOW = 2**31
"""What ``zstd --long=31`` looks back, the most there is."""


class _Frames(io.RawIOBase):
    """What is compressed in frames that stand one behind the other, with nothing but ``padding`` in between.

    Every one of them has to be whole. Python's own readers take a second one that is damaged, and zstandard's one that
    is cut short, for the end of the file.
    """

    def __init__(self, raw: BinaryIO, begin: Callable[[], _Decompressor], *, padding: bytes = b"") -> None:
        self._raw, self._begin, self._padding = raw, begin, padding
        self._frame: _Decompressor | None = None
        self._pending = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            if self._frame is None or self._frame.needs_input:
                chunk, self._pending = self._pending or self._raw.read(_CHUNK // 8), b""
                if not chunk and self._frame is not None:
                    raise EOFError("its last part is not complete")
                if not chunk:
                    return 0
                if self._frame is None:
                    chunk = chunk.lstrip(self._padding) if self._padding else chunk
                    if not chunk:
                        continue
                    self._frame = self._begin()
            else:
                chunk = b""
            try:
                self._output = memoryview(self._frame.decompress(chunk, _CHUNK))
            except OSError as error:  # what bz2 says of bad data, as if the system had failed
                raise EOFError(str(error)) from error
            if self._frame.eof:
                self._pending, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


# --------------------------------------------------------------------------------------------------------------- output


def _held(path: Path, name: Path) -> BinaryIO:
    """A file open for writing at its end, as it is; a regular one is nobody else's until it is closed.

    Raises NmtError where another writer holds it, OSError where it cannot be opened.
    """
    while True:
        raw = path.open("ab")
        try:
            if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
                return raw
            try:
                lock(raw)
            except BlockingIOError as error:
                raise NmtError(f"{name}: another command is writing it: wait for that, or name another file") from error
            except OSError:  # nobody can have it to himself here
                return raw
            if path.exists() and os.path.samestat(path.stat(), os.fstat(raw.fileno())):
                return raw
        except BaseException:
            raw.close()
            raise
        raw.close()  # whoever held it has given it its name meanwhile


class LineWriter:
    """Writes lines of UTF-8 to a file, compressed as its ending says, or to stdout, where each appears at once."""

    def __init__(self, stream: BinaryIO, below: BinaryIO | None, name: Path) -> None:
        """Write to ``stream``; ``below`` is the file under a compressing stream, closed with it."""
        self._stream, self._below, self._name = stream, below, name
        self._standard = name == STANDARD

    @classmethod
    def open(cls, path: Path, *, name: Path | None = None, append: bool = False) -> LineWriter:
        """A writer to ``path``; ``-`` is stdout.

        ``name`` is what the file will be called in the end: its ending says how it is compressed, and messages name it.
        ``append`` goes on behind what a plain file has. Raises NmtError where the file cannot be written, or where
        another writer is at it.
        """
        if path == STANDARD:
            return cls(sys.stdout.buffer, None, path)
        name = name or path
        try:
            raw = _held(path, name)
            if not append and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
                raw.truncate(0)
        except OSError as error:
            raise NmtError(f"{name}: cannot be written: {error.strerror}") from error
        compress: dict[str, Callable[[BinaryIO], object]] = {
            ".gz": lambda raw: gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0),
            ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
            ".xz": lambda raw: lzma.LZMAFile(raw, "wb"),  # noqa: SIM115
            ".zst": lambda raw: zstandard.ZstdCompressor(write_checksum=True).stream_writer(raw, closefd=False),
        }
        if name.suffix not in compress:
            return cls(raw, None, name)
        return cls(cast(BinaryIO, compress[name.suffix](raw)), raw, name)

    def write(self, line: str) -> None:
        """Write one line; its end is added. Raises NmtError for a full disk, OSError where stdout fails."""
        self._do(lambda: self._stream.write(line.encode("utf-8") + b"\n"))
        if self._standard:
            self._stream.flush()

    def flush(self) -> None:
        """Have what was written seen by others. Raises as :meth:`write` does."""
        self._do(self._stream.flush)
        if self._below is not None:
            self._do(self._below.flush)

    def close(self) -> None:
        """Write what is left and close the file; stdout stays open. Raises as :meth:`write` does."""
        if self._standard:
            self._stream.flush()
            return
        try:
            self._do(self._stream.close)
        finally:
            if self._below is not None:
                self._do(self._below.close)

    def _do(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BrokenPipeError:
            raise  # whoever read it has left, and that is no fault
        except OSError as error:
            if self._standard:
                error.filename = "standard output"  # which is where it happened, and what is said of it
                raise
            raise NmtError(f"{self._name}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _name(path: Path) -> str:
    """What messages call a file."""
    return "stdin" if path == STANDARD else str(path)
