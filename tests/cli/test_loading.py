"""The collector while modules and models load: it waits in a process of ours, and is left alone in anybody else's."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from nmt_cli.loading import loading, process


def test_in_a_process_of_ours_it_waits_and_goes_by_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "is_ours", True)
    told: list[str] = []
    monkeypatch.setattr("nmt.memory.keep_freed_memory", lambda: told.append("kept"))
    before = gc.get_freeze_count()
    try:
        with loading():
            assert not gc.isenabled()
            assert told == ["kept"], "and memory stays with the process"
            made: list[object] = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()


def test_it_is_awake_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "is_ours", True)
    monkeypatch.setattr("nmt.memory.keep_freed_memory", lambda: True)
    try:
        with pytest.raises(ValueError), loading():
            raise ValueError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_elsewhere_nothing_is_done_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "is_ours", False)
    monkeypatch.setattr("nmt.memory.keep_freed_memory", lambda: pytest.fail("memory is not ours to keep"))
    before = gc.get_freeze_count()
    with loading():
        assert gc.isenabled()
    process.keep()
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("arguments, ours", [("", True), ("['--version']", False)])
def test_a_process_is_ours_where_the_shell_started_it(arguments: str, ours: bool) -> None:
    program = (
        "import gc, os; from nmt_cli.loading import process; from nmt_cli.main import main; "
        f"code = main({arguments}); "
        "print(process.is_ours, 'PYDANTIC_DISABLE_PLUGINS' in os.environ, gc.isenabled(), code)"
    )
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{ours} {ours} True 0"
