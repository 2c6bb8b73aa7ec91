"""What every contestant trains on, and how one answers: the same shapes, the same batches, one protocol.

A contestant is a process in an environment of its own that imports this file and nothing else of the project. It builds
the model of a shape, says with which torch, and then for every number n that it reads makes n optimiser steps and
answers with what they took. At the end of its input it says how much memory it had at most.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "PAD",
    "SHAPES",
    "VOCABULARY",
    "Pair",
    "Shape",
    "answer",
    "arguments",
    "load",
    "memory",
    "operations",
    "save",
    "settle",
]

#: Rows of the output layer, whatever the corpus has pieces.
VOCABULARY = 8000
#: Ids of unknown, padding, beginning and end of a sentence in the batches: those that JoeyNMT has them at.
UNK, PAD, BOS, EOS = 0, 1, 2, 3
#: What the loss and every dropout are set to, in all toolkits.
SMOOTHING, DROPOUT, CLIP, RATE, BETAS = 0.1, 0.1, 1.0, 1e-3, (0.9, 0.98)

#: Source and target ids of a sentence, each with EOS at its end.
Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Shape:
    """The size of a model: a Transformer of so many layers a side, or an encoder and a decoder of one layer each."""

    family: str
    layers: int
    width: int
    feed_forward: int = 0
    heads: int = 0
    embedding: int = 0
    input_feeding: bool = True


SHAPES = {
    "tiny": Shape("transformer", 4, 128, 256, 4, 128),
    "base": Shape("transformer", 6, 512, 2048, 8, 512),
    "bahdanau": Shape("bahdanau", 1, 512, embedding=256),
    "luong": Shape("luong", 1, 512, embedding=256),
    "luong-plain": Shape("luong", 1, 512, embedding=256, input_feeding=False),
}


def operations(shape: Shape, batch: list[Pair]) -> float:
    """Floating-point operations of the matrix products of a step: two a multiplication, three products a weight.

    Padding is not counted, nor is anything but products.
    """
    source, target = sum(len(one) for one, _ in batch), sum(len(one) for _, one in batch)
    met = sum(len(one) * len(other) for one, other in batch)
    width, embedding = shape.width, shape.embedding
    if shape.family == "transformer":
        seen = sum(len(one) ** 2 + len(other) ** 2 for one, other in batch) + met
        encoder = shape.layers * (4 * width * width + 2 * width * shape.feed_forward)
        decoder = shape.layers * (6 * width * width + 2 * width * shape.feed_forward)
        keys = shape.layers * 2 * width * width
        products = (encoder + keys) * source + decoder * target + shape.layers * 2 * width * seen
        return 6.0 * (products + width * VOCABULARY * target)
    gates = 3 if shape.family == "bahdanau" else 4
    encoder = 2 * gates * (width // 2) * (embedding + width // 2) + width * width  # both directions, and the keys
    decoder = gates * width * (embedding + width + width)  # input, what is fed back, the state before
    if not shape.input_feeding:
        decoder -= gates * width * width
    if shape.family == "bahdanau":
        decoder += width * width  # the query
    readout = 2 * width * width
    return 6.0 * (encoder * source + (decoder + readout + width * VOCABULARY) * target + 2 * width * met)


def save(batches: list[list[Pair]], path: Path) -> None:
    """Write batches to a file."""
    path.write_text(json.dumps(batches), encoding="utf-8")


def load(path: Path) -> list[list[Pair]]:
    """The batches of a file."""
    batches: list[list[Pair]] = json.loads(path.read_text(encoding="utf-8"))
    return batches


def padded(sequences: list[list[int]], value: int = PAD) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sequences as one array, filled up with ``value``."""
    filled = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in zip(filled, sequences, strict=True):
        row[: len(sequence)] = sequence
    return filled


def arguments() -> argparse.Namespace:
    """What a contestant is told: ``shape``, ``dtype``, ``threads``, the file of ``batches`` and the ``device``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("dtype", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("threads", type=int)
    parser.add_argument("batches", type=Path)
    parser.add_argument("device", choices=("cpu", "cuda"))
    return parser.parse_args()


def memory(device: str = "cpu") -> int:
    """The most bytes that this process has held, in tensors of its GPU where it has one."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def settle(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def answer(
    batches: list[list[Pair]],
    step: Callable[[list[Pair]], object],
    device: str,
    *,
    cpu: Callable[[], float] = time.process_time,
    most: Callable[[], float] | None = None,
) -> None:
    """Be a contestant: take steps as told on stdin, batch after batch, and say on stdout what they took.

    ``cpu`` is the clock of processor time, in seconds, ``most`` the peak memory in bytes. What a GPU has been told to
    do is awaited before a turn is over.
    """
    stream = _endless(batches)
    _say({"torch": importlib.metadata.version("torch")})
    for line in sys.stdin:
        chosen = [next(stream) for _ in range(int(line))]
        began, cpu_began = time.perf_counter(), cpu()
        for batch in chosen:
            step(batch)
        settle(device)
        _say({"wall": time.perf_counter() - began, "cpu": cpu() - cpu_began})
    _say({"memory": most() if most else memory(device)})


def _endless(batches: list[list[Pair]]) -> Iterator[list[Pair]]:
    while True:
        yield from batches


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)
