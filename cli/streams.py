"""Where a verb reads its lines and writes its results: files, or the shell's pipe.

``-`` is stdin or stdout, which both are the default. Compressed files are read and written for what they are
(:mod:`nmt.data.text`); a file that is written has its name when it is whole (:mod:`nmt_cli.continuing`). How a closed
pipe, a full disk or a closed stdout ends a command is :mod:`nmt_cli.main`'s business.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from nmt.errors import DataError, NmtError
from nmt_cli import console

__all__ = ["STANDARD", "InputFile", "OnBadBytes", "OutputFile", "check_input", "greet", "input_lines"]

STANDARD = Path("-")

InputFile = Annotated[
    Path, typer.Option("--input", "-i", metavar="FILE", help="Read from this file; - is standard input.")
]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; - is standard output.")
]
OnBadBytes = Annotated[
    Literal["error", "replace"],
    typer.Option("--on-bad-bytes", help="What to do with bytes that are not UTF-8: end with an error, or put U+FFFD."),
]


def input_lines(path: Path, *, on_bad_bytes: Literal["error", "replace"] = "error") -> Iterator[str]:
    """The lines of a file or of stdin, each as soon as it is there.

    Raises DataError with file, line and byte for what is not text, NmtError where stdin is closed.
    """
    from nmt.data.text import read_lines

    if path == STANDARD:
        greet()
    return read_lines(path, on_bad_bytes=on_bad_bytes)


def check_input(path: Path) -> None:
    """Raise DataError for a file that cannot be read: before anything is done for it. A pipe is not touched."""
    from nmt.data.text import open_binary

    try:
        is_pipe = path.exists() and not path.is_file() and not path.is_dir()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_pipe:
        with open_binary(path):
            pass


def greet() -> None:
    """Say what is waited for where somebody sits before stdin. Raises NmtError where it is closed."""
    if sys.stdin is None:
        raise NmtError("standard input is closed: there is nothing to read from")
    if sys.stdin.isatty():
        console.note("reading from the terminal, a sentence a line; end with Ctrl-D")
