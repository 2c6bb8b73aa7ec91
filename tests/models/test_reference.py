"""Every family against the slow program written from its paper's equations, with the same weights, in float64."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.layers.dropout import Dropout
from nmt.models import Seq2Seq
from tests.models.pairings import BOS, EOS, PAIRINGS, SENTENCES, new_batch, new_model
from tests.models.reference import Drop, Vector, kept, translate

Numbers = TypeVar("Numbers", Vector, Tensor)


def bend(x: Numbers) -> Numbers:
    """In place of dropout: no two orders of it with a product, a maximum or a sum give the same."""
    return 0.7 * x + 0.1 * x * x


def assert_equal_to_the_equations(name: str, model: Seq2Seq, drop: Drop) -> None:
    """The model reads all sentences in one padded batch, at once and step by step; the reference one by one."""
    batch = new_batch()
    with torch.no_grad():
        encoding = model.encode(batch.source, batch.source_mask)
        memory = model.decoder.remember(encoding)
        decoded = model.decoder(batch.target_in, memory, attention=True)
        logits = model.logits(decoded.features)
        steps = [model.decoder.step(batch.target_in[:, 0], model.decoder.start(memory), memory)]
        for tokens in batch.target_in[:, 1:].unbind(1):
            steps.append(model.decoder.step(tokens, steps[-1].state, memory))
        stepped = torch.stack([step.features for step in steps], dim=1)
    assert decoded.attention is not None
    for row, (source, target) in enumerate(SENTENCES):
        answer = translate(PAIRINGS[name], model, [*source, EOS], [BOS, *target], drop)
        read, written = len(source) + 1, len(target) + 1
        for ours, theirs in (
            (encoding.states[row, :read], answer.states),
            (encoding.final[row], answer.final),
            (decoded.features[row, :written], answer.features),
            (stepped[row, :written], answer.features),
            (decoded.attention[row, :written, :read], answer.attention),
            (logits[row, :written], answer.logits),
        ):
            torch.testing.assert_close(ours, torch.from_numpy(np.array(theirs)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", PAIRINGS)
def test_model_equals_the_equations(name: str) -> None:
    assert_equal_to_the_equations(name, new_model(name), kept)


@pytest.mark.parametrize("name", PAIRINGS)
def test_dropout_stands_where_the_equations_have_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dropout, "forward", lambda self, x: bend(x) if self.probability else x)
    assert_equal_to_the_equations(name, new_model(name), bend)
