"""Sinusoidal, learned and relative positions: the formula, the ends of the table, and what lies past them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nmt.errors import DataError
from nmt.layers.positions import LearnedPositions, RelativePositions, SinusoidalPositions, build_positions


def sinusoid(number: int, column: int, width: int) -> float:
    """Position ``number``, counted from 0, is angle number + 1; the column's wavelength grows geometrically."""
    half = width // 2
    angle = (number + 1) * 10000.0 ** (-(column % half) / (half - 1))
    return math.sin(angle) if column < half else math.cos(angle)


@pytest.mark.parametrize("width", [4, 10, 64])
def test_sinusoids_are_the_formula(width: int) -> None:
    table = SinusoidalPositions(width)(0, 256)
    expected = [[sinusoid(number, column, width) for column in range(width)] for number in range(256)]
    torch.testing.assert_close(table, torch.tensor(expected), rtol=0, atol=1e-7)


def test_far_positions_are_as_exact_as_near_ones() -> None:
    """In single precision the angle itself would be off by 2e-4 out here."""
    row = SinusoidalPositions(8)(4999, 1)[0]
    torch.testing.assert_close(row, torch.tensor([sinusoid(4999, column, 8) for column in range(8)]), rtol=0, atol=1e-7)


def test_width_two_has_one_wavelength() -> None:
    torch.testing.assert_close(SinusoidalPositions(2)(0, 1), torch.tensor([[math.sin(1.0), math.cos(1.0)]]))


def test_wavelengths_reach_from_the_shortest_to_the_longest() -> None:
    """2 pi in the first column, 10000 * 2 pi in the last: inclusive, as the authors' code has it."""
    table = SinusoidalPositions(8)(0, 1)[0]
    torch.testing.assert_close(table[[0, 3]], torch.tensor([math.sin(1.0), math.sin(1e-4)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_table_grows_and_what_it_held_stays(dtype: torch.dtype) -> None:
    positions = SinusoidalPositions(6).to(dtype)
    before = positions(0, 256).clone()
    long = positions(0, 257)
    assert long.dtype == dtype
    torch.testing.assert_close(long[:256], before, rtol=0, atol=1e-7)
    assert len(positions.table) == 512
    assert len(positions(2000, 3)) == 3
    torch.testing.assert_close(positions(0, 256), before, rtol=0, atol=1e-7)


def test_a_stretch_is_a_part_of_the_whole() -> None:
    for positions in (SinusoidalPositions(6), LearnedPositions(6, 40)):
        torch.testing.assert_close(positions(7, 5), positions(0, 40)[7:12], rtol=0, atol=0)
        assert positions(3, 0).shape == (0, 6)


def test_sinusoids_are_no_part_of_a_checkpoint() -> None:
    assert not SinusoidalPositions(6).state_dict()
    assert not list(SinusoidalPositions(6).parameters())


def test_learned_positions_end_where_the_recipe_says() -> None:
    positions = LearnedPositions(6, 10)
    assert positions(0, 10).shape == positions(9, 1).expand(10, 6).shape
    with pytest.raises(DataError, match=r"^a sentence of 11 tokens is longer than the model's max_positions 10$"):
        positions(0, 11)
    with pytest.raises(DataError, match="a sentence of 11 tokens"):
        positions(10, 1)


def test_learned_positions_start_as_wide_as_embeddings_do() -> None:
    torch.manual_seed(1)
    assert LearnedPositions(64, 2000).weight.std().item() == pytest.approx(1 / 8, rel=0.02)


@pytest.mark.parametrize(("causal", "focuses"), [(False, (-1, 1, 0)), (True, (-1, -2, 0))])
def test_heads_begin_by_looking_beside_and_here_and_everywhere(causal: bool, focuses: tuple[int, ...]) -> None:
    added = RelativePositions(heads=5, most=3, causal=causal)(0, 6)
    for head, focus in enumerate(focuses):
        assert added[head, 2:5].argmax(dim=1).tolist() == [2 + focus, 3 + focus, 4 + focus]
        assert added[head, 2].tolist() == [-abs(max(-3, min(3, key - 2)) - focus) for key in range(6)]
    assert not added[3].any()
    assert torch.equal(added[4], added[0])


def test_relative_positions_are_a_number_for_each_distance_and_head() -> None:
    relative = RelativePositions(heads=3, most=2, causal=False)
    with torch.no_grad():
        relative.table.weight.copy_(torch.arange(15.0).view(5, 3))
    added = relative(0, 5)
    assert added.shape == (3, 5, 5)
    for head in range(3):
        for i in range(5):
            for j in range(5):
                assert added[head, i, j] == 3 * (max(-2, min(2, j - i)) + 2) + head
    torch.testing.assert_close(relative(0, 3), added[:, 1:4, 1:4])
    torch.testing.assert_close(relative(3, 2), added[:, 3:])


def test_recipe_names_the_kind() -> None:
    assert isinstance(build_positions("sinusoidal", 6, 10), SinusoidalPositions)
    assert build_positions("none", 6, 10) is None
    learned = build_positions("learned", 6, 10)
    assert isinstance(learned, LearnedPositions)
    assert learned.weight.shape == (10, 6)


def test_another_thread_may_put_back_a_shorter_table() -> None:
    """Who asked for a long one gets it nevertheless."""

    class Contended(SinusoidalPositions):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "table" and len(value) > 512:
                super().__setattr__(name, value[:512])

    torch.testing.assert_close(Contended(8)(0, 600), SinusoidalPositions(8)(0, 600))
