"""Dropout: how much it drops, that the mean stays, its gradient, that it repeats under a seed; entries of a matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.layers import dropout
from nmt.layers.dropout import Dropout, DroppedLinear


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.2, 0.3, 0.5, 0.9])
def test_share_and_mean(probability: float) -> None:
    """A quarter of a million draws: the share is within four standard deviations of the 256th nearest to p."""
    torch.manual_seed(1)
    count = 1 << 18
    x = torch.ones(count)
    dropped = Dropout(probability).train()(x)
    exact = round(probability * 256) / 256
    assert abs(exact - probability) <= 1 / 512
    deviation = (exact * (1 - exact) / count) ** 0.5
    assert (dropped == 0).float().mean().item() == pytest.approx(exact, abs=4 * deviation)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - exact)))
    assert dropped.mean().item() == pytest.approx(1.0, abs=4 * deviation / (1 - exact))


def test_elements_are_drawn_independently() -> None:
    """Eight elements share one draw of 64 bits: neighbours, elements eight apart and rows still know nothing of it."""
    torch.manual_seed(1)
    kept = (Dropout(0.5).train()(torch.ones(1 << 18)) != 0).float() - 0.5
    for lag in (1, 2, 4, 7, 8, 16, 64, 1024):
        correlation = (kept[lag:] * kept[:-lag]).mean().item() / 0.25
        assert abs(correlation) < 4 / len(kept) ** 0.5
    for lane in kept.view(-1, 8).mean(0):
        assert abs(lane.item()) < 4 * 0.5 / (len(kept) / 8) ** 0.5


def test_repeats_under_a_seed_and_not_without() -> None:
    drop, x = Dropout(0.3).train(), torch.randn(7, 11)
    torch.manual_seed(5)
    first, second = drop(x), drop(x)
    torch.manual_seed(5)
    assert torch.equal(first, drop(x))
    assert torch.equal(second, drop(x))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("drop", [Dropout(0.3).eval(), Dropout(0.0).train()])
def test_does_nothing_in_eval_or_at_zero(drop: Dropout) -> None:
    x = torch.randn(4, 5)
    before = torch.get_rng_state()
    assert drop(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("probability", [0.99, 0.998, 0.999, 0.9999])
def test_a_probability_next_to_one_still_keeps_something(probability: float) -> None:
    torch.manual_seed(1)
    dropped = Dropout(probability).train()(torch.ones(1 << 16))
    assert dropped.isfinite().all()
    assert 0 < (dropped != 0).float().mean() < 0.02


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (5,), (3, 7), (2, 3, 5)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5).train()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_keeps_the_dtype_forward_and_back(dtype: torch.dtype) -> None:
    x = torch.ones(4, 6, dtype=dtype, requires_grad=True)
    dropped = Dropout(0.5).train()(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert dropped.dtype == x.grad.dtype == dtype


def test_a_view_is_dropped_as_its_copy() -> None:
    drop, x = Dropout(0.5).train(), torch.randn(4, 6).T
    torch.manual_seed(2)
    view = drop(x)
    torch.manual_seed(2)
    assert torch.equal(view, drop(x.contiguous()))


def test_gradient_is_exact_twice_over() -> None:
    torch.manual_seed(3)
    keep = torch.rand(3, 4) > 0.5
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    function: Any = dropout._Drop

    def drop(x: Tensor) -> Tensor:
        dropped: Tensor = function.apply(x, keep, 1.6)
        return dropped**2

    assert torch.autograd.gradcheck(drop, (x,))
    assert torch.autograd.gradgradcheck(drop, (x,))


def test_gradient_flows_where_the_value_did() -> None:
    torch.manual_seed(4)
    x = torch.ones(50, requires_grad=True)
    dropped = Dropout(0.3).train()(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, dropped.detach())


def test_says_its_probability() -> None:
    assert repr(Dropout(0.25)) == "Dropout(0.25)"


def test_entries_of_a_matrix_are_dropped_in_training_and_nothing_of_what_goes_in() -> None:
    """Against torch's linear layer with the entries that the draw has left."""
    torch.manual_seed(1)
    layer = DroppedLinear(5, 4, 0.25).double()
    x = torch.randn(3, 5).double()
    with torch.no_grad():
        layer.bias.uniform_()
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight.T + layer.bias)
    torch.manual_seed(2)
    scaled = Dropout(0.25).train()(torch.ones(4, 5).double())
    assert 0 < (scaled == 0).sum() < 20
    torch.manual_seed(2)
    found = layer.train()(x)
    torch.testing.assert_close(found, x @ (layer.weight * scaled).T + layer.bias)
    (gradient,) = torch.autograd.grad(found.sum(), [layer.weight])
    torch.testing.assert_close(gradient, x.sum(0) * scaled)
