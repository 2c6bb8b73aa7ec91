"""How long it takes from the start of a process to the first thing it says.

Processes take turns: one that imports torch and no more, ``nmt --version``, ``nmt --help``, and ``nmt translate`` of a
line by a run and by an export of it to CTranslate2. Time by the clock is up to the first line of output; processor time
is that of the whole process, its end as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contest import keep_to, machine, progress, say
from benchmarks.decode import trained

__all__ = ["exported", "measure"]

TORCH = "import torch"
#: Of the test set of the demo's corpus.
LINE = "The bicycles are behind the garden."


@dataclass
class Started:
    """A command, and what its starts took: seconds by the clock until its first line, and of the processors."""

    command: list[str]
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def start(self, line: str) -> None:
        """Run it once; ``line`` is what it reads. Raises CalledProcessError where it fails."""
        began = time.perf_counter()
        with subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(line)
            process.stdin.close()
            process.stdout.readline()
            self.clock.append(time.perf_counter() - began)
            process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, self.command)
        self.processor.append(used.ru_utime + used.ru_stime)


def exported(run: Path, folder: Path) -> Path | None:
    """An export of a run to CTranslate2, made in a folder; None where there is none, which is said."""
    if importlib.util.find_spec("ctranslate2") is None:
        say("nmt translate EXPORT is left out: ctranslate2 is not installed here")
        return None
    command = ["export", str(run), "--to", "ctranslate2", "--out", str(folder / "export"), "--quiet"]
    made = subprocess.run([sys.executable, "-m", "nmt", *command], check=False, stdout=subprocess.DEVNULL)
    if made.returncode:  # it has said why
        say("nmt translate EXPORT is left out")
        return None
    return folder / "export"


def measure(run: Path, line: str, times: int, export: Path | None = None) -> list[str]:
    """Print what each process takes; gives the lines that say how soon the first translation is there."""
    nmt = [sys.executable, "-m", "nmt"]
    translate = {"nmt translate RUN": run} | ({"nmt translate EXPORT": export} if export else {})
    started = {
        TORCH: Started([sys.executable, "-c", "import torch; print()"]),
        "nmt --version": Started([*nmt, "--version"]),
        "nmt --help": Started([*nmt, "--help"]),
        **{name: Started([*nmt, "translate", str(folder), "--threads", "1"]) for name, folder in translate.items()},
    }
    for turn in range(times):
        for one in started.values():
            one.start(f"{line}\n")
        progress(f"starting: {turn + 1} of {times}")
    say("")
    say("medians of seconds     by the clock to the first line     of the processor in all")
    for name, one in started.items():
        say(f"{name:<24}{statistics.median(one.clock):>33.2f}{statistics.median(one.processor):>28.2f}")
    return [_said(name, started[name], started[TORCH] if name.endswith("RUN") else None) for name in translate]


def _said(name: str, one: Started, torch: Started | None) -> str:
    """How soon a command is there; one that imports torch, how long after torch is, pair by pair."""
    clock, processor = one.clock, one.processor
    if torch is not None:
        clock = [after - before for after, before in zip(one.clock, torch.clock, strict=True)]
        processor = [after - before for after, before in zip(one.processor, torch.processor, strict=True)]
    than = " more than importing torch" if torch else ""
    return (
        f"start     {name}: first line after {statistics.median(clock):.2f} s by the clock, "
        f"{statistics.median(processor):.2f} s of the processor in all{than}"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--run", type=Path, help="whose model translates (default: one that is trained on the spot)")
    parser.add_argument("--export", type=Path, help="of it to CTranslate2 (default: made, where that is installed)")
    parser.add_argument("--line", default=LINE, help="to translate (default: of the demo's corpus)")
    parser.add_argument("--times", type=int, default=15, help="how often each is started (default: 15)")
    parser.add_argument("--cores", type=int, default=1, help="to run on (default: 1)")
    told = parser.parse_args()
    keep_to(told.cores)
    say(f"{machine('cpu')}, {told.cores} of its cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = told.run or trained.train(folder, 400, pairs=20_000, pieces=8000, threads=told.cores)
        last = measure(run, told.line, told.times, told.export or exported(run, folder))
    say("")
    for line in last:
        say(line)


if __name__ == "__main__":
    main()
