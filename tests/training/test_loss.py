"""The chunked loss is torch's cross-entropy, value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from nmt.training import loss as loss_module
from nmt.training.loss import perplexity, token_loss

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 5, 8, 30


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    features = torch.randn(ROWS, LENGTH, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    mask = torch.arange(LENGTH) < torch.tensor([[5], [2], [4]])
    return features, weight, targets, mask


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 4, 10**6], ids=["a row a chunk", "four rows", "all at once"])
def test_value_and_gradients_are_those_of_torch(smoothing: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", chunk)
    features, weight, targets, mask = problem()
    ours = token_loss(features, weight, targets, mask, smoothing=smoothing)
    logits = (features @ weight.T)[mask]
    theirs = functional.cross_entropy(logits, targets[mask], label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(
        ours.negative_log_likelihood, functional.cross_entropy(logits, targets[mask], reduction="sum")
    )
    ours_gradients = torch.autograd.grad(ours.loss * 0.5, (features, weight))
    their_gradients = torch.autograd.grad(theirs * 0.5, (features, weight))
    torch.testing.assert_close(ours_gradients, their_gradients)


@pytest.mark.parametrize("chunk", [1, 4, 10**6], ids=["a row a chunk", "two rows", "all at once"])
def test_consistency_is_the_divergence_between_two_passes(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradients of R-Drop as its paper writes it, by torch's own cross-entropy and divergence."""
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", chunk)
    features, weight, targets, mask = problem()
    again = torch.randn_like(features).requires_grad_()
    both = torch.cat([features, again])
    ours = token_loss(both, weight, targets, mask, smoothing=0.1, consistency=3.0)
    first, second = ((one @ weight.T)[mask] for one in (features, again))
    wanted = targets[mask]
    losses = [functional.cross_entropy(one, wanted, label_smoothing=0.1, reduction="sum") for one in (first, second)]
    p, r = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    apart = [functional.kl_div(*pair, log_target=True, reduction="sum") for pair in ((p, r), (r, p))]
    theirs = (losses[0] + losses[1] + 3.0 * (apart[0] + apart[1]) / 2) / 2
    torch.testing.assert_close(ours.loss, theirs)
    plain = [functional.cross_entropy(one, wanted, reduction="sum") for one in (first, second)]
    torch.testing.assert_close(ours.negative_log_likelihood, sum(plain) / 2)
    with torch.no_grad():
        unwanted = token_loss(both, weight, targets, mask, smoothing=0.1, consistency=3.0)
    torch.testing.assert_close(unwanted.loss, theirs.detach())
    parts = (features, again, weight)
    torch.testing.assert_close(torch.autograd.grad(ours.loss, parts), torch.autograd.grad(theirs, parts))


def test_padding_gives_neither_loss_nor_gradient() -> None:
    features, weight, targets, mask = problem()
    loss = token_loss(features, weight, targets, mask).loss
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient[~mask].abs().max() == 0
    changed = torch.where(mask, targets, 7)
    assert token_loss(features, weight, changed, mask).loss == loss


def test_huge_logits_stay_finite() -> None:
    features, weight, targets, mask = problem(torch.float32)
    loss = token_loss(features * 1e4, weight, targets, mask, smoothing=0.1).loss
    assert math.isfinite(loss.item())


def test_under_autocast_the_value_is_that_of_bfloat16_products() -> None:
    features, weight, targets, mask = problem(torch.float32)
    exact = token_loss(features, weight, targets, mask).loss
    with torch.autocast("cpu", torch.bfloat16):
        narrow = token_loss(features, weight, targets, mask).loss
    assert narrow.dtype == torch.float32
    assert narrow != exact
    assert narrow.item() == pytest.approx(exact.item(), rel=0.01)


def test_no_gradient_is_made_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight, targets, mask = problem()
    wanted = token_loss(features, weight, targets, mask)
    monkeypatch.setattr(torch.Tensor, "__setitem__", None)  # nobody can take q from p
    for without_gradients in (torch.no_grad(), torch.inference_mode()):
        with without_gradients:
            found = token_loss(features, weight, targets, mask)
        assert found.loss.item() == pytest.approx(wanted.loss.item())
        assert found.negative_log_likelihood.item() == pytest.approx(wanted.negative_log_likelihood.item())
    with pytest.raises(TypeError):
        token_loss(features, weight, targets, mask)


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(1e6, 1) == math.inf
