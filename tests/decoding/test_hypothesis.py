"""Shapes that only type checkers know of are checked in tests as the others are."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lines import _diagonal


def test_attention_is_a_matrix() -> None:
    assert Hypothesis((4,), -1.0, -1.0, attention=np.zeros((2, 3))).attention is not None
    with pytest.raises(TypeCheckError):
        Hypothesis((4,), -1.0, -1.0, attention=np.zeros(3))


def test_what_is_put_along_a_diagonal_are_matrices() -> None:
    assert _diagonal([np.ones((2, 3)), np.ones((1, 2))]).shape == (2, 4)
    with pytest.raises(TypeCheckError):
        _diagonal([np.ones(3)])
