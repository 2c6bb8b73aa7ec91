"""The training step of nmt: the loop that ``nmt train`` runs, with all that it does at a step.

Under torchrun it is several processes that share every batch; the first listens and speaks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from benchmarks.train import workload
from nmt.config import Recipe
from nmt.data.batching import Batch, Mark, collate
from nmt.distributed import Ranks, joined
from nmt.memory import keep_freed_memory
from nmt.models import build
from nmt.training.allocator import keep_few_kernels
from nmt.training.loop import Trainer
from nmt.training.report import SilentReporter
from nmt.training.state import new_state

UNSEEN = 10**9


def recipe(shape: workload.Shape, dtype: str) -> Recipe:
    """The shape as a recipe."""
    part: dict[str, Any] = {"width": shape.width, "dropout": workload.DROPOUT}
    if shape.family == "transformer":
        part |= {"type": "transformer", "layers": shape.layers, "feed_forward": shape.feed_forward}
        part |= {"heads": shape.heads}
        model = {"encoder": part, "decoder": part, "tied_embeddings": 3}
    elif shape.family == "bahdanau":
        part |= {"type": "gru"}
        model = {"encoder": part, "decoder": {**part, "readout": shape.width}, "tied_embeddings": 0}
    else:
        part |= {"type": "lstm"}
        attention = {"attention": "general", "input_feeding": shape.input_feeding}
        model = {"encoder": part, "decoder": {**part, **attention}, "tied_embeddings": 0}
    training = {
        "learning_rate": workload.RATE,
        "betas": workload.BETAS,
        "clip_norm": workload.CLIP,
        "label_smoothing": workload.SMOOTHING,
        "precision": dtype,
        "schedule": {"type": "constant"},
        "log_every": UNSEEN,
        "max_steps": UNSEEN,
    }
    widths = {"embedding": shape.embedding, "embedding_dropout": workload.DROPOUT}
    return Recipe.model_validate({"model": {**model, **widths}, "training": training})


class Dealer:
    """A source of batches that gives the same ones again and again, each cut into as many as there are processes."""

    def __init__(self, batches: list[list[workload.Pair]], processes: int) -> None:
        self.batches, self.processes = batches, processes

    def mark(self, place: int) -> Mark | None:
        """Where one could go on does not matter."""
        return None

    def plan(self, epoch: int, start: int = 0, mark: Mark | None = None) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """Every batch, to be made by a call."""
        assert start == 0
        for batch in itertools.cycle(self.batches):
            for share in range(self.processes):
                yield 0, functools.partial(made, batch[share :: self.processes])


def made(pairs: list[workload.Pair]) -> Batch:
    """Pairs, each with EOS at its end, as nmt has them."""
    plain = [(source[:-1], target[:-1]) for source, target in pairs]
    return collate(plain, range(len(plain)), pad_id=workload.PAD, bos_id=workload.BOS, eos_id=workload.EOS)


def begun(wanted: Recipe, batches: list[list[workload.Pair]], device: str, ranks: Ranks) -> Trainer:
    """A training that is ready to make its first step, by the settings of ``nmt train``."""
    keep_freed_memory()
    keep_few_kernels()
    run: Any = SimpleNamespace(
        recipe=wanted,
        folder=Path(),
        new_model=lambda: build(wanted.model, workload.VOCABULARY, workload.VOCABULARY),
    )
    state = new_state(run, torch.device(device), ranks)
    trainer = Trainer(run, state, Dealer(batches, ranks.size), cast(Any, None), None, SilentReporter())
    trainer.begin()
    return trainer


def main() -> None:
    """Build the model and take the steps that are asked for."""
    told = workload.arguments()
    torch.set_num_threads(told.threads)
    batches = workload.load(told.batches)
    with joined() as ranks:
        trainer = begun(recipe(workload.SHAPES[told.shape], told.dtype), batches, told.device, ranks)

        def step(_: object) -> None:
            ranks.of_first(True)  # there is one more
            trainer.step()

        def most() -> float:
            ranks.of_first(False)  # there are none any more
            return ranks.total(workload.memory(told.device))[0]

        if ranks.is_first:
            workload.answer(batches, step, told.device, cpu=lambda: trainer.state.position.cpu_seconds, most=most)
        else:
            while ranks.of_first(False)[0]:
                trainer.step()
            ranks.total(workload.memory(told.device))


if __name__ == "__main__":
    main()
