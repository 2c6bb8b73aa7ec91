"""What is said on stderr, and when it is not."""

from __future__ import annotations

import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest

from nmt_cli import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "settings", console.Settings())
    monkeypatch.setattr(console, "_live", None)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_notes_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console.note("reading")
    console.warn("a\n  b")
    console.error("c")
    assert capsys.readouterr() == ("", "reading\nnmt: warning: a b\nnmt: error: c\n")


def test_quiet_hides_notes_only(capsys: pytest.CaptureFixture[str]) -> None:
    console.settings.quiet = True
    console.note("reading")
    console.warn("look")
    assert capsys.readouterr().err == "nmt: warning: look\n"


def test_what_the_library_logs_and_warns_of_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("nmt")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    level, propagates = log.level, log.propagate
    try:
        console.take_over()
        console.take_over()
        logging.getLogger("nmt.data").info("dropped %d pairs", 3)
        logging.getLogger("nmt.data").warning("a long line")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning(UserWarning("slow"), UserWarning, "a.py", 1)
        assert capsys.readouterr().err == "dropped 3 pairs\nnmt: warning: a long line\nnmt: warning: slow\n"
    finally:
        log.level, log.propagate = level, propagates


def test_a_pipe_gets_no_live_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Progress("reading", 10, interval=0) as progress:
        progress(5)
    assert list(console.track("ab", "reading", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_and_is_left_clean(terminal: Terminal) -> None:
    with redirect_stderr(terminal), console.Progress("reading", 10, unit="lines", interval=0) as progress:
        progress(5)
        console.note("half")
        progress.advance(5)
    wipe = "\r\x1b[K"
    drawn = terminal.getvalue()
    assert drawn.startswith(f"{wipe}reading 5/10 lines  50%{wipe}half\n{wipe}reading 10/10 lines  100%")
    assert drawn.endswith(wipe)


def test_quiet_hides_the_live_line(terminal: Terminal) -> None:
    console.settings.quiet = True
    with redirect_stderr(terminal), console.Progress("reading", 10, interval=0) as progress:
        progress(5)
    assert terminal.getvalue() == ""


def test_the_line_is_never_wider_than_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    with redirect_stderr(terminal):
        console.Progress("a label of many words", interval=0)(1)
    assert terminal.getvalue() == "\r\x1b[Ka label of "


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


@pytest.mark.parametrize(
    "start, done, total, seconds, text",
    [
        (0, 1200, 5000, 3.0, "reading 1,200/5,000 lines  24%  400/s  0:10 left"),
        (0, 30, None, 60.0, "reading 30 lines  0.5/s"),
        (0, 1, 20001, 1.0, "reading 1/20,001 lines  0%  1.0/s  5:33:20 left"),
        (500, 510, 1000, 1.0, "reading 510/1,000 lines  51%  10/s  0:49 left"),
    ],
)
def test_what_the_line_says(
    clock: list[float], start: int, done: int, total: int | None, seconds: float, text: str
) -> None:
    progress = console.Progress("reading", total, unit="lines")
    progress(start)
    clock[0] += seconds
    progress(done)
    assert progress.text(clock[0]) == text


def test_a_closed_stderr_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    console.warn("nobody hears")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    console.note("nobody hears")


def test_who_knows_how_long_it_will_take_is_believed() -> None:
    progress = console.Progress("training", 100, unit="steps")
    progress(0)
    progress(10)
    assert progress._first is not None
    began = progress._first[1]
    assert progress.text(began + 20).endswith("3:00 left")
    progress.left = 3661.0
    assert progress.text(began + 20).endswith("1:01:01 left")
