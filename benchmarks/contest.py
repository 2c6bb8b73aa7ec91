"""Processes that are measured in turns: what slows the machine slows all of them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Contestant", "check_cores", "keep_to", "machine", "progress", "say", "started"]

ROOT = Path(__file__).parents[1]


@dataclass
class Contestant:
    """A process that makes steps when told, and what its turns took."""

    name: str
    process: subprocess.Popen[str]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0

    @property
    def toolkit(self) -> str:
        """The first word of its name."""
        return self.name.partition(" ")[0]

    def ask(self, what: object) -> tuple[float, float]:
        """Have it make its turn: so many steps, or what else it understands; seconds by the clock and of processors."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        told = self.hear()
        return told["wall"], told["cpu"]

    def hear(self) -> dict[str, Any]:
        """What it says next. Raises RuntimeError where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def dismiss(self) -> None:
        """End it; it says how much memory it had."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.memory = self.hear()["memory"]
        self.process.wait()


@contextlib.contextmanager
def started(name: str, command: list[Any], threads: int) -> Iterator[Contestant]:
    """A contestant, which ends when the others do."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield Contestant(name, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def check_cores(count: int) -> list[int]:
    """The numbers of the cores that there are. Ends with a line where they are not so many, or cannot be told."""
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("the benchmarks need Linux: elsewhere a process cannot be kept to so many cores")
    there = sorted(os.sched_getaffinity(0))
    if not 0 < count <= len(there):
        raise SystemExit(f"--cores {count}: there are {len(there)} here")
    return there


def keep_to(count: int) -> None:
    """Have this process, and all that it starts, run on so many cores. Ends with a line as :func:`check_cores` does."""
    there = check_cores(count)
    os.sched_setaffinity(0, there[:count])


def machine(device: str) -> str:
    """The processor, what it has for bfloat16, and the GPU where it is that that is measured."""
    import torch  # here: preparing is measured without it

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    features = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
    names = [names[0].partition(":")[2].strip() if names else platform.processor(), *features]
    return ", ".join([torch.cuda.get_device_name(), *names] if device == "cuda" else names)


def progress(text: str) -> None:
    """Say on a terminal how far it has come."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line of results."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(text, flush=True)
