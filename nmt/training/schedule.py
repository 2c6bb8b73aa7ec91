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

    ``factor`` is what the plateau schedule has multiplied the rate by so far, ``waited`` how many validations in a row
    did not improve; both are saved with a checkpoint.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self._shape = config.schedule
        if config.budget and not isinstance(config.schedule, (CosineSchedule, LinearSchedule)):
            self._shape = LinearSchedule(type="linear", warmup_steps=config.schedule.warmup_steps)
        self.factor = 1.0
        self.waited = 0

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of optimiser step ``step``, counted from 1, of a run of ``total`` steps."""
        schedule = self._shape
        warmup = min(schedule.warmup_steps, total // 10) if self.config.budget else schedule.warmup_steps
        if step < warmup:
            return self.config.learning_rate * step / warmup * self.factor
        return self.config.learning_rate * _shape(schedule, step, warmup, total) * self.factor

    def validated(self, improved: bool) -> bool:
        """Hear of a validation; says whether the rate was cut because of it."""
        schedule = self._shape
        self.waited = 0 if improved else self.waited + 1
        if isinstance(schedule, PlateauSchedule) and self.waited >= schedule.patience:
            self.factor *= schedule.factor
            self.waited = 0
            return True
        return False


def _shape(schedule: AnySchedule, step: int, warmup: int, total: int) -> float:
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


def _done(warmup: int, step: int, total: int) -> float:
    """The share of the way from the end of warm-up to the last step, between 0 and 1."""
    return min(1.0, (step - warmup) / max(1, total - warmup))
