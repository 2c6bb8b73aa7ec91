"""Every family against the slow program written from its paper's equations, with the same weights, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.pairings import BOS, EOS, PAIRINGS, SENTENCES, new_batch, new_model
from tests.models.reference import translate


@pytest.mark.parametrize("name", PAIRINGS)
def test_model_equals_the_equations(name: str) -> None:
    """The model reads all sentences in one padded batch, the reference one by one."""
    model, batch = new_model(name), new_batch()
    with torch.no_grad():
        encoding = model.encode(batch.source, batch.source_mask)
        decoded = model(batch, attention=True)
        logits = model.logits(decoded.features)
    assert decoded.attention is not None
    for row, (source, target) in enumerate(SENTENCES):
        answer = translate(PAIRINGS[name], model, [*source, EOS], [BOS, *target])
        read, written = len(source) + 1, len(target) + 1
        for ours, theirs in (
            (encoding.states[row, :read], answer.states),
            (encoding.final[row], answer.final),
            (decoded.features[row, :written], answer.features),
            (decoded.attention[row, :written, :read], answer.attention),
            (logits[row, :written], answer.logits),
        ):
            torch.testing.assert_close(ours, torch.from_numpy(np.array(theirs)), rtol=1e-9, atol=1e-11)
