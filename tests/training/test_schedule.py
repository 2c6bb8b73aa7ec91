"""Learning rates against the formulas of the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nmt.config import TrainingConfig
from nmt.training.schedule import Schedule


def schedule(max_steps: int = 100, **kind: Any) -> Schedule:
    return Schedule(TrainingConfig.model_validate({"max_steps": max_steps, "learning_rate": 1e-3, "schedule": kind}))


@pytest.mark.parametrize("kind", ["constant", "inverse-sqrt", "cosine", "linear", "plateau"])
def test_warm_up_is_a_straight_line_from_zero_to_the_learning_rate(kind: str) -> None:
    rates = [schedule(type=kind, warmup_steps=10).learning_rate(step, 100) for step in range(1, 11)]
    assert rates == pytest.approx([1e-3 * step / 10 for step in range(1, 11)])


def test_inverse_square_root_is_that_of_the_transformer_paper() -> None:
    """lr(step) = c * min(step^-0.5, step * warmup^-1.5) (Vaswani et al. 2017, equation 3)."""
    ours = schedule(type="inverse-sqrt", warmup_steps=40)
    constant = 1e-3 / 40**-0.5
    for step in (1, 20, 39, 40, 41, 90):
        assert ours.learning_rate(step, 100) == pytest.approx(constant * min(step**-0.5, step * 40**-1.5))


@pytest.mark.parametrize(("kind", "halfway"), [("cosine", 0.55), ("linear", 0.55)])
def test_decay_ends_where_it_should(kind: str, halfway: float) -> None:
    ours = schedule(type=kind, warmup_steps=20, final=0.1)
    assert ours.learning_rate(20, 100) == pytest.approx(1e-3)
    assert ours.learning_rate(60, 100) == pytest.approx(halfway * 1e-3)
    assert ours.learning_rate(100, 100) == pytest.approx(1e-4)
    assert ours.learning_rate(130, 100) == pytest.approx(1e-4)


def test_cosine_follows_the_cosine() -> None:
    ours = schedule(type="cosine", warmup_steps=0)
    assert ours.learning_rate(25, 100) == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_plateau_cuts_the_rate_when_patience_is_out_and_starts_counting_anew() -> None:
    ours = schedule(type="plateau", factor=0.5, patience=2)
    assert [ours.validated(improved) for improved in (True, False, False, False, True, False, False)] == [
        False, False, True, False, False, False, True,
    ]  # fmt: skip
    assert ours.learning_rate(50, 100) == pytest.approx(0.25e-3)


def test_other_schedules_do_not_listen_to_validations() -> None:
    ours = schedule(type="constant")
    assert not any(ours.validated(False) for _ in range(10))
    assert ours.learning_rate(5, 100) == 1e-3
