"""Small runs for exports: every shape of Transformer that CTranslate2 knows, with tokenizers, and text to translate."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from nmt.checkpoint import Run
from nmt.config import ModelConfig, Recipe
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer
from nmt.decoding.exported import Export, Kind
from nmt.models import Seq2Seq, build
from tests.conftest import small_pairs

ENGLISH = [english for english, _ in small_pairs()]
FRENCH = [french for _, french in small_pairs()]

#: Lines of unequal lengths, one of them blank.
LINES = [" ".join(ENGLISH[start : start + count]) for start, count in enumerate((1, 2, 1, 0, 1, 1, 2))]

TRANSFORMER: dict[str, Any] = {"type": "transformer", "layers": 2, "width": 16, "heads": 2, "feed_forward": 24}
LEARNED: dict[str, Any] = {**TRANSFORMER, "positions": "learned", "max_positions": 300}
POST: dict[str, Any] = {**TRANSFORMER, "norm": "post"}
RELATIVE: dict[str, Any] = {**TRANSFORMER, "positions": "none", "max_relative_positions": 3}

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "pre": (TRANSFORMER, TRANSFORMER, 0),
    "post": (POST, POST, 2),
    "learned": (LEARNED, LEARNED, 3),
    "relative": (RELATIVE, {**RELATIVE, "max_relative_positions": 1}, 3),
    "relative-encoder": ({**RELATIVE, "norm": "post"}, TRANSFORMER, 0),
    "mixed": ({**LEARNED, "norm": "post"}, TRANSFORMER, 0),
    "uneven": ({**TRANSFORMER, "heads": 4, "layers": 1}, {**TRANSFORMER, "layers": 3, "alignment_layer": 3}, 3),
}
"""Encoder, decoder and tied embeddings."""


@cache
def tokenizer(side: str) -> Tokenizer:
    lines = {"joint": ENGLISH + FRENCH, "source": ENGLISH, "target": FRENCH}[side]
    vocabulary = {"joint": 330, "source": 300, "target": 310}[side]
    return train_tokenizer(lines, Recipe.model_validate({"tokenizer": {"vocabulary": vocabulary}}).tokenizer, seed=1)


def tokenizers(*, joint: bool) -> Tokenizers:
    if joint:
        return Tokenizers(tokenizer("joint"), tokenizer("joint"))
    return Tokenizers(tokenizer("source"), tokenizer("target"))


def recipe_of(encoder: dict[str, Any], decoder: dict[str, Any], tied: int, **decoding: Any) -> Recipe:
    model = {"encoder": encoder, "decoder": decoder, "embedding": 16, "tied_embeddings": tied}
    settings = {"beam": 4, "max_ratio": 0.3, "max_extra": 5, **decoding}
    return Recipe.model_validate({"model": model, "tokenizer": {"joint": tied == 3}, "decoding": settings})


def model_of(config: ModelConfig, pair: Tokenizers, seed: int = 4) -> Seq2Seq:
    """A random model, every parameter off its initial value, that is sure of what it writes: not of close calls."""
    torch.manual_seed(seed)
    model = build(config, len(pair.source), len(pair.target)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def run_of(folder: Path, recipe: Recipe) -> Run:
    """A run folder with one random model."""
    pair = tokenizers(joint=recipe.tokenizer.joint)
    run = Run.create(folder, recipe, pair)
    run.save_model(model_of(recipe.model, pair), 10, {"bleu": 1.0, "chrf": 1.0, "loss": 4.0})
    return run


def export_of(recipe: Recipe, kind: Kind, pair: Tokenizers, quantization: str = "none") -> Export:
    return Export(kind, quantization, recipe.decoding, pair, None, None, {"run": "tiny"})
