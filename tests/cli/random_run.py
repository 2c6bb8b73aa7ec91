"""A run with a small random model: what it writes makes no sense and is the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.models import build

__all__ = ["random_run"]


def random_run(folder: Path, lines: Sequence[str], vocabulary: int = 300, **decoding: Any) -> Path:
    """The folder of a run whose joint tokenizer knows ``lines``; its distributions are peaked."""
    part = {"type": "gru", "width": 16}
    recipe = Recipe.model_validate(
        {
            "model": {"encoder": part, "decoder": part, "embedding": 16, "tied_embeddings": 0},
            "tokenizer": {"vocabulary": vocabulary},
            "decoding": {"max_ratio": 0.5, **decoding},
        }
    )
    tokenizer = train_tokenizer(lines, recipe.tokenizer, seed=1)
    torch.manual_seed(5)
    model = build(recipe.model, len(tokenizer), len(tokenizer))
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    run = Run.create(folder, recipe, Tokenizers(tokenizer, tokenizer))
    run.save_model(model, 1, {"loss": 1.0})
    return run.folder
