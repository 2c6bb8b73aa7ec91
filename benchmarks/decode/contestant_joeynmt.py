"""JoeyNMT's search over models of the same shapes; their weights are its own, for they need not mean anything."""

from __future__ import annotations

from typing import Any

import torch
from joeynmt.batch import Batch
from joeynmt.model import build_model
from joeynmt.search import search

from benchmarks.decode import workload
from benchmarks.train import workload as training
from benchmarks.train.contestant_joeynmt import recipe, vocabulary


def main() -> None:
    """Build the model and translate as told."""
    task, told = workload.load()
    torch.set_num_threads(told.threads)
    torch.manual_seed(1)
    names = vocabulary()
    model = build_model(recipe(training.SHAPES[task.shape]), names, names).eval()
    autocast = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": told.dtype == "bfloat16"}
    lengths = {"max_output_length": task.forced or task.longest, "min_output_length": task.forced or 1}

    def translate(sentences: list[list[int]], size: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in sentences]
        for rows, batch in task.batches(sentences, size):
            with torch.autocast(**autocast):  # of its own accord it leaves some products out, which torch then refuses
                made, _, _ = search(
                    model, _batch(batch), beam_size=task.beam, beam_alpha=1.0, autocast=autocast, **lengths
                )
            for row, tokens in zip(rows, made.tolist(), strict=True):
                found[row] = tokens
        return found

    workload.answer(task, told, translate)


def _batch(sentences: list[list[int]]) -> Any:
    """Sentences as JoeyNMT has them: EOS is number 3 there too, padding number 1."""
    own = [[*(max(token, 4) for token in sentence[:-1]), training.EOS] for sentence in sentences]
    return Batch(
        src=torch.from_numpy(training.padded(own)),
        src_length=torch.tensor([len(sentence) for sentence in own]),
        src_prompt_mask=None,
        trg=None,
        trg_prompt_mask=None,
        indices=torch.arange(len(own)),
        device=torch.device("cpu"),
        pad_index=training.PAD,
        eos_index=training.EOS,
        is_train=False,
    )


if __name__ == "__main__":
    main()
