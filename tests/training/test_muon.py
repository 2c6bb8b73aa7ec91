"""Muon: its matrices against the singular value decomposition, its steps against torch's own Muon and AdamW."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nmt.distributed import ALONE, Ranks
from nmt.models import Seq2Seq
from nmt.training.muon import SHARE, Muon, hidden_matrices, orthogonalized
from tests.models.pairings import NINE, PAIRINGS, new_model

RATE, BETAS, EPSILON = 0.01, (0.9, 0.98), 1e-9


def model_of(pairing: str) -> Seq2Seq:
    return new_model(pairing, dtype=torch.float32)


def muon_of(model: Seq2Seq, decay: float = 0.0, ranks: Ranks = ALONE, dtype: torch.dtype = torch.float32) -> Muon:
    return Muon(model, ranks, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=decay, dtype=dtype)


def steps_of(model: Seq2Seq, *optimizers: torch.optim.Optimizer, number: int = 1) -> dict[str, Tensor]:
    """How far each weight has come after so many steps; the gradients are the same for all models of a pairing."""
    generator = torch.Generator().manual_seed(1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(number):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40), (24, 1)])
def test_a_matrix_becomes_the_orthogonal_one_nearest_to_it(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    left = u.mT @ orthogonalized(matrices) @ v.mT  # the directions taken out, there are singular values and no more
    values = left.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < values.min() <= values.max() < 1.25
    torch.testing.assert_close(left, torch.diag_embed(values), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (64, 192)])
def test_bfloat16_products_come_to_the_same_matrix(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalized(matrices, torch.bfloat16)
    assert made.dtype == torch.bfloat16
    likeness = nn.functional.cosine_similarity(made.float().flatten(1), orthogonalized(matrices).flatten(1))
    assert likeness.min() > 0.999
    assert not torch.equal(made.float(), orthogonalized(matrices).bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_nothing_comes_nothing(dtype: torch.dtype) -> None:
    assert orthogonalized(torch.zeros(2, 8, 8), dtype).eq(0).all()


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_all_that_multiplies_states_is_a_product_and_no_table_is(pairing: str) -> None:
    model, config = model_of(pairing), PAIRINGS[pairing]
    found = dict(hidden_matrices(model))
    for name, parameter in model.named_parameters():
        *_, part, _ = f".{name}".split(".")
        gates = {"gru": 3, "lstm": 4}.get((config.encoder if name.startswith("encoder") else config.decoder).type)
        if parameter.ndim < 2 or part in ("table", "positions", "energy") or name == "output.weight":
            assert parameter not in found, name
        elif part == "key_value":
            assert found[parameter] == 2, name
        elif part == "bridge":
            layers = config.decoder.layers
            assert found[parameter] == (layers if config.decoder.type == "gru" else 2 * layers), name
        elif part in ("rnn", "input", "hidden", "second", "context", "feed"):
            assert found[parameter] == gates, name
        else:
            assert found[parameter] == 1, name


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("pairing", ["gru-lstm", "transformer-gru"])
def test_steps_are_those_of_torchs_own_muon_and_adamw(pairing: str, decay: float) -> None:
    """Torch's rounds to bfloat16 on the way, and its steps are a fifth of the rate where ours are ``SHARE`` of it."""
    ours, theirs = model_of(pairing), model_of(pairing)
    parts = {name: dict(hidden_matrices(theirs)).get(parameter, 0) for name, parameter in theirs.named_parameters()}
    muon = torch.optim.Muon(
        [parameter for name, parameter in theirs.named_parameters() if parts[name] == 1],
        lr=RATE * SHARE / 0.2, weight_decay=decay * 0.2 / SHARE, momentum=0.95, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    rest = [parameter for name, parameter in theirs.named_parameters() if parts[name] == 0]
    adam = torch.optim.AdamW(rest, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=decay)
    moved, wanted = steps_of(ours, muon_of(ours, decay), number=3), steps_of(theirs, muon, adam, number=3)
    for name, number in parts.items():
        if number == 1:
            likeness = nn.functional.cosine_similarity(moved[name].flatten(), wanted[name].flatten(), dim=0)
            assert likeness > 0.999, name
            assert moved[name].norm() == pytest.approx(float(wanted[name].norm()), rel=0.02), name
        elif number == 0:
            torch.testing.assert_close(moved[name], wanted[name], rtol=1e-4, atol=1e-6)


def test_a_weight_without_a_gradient_stays_where_it_is() -> None:
    model = model_of("gru-transformer")
    optimizer = muon_of(model, 0.1)
    still = [next(iter(hidden_matrices(model)))[0], model.output.weight]
    before = [weight.clone() for weight in still]
    for parameter in model.parameters():
        parameter.grad = None if any(parameter is weight for weight in still) else torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(weight, was) for weight, was in zip(still, before, strict=True))
    assert not any(optimizer.state.get(weight) for weight in still)
    assert len(optimizer.state) == len(list(model.parameters())) - 2


def test_matrices_that_stand_in_one_weight_move_each_for_itself() -> None:
    model = model_of("transformer-transformer")
    (name, weight), *_ = ((name, p) for name, p in model.named_parameters() if name.endswith("key_value.weight"))
    moved = steps_of(model, muon_of(model))[name]
    assert weight.grad is not None
    for part, gradient in zip(moved.chunk(2), weight.grad.chunk(2), strict=True):
        u, _, v = torch.linalg.svd(gradient)
        values = (u.mT @ -part @ v.mT).diagonal() / (RATE * SHARE * math.sqrt(8))
        assert 0.6 < values.min() <= values.max() < 1.25


class Half(Ranks):
    """One of two processes; what the other makes of its share is known beforehand, or does not matter."""

    def __init__(self, rank: int, others: list[Tensor] | None = None) -> None:
        self.rank, self.size = rank, 2
        self.made: list[Tensor] = []
        self.others = others

    def gather(self, tensor: Tensor) -> list[Tensor]:
        self.made.append(tensor.clone())
        other = torch.zeros_like(tensor) if self.others is None else self.others.pop(0)
        return [tensor, other] if self.rank == 0 else [other, tensor]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pairing", NINE)
def test_processes_share_the_matrices_out(pairing: str, dtype: torch.dtype) -> None:
    alone, shared, shadow = (model_of(pairing) for _ in range(3))
    wanted = steps_of(alone, muon_of(alone, dtype=dtype))
    second = Half(1)
    steps_of(shadow, muon_of(shadow, ranks=second, dtype=dtype))
    moved = steps_of(shared, muon_of(shared, ranks=Half(0, second.made), dtype=dtype))
    assert second.made == []
    tolerance = RATE * 1e-4 if dtype == torch.float32 else RATE * 0.05
    for name, step in wanted.items():
        torch.testing.assert_close(moved[name], step, rtol=1e-4, atol=tolerance)
