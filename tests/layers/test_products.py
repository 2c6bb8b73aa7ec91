"""The products of a loop: the values and gradients that torch gives, with fewer products."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nmt.layers.dropout import DroppedLinear
from nmt.layers.products import PLAIN, LoopProducts, Products

B, S, H = 3, 5, 4


def looped(products: Products, parts: dict[str, Tensor], layers: dict[str, nn.Linear], steps: int = 6) -> Tensor:
    """A state that goes round through every kind of product; of its last one half is not looked at."""
    state = parts["start"]
    total = state.new_zeros(())
    for _ in range(steps):
        query = products.linear(layers["query"], state.unsqueeze(1))
        scores = products.dot(query, parts["keys"]) + products.additive(query, parts["keys"], layers["energy"])
        weights = scores.softmax(dim=-1)
        context = products.weigh(weights, parts["values"]).squeeze(1)
        context = context + products.weigh(weights, parts["keys"]).squeeze(1)  # keys may be values too
        state = torch.tanh(products.linear(layers["state"], torch.cat([state, context], dim=-1)))
        total = total + (state[:, : H // 2].double() ** 2).sum()
    products.linear(layers["query"], state)  # of which nothing comes
    return total


def both(dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, nn.Linear]]:
    torch.manual_seed(5)
    shapes = {"start": (B, H), "keys": (B, S, H), "values": (B, S, H)}
    parts = {name: torch.randn(shape, dtype=dtype).requires_grad_() for name, shape in shapes.items()}
    layers = {
        "query": nn.Linear(H, H, bias=False, dtype=dtype),
        "state": nn.Linear(2 * H, H, dtype=dtype),
        "energy": nn.Linear(H, 1, bias=False, dtype=dtype),
    }
    return parts, layers


def gradients(products: Products, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    parts, layers = both(dtype)
    total = looped(products, parts, layers)
    weights = [weight for layer in layers.values() for weight in layer.parameters()]
    return total.detach(), list(torch.autograd.grad(total, [*parts.values(), *weights]))


def test_values_and_gradients_are_those_of_torch() -> None:
    torch.testing.assert_close(gradients(LoopProducts()), gradients(PLAIN))


def test_products_are_narrow_under_autocast_and_gradients_wide() -> None:
    exact = gradients(PLAIN, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = gradients(LoopProducts(), torch.float32)
        layer = nn.Linear(H, H)
        assert LoopProducts().linear(layer, torch.randn(B, H)).dtype == torch.bfloat16
    assert [one.dtype for one in narrow[1]] == [torch.float32] * 7
    for found, wanted in zip(narrow[1], exact[1], strict=True):
        assert float((found - wanted).norm()) < 0.03 * float(wanted.norm())


def test_without_gradients_nothing_is_kept() -> None:
    parts, layers = both()
    with torch.no_grad():
        torch.testing.assert_close(looped(LoopProducts(), parts, layers), looped(PLAIN, parts, layers))
    with torch.inference_mode():
        assert not looped(LoopProducts(), parts, layers).requires_grad


def test_a_loop_is_gone_when_it_is_over() -> None:
    """Without Python's collector, which comes hundreds of batches later."""
    parts, layers = both()
    gc.collect()
    gc.disable()
    try:
        products = LoopProducts()
        total = looped(products, parts, layers)
        kept = [weakref.ref(one) for one in (*products._known.values(), *products._pairs.values()) if one is not None]
        total.backward()  # type: ignore[no-untyped-call]
        del products, total
        assert len(kept) == 6
        assert [one() for one in kept] == [None] * 6
    finally:
        gc.enable()


def test_a_graph_may_be_gone_back_through_again() -> None:
    """In part, for what does not need the weights, and for several sums: none counts what another left."""
    found = []
    for products in (LoopProducts(), PLAIN):
        parts, layers = both()
        total = looped(products, parts, layers)
        weights = [weight for layer in layers.values() for weight in layer.parameters()]
        every = [*parts.values(), *weights]
        passes = [torch.autograd.grad(total, [parts["start"]], retain_graph=True)]
        passes += [torch.autograd.grad(share * total, every, retain_graph=True) for share in (1.0, 3.0)]
        found.append(passes)
    torch.testing.assert_close(*found)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products whose result has the shape of a weight."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += func.overloadpacket == torch.ops.aten.mm and tuple(result.shape) == self.shape
        return result


@pytest.mark.parametrize(("products", "wanted"), [(LoopProducts(), 1), (PLAIN, 6)])
def test_the_gradient_of_a_weight_is_one_product(products: Products, wanted: int) -> None:
    parts, layers = both()
    total = looped(products, parts, layers)
    with Counted((H, 2 * H)) as right, Counted((2 * H, H)) as left:
        total.backward()  # type: ignore[no-untyped-call]
    assert right.count + left.count == wanted


def test_a_loop_draws_once_what_is_left_of_a_matrix() -> None:
    """Every step goes through the same entries, and a second loop through others."""
    torch.manual_seed(1)
    layer, x = DroppedLinear(H, H, 0.5).double().train(), torch.randn(B, H).double()

    def looped() -> Tensor:
        products, state = LoopProducts(), x
        for _ in range(4):
            state = torch.tanh(products.linear(layer, state))
        return state

    torch.manual_seed(2)
    matrix = layer.matrix()
    expected = x
    for _ in range(4):
        expected = torch.tanh(expected @ matrix.T + layer.bias)
    torch.manual_seed(2)
    found = looped()
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad((one**2).sum(), [*layer.parameters()]) for one in (found, expected))
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(looped(), found)
