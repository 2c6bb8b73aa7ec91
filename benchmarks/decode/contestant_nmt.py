"""nmt's own search, as ``nmt translate`` runs it; what reads and writes text is left out, as it is for the others."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import load_file

from benchmarks.decode import workload
from nmt.config import DecodingConfig, ModelConfig
from nmt.decoding.request import Source
from nmt.decoding.torch_engine import TorchEngine
from nmt.memory import keep_freed_memory
from nmt.models import build
from nmt.models.packed import Packed

LOGITS = Packed.logits


def translating(task: workload.Task, dtype: str) -> workload.Translate:
    """What translates sentences by the model of a task, with products in ``dtype``."""
    model = build(ModelConfig.model_validate(task.model), task.vocabulary, task.vocabulary).eval()
    model.load_state_dict(load_file(task.weights))
    pieces = SimpleNamespace(pad_id=task.pad, unk_id=task.unk, bos_id=task.bos, eos_id=task.eos)
    engine = TorchEngine(model, cast(Any, SimpleNamespace(source=pieces, target=pieces)))
    length = {"max_ratio": 1e-9, "max_extra": task.forced or task.longest}  # in tokens, as the peers have it
    config = DecodingConfig.model_validate({"beam": task.beam, "precision": dtype, **length})
    Packed.logits = _without_end(task.eos) if task.forced else LOGITS  # type: ignore[method-assign, assignment]

    def translate(sentences: list[list[int]], size: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in sentences]
        for rows, batch in task.batches(sentences, size):
            sources = [Source(tuple(one[:-1])) for one in batch]
            for row, hypotheses in zip(rows, engine.search(sources, config, nbest=1, attention=False), strict=True):
                found[row] = list(hypotheses[0].tokens)
        return found

    return translate


def main() -> None:
    """Build the model and translate as told."""
    task, told = workload.load()
    keep_freed_memory()
    torch.set_num_threads(told.threads)
    workload.answer(task, told, translating(task, told.dtype))


def _without_end(eos: int) -> Callable[[Packed, torch.Tensor], torch.Tensor]:
    """Logits that make EOS unlikely enough to stand in no beam: search ends where the longest translation does."""

    def logits(self: Packed, features: torch.Tensor) -> torch.Tensor:
        made = LOGITS(self, features)
        made[:, eos] -= 1e4
        return made

    return logits


if __name__ == "__main__":
    main()
