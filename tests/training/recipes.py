"""A recipe of every pairing, small enough to train in a test, and machines with little memory to train it on."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from nmt.config import Recipe, parse_recipe
from nmt.data.batching import Batch
from nmt.data.corpus import with_folder
from nmt.training.gradients import Objective

__all__ = ["PAIRINGS", "memory_for", "newest", "small_recipe"]

PARTS = {
    "gru": {"type": "gru", "width": 32, "dropout": 0.0},
    "lstm": {"type": "lstm", "width": 32, "dropout": 0.0},
    "transformer": {
        "type": "transformer", "layers": 1, "width": 32, "feed_forward": 64, "heads": 2, "dropout": 0.0,
    },
}  # fmt: skip
#: Every encoder under every decoder.
PAIRINGS = list(itertools.product(PARTS, PARTS))

RECIPE = """
[data]
source = "en"
target = "fr"
[tokenizer]
vocabulary = 300
[model]
embedding = 32
embedding_dropout = 0.0
encoder = {{ type = "{encoder}" }}
decoder = {{ type = "{decoder}" }}
[training]
max_steps = 12
batch_tokens = 256
learning_rate = 0.003
schedule = {{ type = "constant" }}
label_smoothing = 0.1
validate_every = 6
save_every = 4
log_every = 2
precision = "float32"
[decoding]
beam = 2
max_extra = 5
precision = "float32"
"""


def small_recipe(corpus: Path, encoder: str = "gru", decoder: str = "gru", *settings: str) -> Recipe:
    """A recipe for the corpus in a folder, with settings as of ``--set``; nothing in it is left to chance."""
    sizes = [
        f"model.{side}.{key}={json.dumps(value)}"
        for side, kind in (("encoder", encoder), ("decoder", decoder))
        for key, value in PARTS[kind].items()
    ]
    parsed = parse_recipe(RECIPE.format(encoder=encoder, decoder=decoder), overrides=[*sizes, *settings])
    return parsed.model_copy(update={"data": with_folder(parsed.data, corpus)})


def newest(folder: Path) -> Path:
    """The checkpoint that a run goes on from."""
    return max((folder / "resume").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


@contextlib.contextmanager
def memory_for(tokens: int) -> Iterator[list[int]]:
    """Batches of more tokens, padding counted, run out of memory; gives the tokens of all that were tried."""
    real, asked = Objective.forward, []

    def forward(self: Objective, batch: Batch) -> torch.Tensor:
        asked.append(batch.padded_tokens)
        if batch.padded_tokens > tokens:
            raise torch.OutOfMemoryError("there is no room")
        return real(self, batch)

    Objective.forward = forward  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        Objective.forward = real  # type: ignore[method-assign]
