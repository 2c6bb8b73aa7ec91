"""Products laid out for search are the products of the weights they were made from."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from nmt.errors import ConfigError
from nmt.layers.packing import LARGE, LIGHT, SLIGHT, Precision, pack, pack_layers, pack_rectified, resolve_precision
from nmt.training.precision import resolve_precision as training_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr("nmt.layers.packing.SMALL", 0)


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize(("outer", "inner"), [(24, 16), (LARGE // 256, 256)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 1e-6), ("float16", 4e-4), ("bfloat16", 1e-2), ("int8", 2.5e-2)]
)
@torch.inference_mode()
def test_products(rows: int, outer: int, inner: int, biased: bool, precision: Precision, error: float) -> None:
    weight, bias, x = torch.randn(outer, inner), torch.randn(outer) if biased else None, torch.randn(rows, inner)
    expected = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    made = pack(weight, bias, precision)(x)
    assert made.dtype == torch.float32
    assert (made - expected).norm() <= error * expected.norm()
    assert made.data_ptr() != pack(weight, bias, precision)(x).data_ptr(), "a new tensor each time"


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("has_units", [True, False])
@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 1e-6), ("float16", 6e-4), ("bfloat16", 1.5e-2), ("int8", 4e-2)]
)
@torch.inference_mode()
def test_a_rectified_product_goes_into_another(
    rows: int, has_units: bool, precision: Precision, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors that multiply bfloat16 (where the test runs on one) and on others; what comes out is as wide."""
    if not has_units:
        monkeypatch.setattr("nmt.layers.packing.multiplies_bfloat16", lambda device: False)
    inner, outer, x = nn.Linear(32, 48), nn.Linear(48, 32), torch.randn(rows, 32)
    hidden = functional.linear(x.double(), inner.weight.double(), inner.bias.double()).clamp_min(0)
    expected = functional.linear(hidden, outer.weight.double(), outer.bias.double())
    between = pack_rectified(inner, precision)(x)
    assert (between - hidden).norm() <= error * hidden.norm()
    assert (between >= 0).all()
    made = pack_layers([outer], precision)(between)
    assert made.dtype == torch.float32
    assert (made - expected).norm() <= error * expected.norm()


@pytest.mark.parametrize("older", [True, False])
@torch.inference_mode()
def test_half_is_the_product_of_the_rounded_weight(older: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either of torch's names for it, and as it stands; what comes in and what is added up is not rounded."""
    name = "fbgemm_linear_fp16_weight_fp32_activation"
    if not older:
        monkeypatch.delattr(torch, name, raising=False)
    elif not hasattr(torch, name):
        pytest.skip("torch has parted with it")
    weight, bias, x = torch.randn(24, 16), torch.randn(24), 1e5 * torch.randn(7, 16)
    expected = functional.linear(x.double(), weight.half().double(), bias.double())
    for few in (True, False):
        made = pack(weight, bias, "float16", few=few)(x)
        torch.testing.assert_close(made.double(), expected, rtol=1e-6, atol=0.1)


def test_laying_out_leaves_the_process_as_it_was() -> None:
    """From several threads at once: filters of warnings and torch's engine are everybody's."""
    before, engine = list(warnings.filters), torch.backends.quantized.engine
    precisions: list[Precision] = ["float16", "int8"] * 20
    with ThreadPoolExecutor(4) as threads:
        products = list(threads.map(lambda precision: pack(torch.ones(8, 16), None, precision), precisions))
    assert list(warnings.filters) == before and torch.backends.quantized.engine == engine
    for product in products:
        torch.testing.assert_close(product(torch.ones(2, 16)), torch.full((2, 8), 16.0))


@torch.inference_mode()
def test_a_weight_that_half_cannot_hold_is_not_rounded() -> None:
    weight, x = torch.randn(24, 16), torch.randn(3, 16)
    weight[3, 5] = 1e5
    torch.testing.assert_close(pack(weight, None, "float16")(x), functional.linear(x, weight))


@torch.inference_mode()
def test_rows_of_int8_know_nothing_of_each_other() -> None:
    """However large the numbers of one, the others are what they are alone, to the last bit."""
    product = pack(torch.randn(24, 16), torch.randn(24), "int8")
    x = torch.randn(9, 16) * 10.0 ** torch.arange(-4, 5).unsqueeze(1)
    torch.testing.assert_close(product(x), torch.cat([product(row.unsqueeze(0)) for row in x]), rtol=0, atol=0)


@torch.inference_mode()
def test_the_largest_numbers_fit() -> None:
    """Bytes that are added in pairs must not run over: the largest of both sides, all of one sign."""
    weight, x = torch.ones(8, 64), torch.ones(3, 64)
    for sign in (1.0, -1.0):
        torch.testing.assert_close(pack(weight, None, "int8")(sign * x), torch.full((3, 8), 64 * sign))


@torch.inference_mode()
def test_nothing_and_no_number() -> None:
    for precision in get_args(Precision):
        product = pack(torch.randn(8, 16), torch.ones(8), precision)
        torch.testing.assert_close(product(torch.zeros(2, 16)), torch.ones(2, 8))
        assert product(torch.full((1, 16), torch.nan)).isnan().all()
        assert pack(torch.full((8, 16), torch.nan), None, precision)(torch.ones(2, 16)).isnan().all()


@torch.inference_mode()
def test_layers_side_by_side() -> None:
    layers, x = [nn.Linear(16, 8), nn.Linear(16, 3)], torch.randn(4, 16)
    torch.testing.assert_close(pack_layers(layers, "float32")(x), torch.cat([layer(x) for layer in layers], dim=1))


def test_precision_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [SLIGHT], [SLIGHT, SLIGHT, SLIGHT], [LIGHT], [LIGHT + 1]
    without, having = ["float16", "float32", "float16", "float32"], ["float32", "float32", "bfloat16", "bfloat16"]
    for has, expected in ((False, without), (True, having)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        assert [resolve_precision("auto", CPU, weights) for weights in models] == expected
        for precision in get_args(Precision):
            assert resolve_precision(precision, CPU, [1]) == precision
    for processor, gains in (("AMD EPYC", True), ("Intel Xeon", False)):
        found = {"avx512_bf16": True, "cpu_name": processor}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert [resolve_precision("auto", CPU, weights) for weights in models] == (having if gains else without)
        assert training_precision("auto", CPU) == (torch.bfloat16 if gains else torch.float32)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert resolve_precision("auto", torch.device("cuda"), [1]) == "float32"
    for narrow in ("float16", "int8"):
        with pytest.raises(ConfigError, match=f"{narrow} cannot be had on cuda"):
            resolve_precision(narrow, torch.device("cuda"), [1])
    monkeypatch.setattr("nmt.layers.packing.has_fbgemm", lambda device: False)
    assert resolve_precision("auto", CPU, [1]) == "float32"
    with pytest.raises(ConfigError, match="int8 cannot be had on cpu here: use float32 or bfloat16"):
        resolve_precision("int8", CPU, [1])
