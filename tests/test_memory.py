"""Freed memory stays with the process where the C library can be told so, and nothing is touched elsewhere."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from nmt import memory

GROWS_BACK = """
import resource, sys
from nmt.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(9):
    if turn == 1:
        before = faults()
    block = bytearray(2**25)
    del block
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pages_that_were_freed_are_not_asked_for_again() -> None:
    """32 MiB are 8,192 pages, or 16 large ones, eight times over."""
    told = [
        int(subprocess.run([sys.executable, "-c", GROWS_BACK, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "given back")
    ]
    assert told[0] < 500
    assert told[1] > 4 * told[0]


def test_nothing_is_done_where_there_is_no_such_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, name: None) -> None:
            """A C library without it."""

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", Other)
        assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
