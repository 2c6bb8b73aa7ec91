"""What every contestant translates, and how one answers: the same weights, the same sentences, one protocol.

A contestant is a process in an environment of its own that imports this file and nothing else of the project. It looks
for its best batch size and says it. Then it reads turns: ``many K`` is the K-th share of the sentences, as they come to
it; ``one K`` the same, a sentence at a time. It answers with the seconds that a sentence took, in the median where they
came one at a time. At the end of its input it leaves its translations in a file and says how much memory it had.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.train.workload import memory

__all__ = ["Task", "Translate", "answer", "load"]

#: Sentences to token ids without EOS: translates them, in batches of at most so many.
Translate = Callable[[list[list[int]], int], list[list[int]]]


@dataclass(frozen=True)
class Task:
    """Which model translates what, and how.

    ``model`` is the model part of a recipe; ``weights`` are those of an nmt model, with that recipe's names.
    ``sentences`` are ids, with EOS at their end. ``forced`` is the number of tokens that every translation is made to
    have, 0 where it ends by itself, after ``longest`` tokens at most.
    """

    shape: str
    model: dict[str, Any]
    weights: str
    vocabulary: int
    pad: int
    unk: int
    bos: int
    eos: int
    sentences: list[list[int]]
    turns: int
    singles: int
    batch_sizes: list[int]
    beam: int
    forced: int
    longest: int

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def share(self, turn: int) -> list[list[int]]:
        """The sentences of a turn, long and short ones as in the whole."""
        return self.sentences[turn :: self.turns]

    def batches(self, sentences: list[list[int]], size: int) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Sentences of like length together, the longest first, and where they stood."""
        order = sorted(range(len(sentences)), key=lambda number: -len(sentences[number]))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows, [sentences[row] for row in rows]


def load() -> tuple[Task, argparse.Namespace]:
    """What a contestant is told: the ``task``, ``dtype``, ``threads`` and the file for its ``translations``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("dtype")
    parser.add_argument("threads", type=int)
    parser.add_argument("translations", type=Path)
    told = parser.parse_args()
    return Task(**json.loads(told.task.read_text(encoding="utf-8"))), told


def answer(task: Task, told: argparse.Namespace, translate: Translate) -> None:
    """Be a contestant: find the best batch size, take the turns that are told on stdin, leave the translations."""
    sample = task.share(0)[: max(task.batch_sizes)]
    translate(sample[:2], 1)
    sizes = [size for size in task.batch_sizes if size <= len(sample)] or task.batch_sizes[:1]
    took = {size: _timed(lambda size=size: translate(sample, size))[1] for size in sizes}  # type: ignore[misc]
    best = min(took, key=lambda size: took[size])
    _say({"batch_size": min(best, len(task.share(0)))})
    found: dict[int, list[int]] = {}
    for line in sys.stdin:
        kind, number = line.split()
        sentences = task.share(int(number))
        if kind == "many":
            made: list[list[int]] = []
            wall, cpu = _timed(lambda: made.extend(translate(sentences, best)))  # noqa: B023
            found.update(zip(range(int(number), len(task.sentences), task.turns), made, strict=True))
            _say({"wall": wall / len(sentences), "cpu": cpu / len(sentences)})
        else:
            times = [_timed(lambda: translate([one], 1)) for one in sentences[: task.singles]]  # noqa: B023
            _say({name: statistics.median(time[n] for time in times) for n, name in enumerate(("wall", "cpu"))})
    told.translations.write_text(json.dumps(found), encoding="utf-8")
    _say({"memory": memory()})


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)
