"""Lines in and out: what ends a line, what is text, and archives that are whole."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nmt.data.text import LineWriter, count_lines, decode_lines, decompressed, read_lines
from nmt.errors import DataError, NmtError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
ODD = "\ufeffone\r\ntwo\x0b\x0c\x1c\x85\u2028still two\n\nlone\rreturn\nno end"
LINES = ["one", "two\x0b\x0c\x1c\x85\u2028still two", "", "lone\rreturn", "no end"]


def write(folder: Path, content: bytes, name: str = "text") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_line_ends_at_newline_only(tmp_path: Path) -> None:
    path = write(tmp_path, ODD.encode())
    assert list(read_lines(path)) == LINES
    assert count_lines(path) == 5


@pytest.mark.parametrize("ending", COMPRESS)
def test_archives_are_known_by_their_bytes(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path, COMPRESS[ending](ODD.encode()), "no-ending")
    assert list(read_lines(path)) == LINES
    assert count_lines(path) == 5


@pytest.mark.parametrize("ending", COMPRESS)
def test_archives_of_several_parts_and_of_nothing(tmp_path: Path, ending: str) -> None:
    compress = COMPRESS[ending]
    assert list(read_lines(write(tmp_path, compress(b"a\nb") + compress(b"c\n")))) == ["a", "bc"]
    assert list(read_lines(write(tmp_path, compress(b"")))) == []


@pytest.mark.parametrize("ending", COMPRESS)
def test_no_truncated_archive_passes_for_whole(tmp_path: Path, ending: str) -> None:
    packed = COMPRESS[ending]("".join(f"line {n * 7919}\n" for n in range(300)).encode())
    for kept in (len(packed) - 1, len(packed) - 5, len(packed) // 2, 11):
        path = write(tmp_path, packed[:kept])
        with pytest.raises(DataError, match=r"text:\d+: the compressed file is damaged or cut short"):
            list(read_lines(path))
        with pytest.raises(DataError, match="damaged or cut short"):
            count_lines(path)


@pytest.mark.parametrize("ending", COMPRESS)
def test_no_flipped_archive_passes_for_whole(tmp_path: Path, ending: str) -> None:
    lines = [f"line {n * 7919}" for n in range(300)]
    packed = bytearray(COMPRESS[ending]("".join(f"{line}\n" for line in lines).encode()))
    if ending == "zst":  # its checksum is optional, and off by default
        packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress("\n".join(lines).encode()))
    for place in range(12, len(packed), len(packed) // 20):
        broken = bytearray(packed)
        broken[place] ^= 1
        try:
            assert list(read_lines(write(tmp_path, bytes(broken)))) == lines
        except DataError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize("ending", ["xz", "bz2", "zst"])
def test_no_flip_in_a_later_part_passes_for_its_end(tmp_path: Path, ending: str) -> None:
    """Python's own readers take a second part that does not begin as it should for what may be left out."""
    lines = [f"line {n * 7919}" for n in range(300)]
    compress = zstandard.ZstdCompressor(write_checksum=True).compress if ending == "zst" else COMPRESS[ending]
    part = compress("".join(f"{line}\n" for line in lines).encode())
    for place in {0, 1, 2, 5, *range(0, len(part), len(part) // 20)}:
        broken = bytearray(part)
        broken[place] ^= 1
        path = write(tmp_path, part + bytes(broken) + part)
        try:
            assert list(read_lines(path)) == lines * 3, place
        except DataError as error:
            assert "damaged or cut short" in str(error)
        try:
            assert count_lines(path) == 900, place
        except DataError as error:
            assert "damaged or cut short" in str(error)


def test_padding_behind_xz_is_no_end(tmp_path: Path) -> None:
    padded = lzma.compress(b"a\n") + bytes(8) + lzma.compress(b"b\n") + bytes(4)
    assert list(read_lines(write(tmp_path, padded))) == ["a", "b"]


def test_a_large_window_and_frames_to_be_skipped(tmp_path: Path) -> None:
    """As ``zstd --long=31`` and pzstd write them."""
    settings = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    long = compressor.compress(b"a\nb\n") + compressor.flush()
    assert zstandard.get_frame_parameters(long).window_size == 2**28
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"
    assert list(read_lines(write(tmp_path, skipped + long + skipped + long))) == ["a", "b", "a", "b"]


def test_what_is_written_to_zst_has_a_checksum(tmp_path: Path) -> None:
    with LineWriter.open(tmp_path / "out.zst") as writer:
        writer.write("a")
    assert zstandard.get_frame_parameters((tmp_path / "out.zst").read_bytes()).has_checksum


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("first", [1, 3])
def test_an_archive_that_comes_byte_by_byte_is_known(ending: str, first: int) -> None:
    packed = COMPRESS[ending](b"a\nb\n")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as end:
        end.write(packed[:first])

        def go_on() -> None:
            end.write(packed[first:])
            end.close()

        later = threading.Timer(0.2, go_on)
        later.start()
        assert list(decode_lines(decompressed(pipe), "pipe")) == ["a", "b"]
        later.join()


def test_a_text_that_begins_like_an_archive_does_not_wait_for_more_than_its_line() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as end:
        end.write(b"B")
        later = threading.Timer(0.2, lambda: end.write(b"\n"))
        later.start()
        assert next(decode_lines(decompressed(pipe), "pipe")) == "B"
        later.join()


def test_a_text_that_begins_like_an_archive_is_a_text(tmp_path: Path) -> None:
    for text in ("BZh is short for Brazil", "B", "BZh", "BZh91AY&S"):
        assert list(read_lines(write(tmp_path, f"{text}\n".encode()))) == [text]
        assert list(read_lines(write(tmp_path, text.encode()))) == [text]


def test_bytes_that_are_not_utf8_are_refused_with_file_line_and_byte(tmp_path: Path) -> None:
    path = write(tmp_path, "fine\nna\u00efve ".encode() + b"caf\xe9\nfine\n")
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    assert str(caught.value) == (
        f"{path}:2: byte 11 is not UTF-8: 0xe9 (unexpected end of data); convert the text to UTF-8"
    )
    assert list(read_lines(path, on_bad_bytes="replace")) == ["fine", "naïve caf\ufffd", "fine"]


def test_the_byte_order_mark_counts_in_the_place_of_a_bad_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text:1: byte 5 is not UTF-8: 0xff"):
        list(read_lines(write(tmp_path, b"\xef\xbb\xbfa\xff\n")))


def test_a_mark_on_a_later_line_is_text(tmp_path: Path) -> None:
    assert list(read_lines(write(tmp_path, "a\n\ufeffb\n".encode()))) == ["a", "\ufeffb"]


@given(st.binary(max_size=60))
def test_lines_out_are_newlines_in_whatever_the_bytes(content: bytes) -> None:
    whole = content.endswith(b"\n") or not content
    lines = list(decode_lines(io.BytesIO(content), "x", on_bad_bytes="replace"))
    assert len(lines) == content.count(b"\n") + (not whole)
    assert not any("\n" in line for line in lines)


def test_a_line_comes_before_the_next_is_there() -> None:
    def arriving() -> io.BytesIO:
        class Slow(io.BytesIO):
            def __next__(self) -> bytes:
                return next(parts)

        return Slow()

    parts = iter([b"first\n"])
    lines = decode_lines(arriving(), "x")
    assert next(lines) == "first"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (lambda path: list(read_lines(path)), count_lines):
        with pytest.raises(DataError, match="nowhere: cannot be read: No such file or directory"):
            read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a folder, not a file"):
        list(read_lines(tmp_path))


def test_a_pipe_is_not_counted_which_would_empty_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is not a file; a corpus is read more than once"):
        count_lines(tmp_path / "pipe")


def test_a_count_is_not_remembered_past_a_change(tmp_path: Path) -> None:
    assert count_lines(write(tmp_path, b"a\n")) == 1
    assert count_lines(write(tmp_path, b"a\nb\n")) == 2


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(b"a\nb\n"))))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(read_lines(Path("-"))) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff")))
    with pytest.raises(DataError, match="stdin:2: byte 1 is not UTF-8"):
        list(read_lines(Path("-")))


@pytest.mark.parametrize("ending", ["txt", *COMPRESS])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    with LineWriter.open(path) as writer:
        for line in LINES:
            writer.write(line)
    assert list(read_lines(path)) == LINES
    assert (path.read_bytes() == "".join(f"{line}\n" for line in LINES).encode()) == (ending == "txt")


def test_gzip_output_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with LineWriter.open(tmp_path / name) as writer:
            writer.write("x")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("append", [False, True])
def test_two_writers_of_one_file_are_one_too_many(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "out.part"
    with LineWriter.open(path, name=tmp_path / "out") as writer:
        writer.write("whole")
        writer.flush()
        with pytest.raises(NmtError, match="out: another command is writing it: wait for that, or name another file"):
            LineWriter.open(path, name=tmp_path / "out", append=append)
    assert path.read_text() == "whole\n"
    with LineWriter.open(path, append=append) as writer:
        writer.write("more")
    assert path.read_text() == ("whole\nmore\n" if append else "more\n")


def test_where_there_are_no_locks_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with LineWriter.open(tmp_path / "out") as writer, LineWriter.open(tmp_path / "out", append=True) as other:
        other.write("b")
        writer.write("a")
    assert sorted((tmp_path / "out").read_text().split()) == ["a", "b"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(NmtError, match="out: cannot be written: No such file or directory"):
        LineWriter.open(tmp_path / "nowhere" / "out")
    full = pytest.raises(NmtError, match="/dev/full: cannot be written: No space left on device")
    with full, LineWriter.open(Path("/dev/full")) as writer:
        writer.write("x" * 1_000_000)
    with full, LineWriter.open(Path("/dev/full")) as writer:
        writer.write("x")  # is kept until the end
