"""The learning rate at every step."""

from __future__ import annotations

import math
from typing import assert_never

from nmt.config import (
    AnySchedule,
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    PlateauSchedule,
    TrainingConfig,
)

__all__ = ["Schedule"]


class Schedule:
    """A function of the step and of how many there will be, but for the plateau schedule, which also hears how
    validations went.

    ``factor`` is what the rate has been multiplied by so far, by the plateau schedule or because training went back;
    ``waited`` is how many validations in a row did not improve. Both are saved with a checkpoint.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self._schedule = config.schedule
        if config.budget and not isinstance(config.schedule, (CosineSchedule, LinearSchedule)):
            self._schedule = LinearSchedule(type="linear", warmup_steps=config.schedule.warmup_steps)
        self.factor = 1.0
        self.waited = 0

    def learning_rate(self, step: int, total: int | None) -> float:
        """The rate of optimiser step ``step``, counted from 1, of a run of ``total`` steps; None is not known yet."""
        schedule = self._schedule
        warmup = schedule.warmup_steps
        if self.config.budget and total is not None:
            warmup = min(warmup, total // 10)
        if step < warmup:
            return self.config.learning_rate * step / warmup * self.factor
        return self.config.learning_rate * _share(schedule, step, warmup, total) * self.factor

    def validated(self, improved: bool) -> bool:
        """Hear of a validation; says whether the rate was cut because of it."""
        schedule = self._schedule
        self.waited = 0 if improved else self.waited + 1
        if isinstance(schedule, PlateauSchedule) and self.waited >= schedule.patience:
            self.factor *= schedule.factor
            self.waited = 0
            return True
        return False


def _share(schedule: AnySchedule, step: int, warmup: int, total: int | None) -> float:
    """The rate after ``warmup`` steps as a share of the full one."""
    match schedule:
        case ConstantSchedule() | PlateauSchedule():
            return 1.0
        case InverseSqrtSchedule():
            return math.sqrt(warmup / step)
        case CosineSchedule():
            done = _done(warmup, step, total)
            return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done))
        case LinearSchedule():
            return 1 - (1 - schedule.final) * _done(warmup, step, total)
    assert_never(schedule)


def _done(warmup: int, step: int, total: int | None) -> float:
    """The share of the way from the end of warm-up to the last step, between 0 and 1."""
    if total is None:
        return 0.0
    return min(1.0, (step - warmup) / max(1, total - warmup))
