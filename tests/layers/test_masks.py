"""Masks against their definition, entry by entry."""

from __future__ import annotations

import pytest
import torch

from nmt.layers.masks import causal_mask, masked_mean, window_mask

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [0, 1, 5])
def test_causal_mask(length: int) -> None:
    expected = [[column <= row for column in range(length)] for row in range(length)]
    assert causal_mask(length, CPU).tolist() == expected


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("window", [1, 2, 10])
def test_window_mask(length: int, window: int) -> None:
    expected = [[row - window <= column <= row + window for column in range(length)] for row in range(length)]
    assert window_mask(length, window, CPU).tolist() == expected


def test_masked_mean_is_over_the_real_states_only() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [1e9, 1e9]], [[5.0, -5.0], [1e9, 1e9], [1e9, 1e9]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(states, mask).tolist() == [[2.0, 4.0], [5.0, -5.0]]
