"""A model that is about to get its weights from a file: nothing is drawn for it, and nothing of that is left in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nmt.checkpoint import weights
from nmt.layers.undrawn import Undrawn
from nmt.models import build
from tests.models.pairings import NINE, SOURCE_VOCABULARY, TARGET_VOCABULARY


@pytest.mark.parametrize("name", NINE)
def test_nothing_is_drawn(name: str) -> None:
    state = torch.get_rng_state()
    with Undrawn():
        model = build(NINE[name], SOURCE_VOCABULARY, TARGET_VOCABULARY)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = build(NINE[name], SOURCE_VOCABULARY, TARGET_VOCABULARY)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in drawn.named_parameters()}
    assert all(one.requires_grad and one.is_leaf for one in model.parameters())
    for (_, one), (_, other) in zip(model.named_buffers(), drawn.named_buffers(), strict=True):
        assert torch.equal(one, other)


def test_outside_it_is_as_before() -> None:
    with Undrawn():
        assert not nn.Linear(3, 3).weight.any()
    assert nn.Linear(3, 3).weight.all()


def test_a_model_is_loaded_without_drawing_and_has_the_weights_of_the_file(untrained_run: Path) -> None:
    from safetensors.torch import load_file

    from nmt.checkpoint import Run

    state = torch.get_rng_state()
    model = Run.open(untrained_run).load_model()
    assert torch.equal(torch.get_rng_state(), state)
    saved = load_file(untrained_run / "models" / "step-20" / "weights.safetensors")
    assert {name: tensor.tolist() for name, tensor in weights(model).items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }
