"""How long a training goes on, and when it validates and saves on the way: by steps, or by the clock.

By steps, all of it stands in the recipe. By the clock, a budget of seconds is fitted: the speed of the steps so far and
the time left give the number of steps that the run will have had, which is what the schedule needs to know for the
rate to reach its end as the time does; validations come at equal distances in time, as many as a tenth of the budget
pays for; and what the last validation and the average will take is kept back for them.
"""

from __future__ import annotations

from nmt.config import TrainingConfig
from nmt.training.state import Position

__all__ = ["Pace", "StepPace", "TimePace", "new_pace"]

#: The share of a budget that validations on the way may take, and how many there are at most.
VALIDATION_SHARE, MOST_VALIDATIONS = 0.1, 20
#: Seconds between two checkpoints to go on from, at most; a tenth of the budget where that is less.
SAVE_SECONDS = 120.0
#: Steps whose time is not yet that of a step: kernels are made, memory is asked for.
COLD_STEPS = 5
#: The share of a budget that is kept back for what cannot be foreseen.
MARGIN = 0.01


class StepPace:
    """``max_steps``, ``validate_every`` and ``save_every`` of the recipe.

    The loop asks both paces the same after every step. Seconds are the run's, ``Position.seconds``.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def total_steps(self, position: Position) -> int:
        """The step with which the run will end, as far as can be told now: ``max_steps``."""
        return self.config.max_steps

    def is_over(self, position: Position) -> bool:
        """Whether ``max_steps`` are done."""
        return position.step >= self.config.max_steps

    def validates(self, position: Position) -> bool:
        """Every ``validate_every`` steps."""
        return position.step % self.config.validate_every == 0

    def saves(self, position: Position) -> bool:
        """Every ``save_every`` steps."""
        return position.step % self.config.save_every == 0

    def stepped(self, seconds: float) -> None:
        """Steps are counted, not timed."""

    def validated(self, position: Position, seconds: float) -> None:
        """Steps are counted, not timed."""


class TimePace:
    """A budget of seconds for the whole run, from the start of the command to the last file written."""

    def __init__(self, config: TrainingConfig) -> None:
        self.budget = config.budget
        self.averages = config.average > 1
        self._steps = 0
        self._step_seconds = 0.0
        self._validation_seconds = 0.0
        self._next_validation = self.budget * VALIDATION_SHARE
        self._next_save = 0.0

    def total_steps(self, position: Position) -> int:
        """The steps done and those that the time left is enough for, at the speed so far."""
        if self._steps <= COLD_STEPS:
            return position.step + 10**6  # nothing is known yet, and the rate should not fall meanwhile
        each = self._step_seconds / (self._steps - COLD_STEPS)
        return max(position.step, 1) + int(self._time_for_steps(position) / each)

    def is_over(self, position: Position) -> bool:
        """Whether only what the end takes is left."""
        return position.seconds >= self._deadline() or position.spent == self.budget

    def validates(self, position: Position) -> bool:
        """At equal distances in time, but not shortly before the end, which validates by itself."""
        left = self._deadline() - position.seconds
        return position.seconds >= self._next_validation and left > self._distance() / 2

    def saves(self, position: Position) -> bool:
        """Every two minutes, or ten times a run."""
        if position.seconds < self._next_save:
            return False
        self._next_save = position.seconds + min(SAVE_SECONDS, self.budget / 10)
        return True

    def stepped(self, seconds: float) -> None:
        """Learn the speed of this machine."""
        self._steps += 1
        if self._steps > COLD_STEPS:
            self._step_seconds += seconds

    def validated(self, position: Position, seconds: float) -> None:
        """Learn what a validation costs; the next comes when it can be paid for."""
        # Validations get shorter as translations get better, never much longer.
        self._validation_seconds = seconds
        self._next_validation = position.seconds + self._distance()

    def _distance(self) -> float:
        """Seconds from one validation to the next: never more than a quarter, what the last one cost gets stale."""
        affordable = max(self._validation_seconds / VALIDATION_SHARE, self.budget / MOST_VALIDATIONS)
        return min(affordable, self.budget / 4)

    def _deadline(self) -> float:
        """When training has to end for its last validation, and that of the average, to end in time."""
        last = self._validation_seconds * (2 if self.averages else 1)
        return self.budget * (1 - MARGIN) - last

    def _time_for_steps(self, position: Position) -> float:
        """Seconds until the deadline, less those of the validations in between."""
        left = max(0.0, self._deadline() - position.seconds)
        first = max(0.0, self._next_validation - position.seconds)
        validations = 0 if left < first else 1 + int((left - first) / self._distance())
        return max(0.0, left - validations * self._validation_seconds)


Pace = StepPace | TimePace


def new_pace(config: TrainingConfig) -> Pace:
    """By the clock where the recipe has a budget, by steps where it has none."""
    return TimePace(config) if config.budget else StepPace(config)
