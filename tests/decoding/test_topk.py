"""The two-stage top-k gives what a full sort gives."""

from __future__ import annotations

import pytest
import torch

from nmt.decoding.topk import top_k, top_k_on_host


@pytest.mark.parametrize("width", [3, 100, 4095, 4096, 5000, 8000, 8192])
@pytest.mark.parametrize("k", [1, 2, 6, 40, 200])
@pytest.mark.parametrize("rows", [4, 9])
def test_top_k_is_the_head_of_a_sort(rows: int, width: int, k: int) -> None:
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(width + k))
    best, positions = top_k(values, k)
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best, expected.values[:, :k])
    assert torch.equal(positions, expected.indices[:, :k])


@pytest.mark.parametrize(
    ("rows", "width", "k"), [(1, 40, 50), (4, 5000, 6), (9, 5000, 6), (9, 8000, 6), (5, 8192, 200)]
)
def test_on_the_host_it_is_the_same(rows: int, width: int, k: int) -> None:
    values = torch.randint(-30, 30, (rows, width), generator=torch.Generator().manual_seed(k)).float()
    values += torch.arange(width) // 7 % 5 * 0.01  # equal ones are near each other, and far
    values[:, 3] = -torch.inf
    best, positions = top_k_on_host(values, k)
    expected = values.sort(dim=1, descending=True, stable=True)
    assert best.tolist() == expected.values[:, :k].tolist()
    assert values.gather(1, torch.from_numpy(positions)).tolist() == best.tolist()
    for row_values, row_positions in zip(best.tolist(), positions.tolist(), strict=True):
        pairs = [(-value, position) for value, position in zip(row_values, row_positions, strict=True)]
        assert pairs == sorted(set(pairs))


def test_top_k_orders_equal_values_by_position() -> None:
    values = torch.zeros(8, 5000)
    values[:4, [4999, 7, 2500]] = 1.0
    values[4:, [3, 503, 1003]] = 1.0  # one column of the first stage's table
    _, positions = top_k(values, 3)
    assert positions.tolist() == [[7, 2500, 4999]] * 4 + [[3, 503, 1003]] * 4


def test_top_k_shows_not_a_number_first() -> None:
    values = torch.zeros(8, 5000)
    values[:, 4321] = torch.nan
    assert torch.isnan(top_k(values, 2)[0][:, 0]).all()


def test_top_k_passes_over_minus_infinity() -> None:
    values = torch.full((8, 5000), -torch.inf)
    values[:, 17] = -3.0
    best, positions = top_k(values, 4)
    assert positions[:, 0].tolist() == [17] * 8
    assert best[:, 1:].tolist() == [[-torch.inf] * 3] * 8
