"""Which weights move at which rate: over all families, and step by step against runs at the one and the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nmt.config import TrainingConfig
from nmt.distributed import ALONE
from nmt.training.groups import grouped, set_rate, token_tables
from nmt.training.state import new_optimizer
from tests.models.pairings import PAIRINGS, new_model

RATE = 0.01


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_tables_of_tokens_are_embeddings_and_the_output_layer(pairing: str) -> None:
    """Tied ones have one name; positions, which the learned ones have a table of too, are none."""
    model = new_model(pairing)
    names = {name for name, parameter in model.named_parameters() if parameter in token_tables(model)}
    assert names == {name for name, _ in model.named_parameters() if name.endswith("table.weight")} | (
        set() if PAIRINGS[pairing].tied_embeddings else {"output.weight"}
    )
    of_distances = {f"{side}.relative.table.weight" for side in ("encoder", "decoder")} & names
    sides = (PAIRINGS[pairing].encoder, PAIRINGS[pairing].decoder)
    assert len(of_distances) == sum(bool(getattr(side, "max_relative_positions", 0)) for side in sides)
    assert len(names - of_distances) == {0: 3, 2: 2, 3: 1}[PAIRINGS[pairing].tied_embeddings]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_each_weight_is_in_one_group(pairing: str) -> None:
    model = new_model(pairing)
    parts = grouped(model, model.parameters(), 4.0)
    assert sorted(part["factor"] for part in parts) == [1.0, 4.0]
    members = [weight for part in parts for weight in part["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))
    assert {weight for part in parts if part["factor"] == 4.0 for weight in part["params"]} == token_tables(model)
    (alone,) = grouped(model, model.parameters(), 1.0)
    assert alone["params"] == list(model.parameters())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("pairing", ["gru-lstm", "transformer-transformer"])
def test_tables_move_at_their_own_rate_and_all_else_as_before(pairing: str, optimizer: str) -> None:
    """Three steps at rates that change, as a schedule has it; the tables as by a run at four times the rate."""
    settings: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.0 if optimizer == "adam" else 0.1}
    rates = (RATE, RATE / 2, RATE / 5)
    models = []
    for embedding_rate, times in ((4.0, 1), (1.0, 1), (1.0, 4)):
        model = new_model(pairing, dtype=torch.float32)
        config = TrainingConfig(learning_rate=RATE, embedding_rate=embedding_rate, **settings)
        one = new_optimizer(model, config, ALONE)
        generator = torch.Generator().manual_seed(1)
        for rate in rates:
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            set_rate(one, times * rate)
            one.step()
        models.append(model)
    ours, slow, fast = models
    tables = token_tables(ours)
    for mine, at_rate, at_four_times in zip(ours.parameters(), slow.parameters(), fast.parameters(), strict=True):
        assert torch.equal(mine, at_four_times if mine in tables else at_rate)
        assert not torch.equal(at_rate, at_four_times)
