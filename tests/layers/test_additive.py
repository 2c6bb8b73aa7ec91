"""Additive scores by powers: the values and gradients of v . tanh(q + k), however large queries and keys are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nmt.layers.additive import LARGEST, powers
from nmt.layers.products import PLAIN, LoopProducts, Products

B, T, S, K = 2, 3, 5, 4


def scored(products: Products, queries: Tensor, keys: Tensor, energy: nn.Linear, turns: int = 3) -> list[Tensor]:
    """The scores of several turns of a loop, and the gradients of queries, keys and v."""
    scores = torch.stack([products.additive(queries * (turn + 1), keys, energy) for turn in range(turns)])
    loss = (scores.double() * torch.linspace(-1, 1, scores.numel(), dtype=torch.float64).view(scores.shape)).sum()
    return [scores.detach(), *torch.autograd.grad(loss, [queries, keys, energy.weight])]


def parts(dtype: torch.dtype, queries: float = 1, keys: float = 1) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(3)
    energy = nn.Linear(K, 1, bias=False).to(dtype)
    made = [torch.rand(B, length, K) * 2 - 1 for length in (T, S)]
    first, second = (part / part.abs().max() * size for part, size in zip(made, (queries, keys), strict=True))
    return first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_(), energy


@pytest.mark.parametrize("queries", [0, 1, 19, 300, 1e30])
@pytest.mark.parametrize("keys", [0, 1, LARGEST, 21, 400])
def test_values_and_gradients_of_any_size(queries: float, keys: float) -> None:
    given = parts(torch.float64, queries, keys)
    torch.testing.assert_close(scored(LoopProducts(), *given), scored(PLAIN, *given), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("queries", [1, 19, 300, 1e30])
@pytest.mark.parametrize("keys", [1, LARGEST])
def test_in_single_precision_sums_are_as_exact_as_a_tangents(queries: float, keys: float) -> None:
    exact = scored(PLAIN, *parts(torch.float64, queries, keys))
    for found, wanted in zip(scored(LoopProducts(), *parts(torch.float32, queries, keys)), exact, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_scores_are_not_rounded_under_autocast() -> None:
    queries, keys, energy = parts(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = scored(LoopProducts(), queries, keys, energy)
        narrow = LoopProducts().additive(queries.bfloat16(), keys.bfloat16(), energy)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(found, scored(PLAIN, queries, keys, energy))


def test_keys_that_are_no_numbers_stay_so() -> None:
    queries, keys, energy = parts(torch.float64)
    broken = keys.detach().clone()
    broken[0, 0, 0] = torch.nan
    assert powers(broken)[1].tolist() == [True, False]
    scores = LoopProducts().additive(queries, broken, energy)
    assert scores[0, :, 0].isnan().all()
    assert scores[1].isfinite().all()
