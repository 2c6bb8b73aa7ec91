"""A training of a few steps, measured: seconds to its first step, and the most memory it ever held.

A process of its own, because the most memory of a process cannot be forgotten. It prints its figures as a line of JSON.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()  # before torch is imported, which is part of what a person waits for

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

from nmt.checkpoint import Run  # noqa: E402
from nmt.config import load_recipe  # noqa: E402
from nmt.data.batching import BatchSource  # noqa: E402
from nmt.data.store import prepare  # noqa: E402
from nmt.training.report import SilentReporter, StepReport  # noqa: E402
from nmt.training.session import Session, train  # noqa: E402


class Watch(SilentReporter):
    """Notes when the first step is done, by the clock and in processor time."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def stepped(self, report: StepReport, total: int | None) -> None:
        """A step is done."""
        self.first = self.first or (time.monotonic() - BEGAN, time.process_time())


def main() -> None:
    """Train, then say how it went, and how long it takes to begin in the middle of an epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    told = parser.parse_args()
    recipe, watch = load_recipe(told.recipe), Watch()
    train(recipe, Session(told.out, device="cpu", store=told.store), watch)
    memory = most_memory()
    tokenizers = Run.open(told.out).tokenizers
    store = prepare(recipe.data, tokenizers, told.store)
    source = BatchSource(store, tokenizers, batch_tokens=recipe.training.batch_tokens, seed=1)
    began = time.process_time()
    next(source.batches(0, len(store) // 2), None)  # a small corpus is one window, which has no batch there
    middle = time.process_time() - began
    clock, processor = watch.first or (0.0, 0.0)
    print(json.dumps({"clock": clock, "processor": processor, "memory": memory, "middle": middle, "rows": len(store)}))


def most_memory() -> int:
    """The most bytes that were ever resident, pages of mapped files counted."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main()
