"""What is written for CTranslate2: the library reads it, nothing is shared with the model, and the rest is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from nmt.config import ModelConfig
from nmt.errors import ConfigError
from nmt.export.ctranslate2 import QUANTIZATIONS, check_model, convert
from tests.export.tiny import SHAPES, TRANSFORMER, model_of, recipe_of, tokenizers


def test_the_folder_is_one_of_ctranslate2s_own() -> None:
    encoder, decoder, tied = SHAPES["pre"]
    pair, recipe = tokenizers(joint=False), recipe_of(encoder, decoder, tied)
    files = convert(model_of(recipe.model, pair), recipe.model, pair, "none")
    assert sorted(files) == ["config.json", "model.bin", "source_vocabulary.json", "target_vocabulary.json"]
    assert json.loads(files["target_vocabulary.json"]) == pair.target.pieces(range(len(pair.target)))
    settings = json.loads(files["config.json"])
    assert (settings["bos_token"], settings["eos_token"], settings["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert settings["layer_norm_epsilon"] == torch.nn.LayerNorm(2).eps


@pytest.mark.parametrize("shape", ["learned", "relative"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantization_leaves_the_model_alone(quantization: str, shape: str) -> None:
    """The converter writes over the arrays that it is given."""
    encoder, decoder, tied = SHAPES[shape]
    pair, recipe = tokenizers(joint=True), recipe_of(encoder, decoder, tied)
    model = model_of(recipe.model, pair)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    large = convert(model, recipe.model, pair, "none")["model.bin"]
    written = convert(model, recipe.model, pair, quantization)["model.bin"]
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert (len(written) < 0.8 * len(large)) == (quantization != "none")


GRU = {"type": "gru", "width": 16}


@pytest.mark.parametrize(
    "encoder, decoder, reason",
    [
        (GRU, TRANSFORMER, "a gru encoder"),
        (TRANSFORMER, {**GRU, "type": "lstm"}, "a lstm decoder"),
        ({**TRANSFORMER, "window": 3}, TRANSFORMER, "an encoder whose attention has a window of 3"),
        (
            {**TRANSFORMER, "max_relative_positions": 3},
            TRANSFORMER,
            "encoders with relative positions beside sinusoidal ones",
        ),
        (TRANSFORMER, {**TRANSFORMER, "positions": "none"}, "decoders without any positions"),
    ],
)
def test_what_it_cannot_run_is_refused_with_advice(
    encoder: dict[str, Any], decoder: dict[str, Any], reason: str
) -> None:
    model = {"encoder": encoder, "decoder": decoder, "embedding": 16, "tied_embeddings": 0}
    with pytest.raises(ConfigError, match=re.escape(f"CTranslate2 cannot run {reason}: export it with --to onnx")):
        check_model(ModelConfig.model_validate(model))


def test_an_unknown_quantization_is_refused() -> None:
    encoder, decoder, tied = SHAPES["pre"]
    pair, recipe = tokenizers(joint=False), recipe_of(encoder, decoder, tied)
    with pytest.raises(ConfigError, match="--quantize int4: for ctranslate2 it is one of none, int8, "):
        convert(model_of(recipe.model, pair), recipe.model, pair, "int4")
