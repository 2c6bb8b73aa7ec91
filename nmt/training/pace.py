"""How long a training goes on, and when it validates and saves on the way: by steps, or by the clock.

By steps, all of it stands in the recipe. By the clock, a budget of seconds is fitted: the speed of the steps so far and
the time left give the number of steps that the run will have had, which is what the schedule needs to know for the
rate to reach its end as the time does; validations come at equal distances in time, as many as a tenth of the budget
pays for and at least one a quarter; and what the last validation and the average will take is kept back for them.

A step that sends its batches through the model twice (``training.consistency``) takes about :data:`TWICE` the time of
one that does not. By that a run is timed that begins with the latter, and a share of its time is told in steps.
"""

from __future__ import annotations

from nmt.config import TrainingConfig
from nmt.training.state import Position

__all__ = ["Pace", "StepPace", "TimePace", "new_pace", "turn"]

#: The share of a budget that validations on the way may take, if they are cheap enough for one a quarter, and how many
#: there are at most.
VALIDATION_SHARE, MOST_VALIDATIONS = 0.1, 20
#: Seconds between two checkpoints to go on from, at most; a tenth of the budget where that is less.
SAVE_SECONDS = 120.0
#: Steps whose time is not yet that of a step: kernels are made, memory is asked for.
COLD_STEPS = 5
#: The share of a budget that is kept back for what cannot be foreseen.
MARGIN = 0.01
#: The time of a step with two passes in that of a step with one, and the weight of that in steps when they begin.
TWICE, EXPECTED_STEPS = 2.0, 50


class StepPace:
    """``max_steps``, ``validate_every`` and ``save_every`` of the recipe.

    The loop asks both paces the same after every step. Seconds are the run's, ``Position.seconds``.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.once = config.max_steps if not config.consistency else _steps_of_time(config)

    def goes_twice(self, position: Position) -> bool:
        """Whether it is time to send batches through twice: after so many steps that send them once."""
        return position.step >= self.once

    def total_steps(self, position: Position) -> int | None:
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

    def stepped(self, position: Position, seconds: float) -> None:
        """Learn the speed of this machine, to tell how long it will take."""
        _timed(position, seconds)

    def validated(self, position: Position, seconds: float) -> None:
        """Learn what a validation costs."""
        position.validation_seconds = seconds

    def seconds_left(self, position: Position) -> float | None:
        """How long it will take; None while the speed is unknown. What a validation costs is learnt from the first."""
        if (each := _seconds_a_step(position)) is None:
            return None
        every, last = self.config.validate_every, self.config.max_steps
        validations = last // every - position.validated // every + (last % every > 0) + (self.config.average > 1)
        steps = float(max(0, last - position.step))
        if not position.twice:
            steps += (TWICE - 1) * min(steps, last - self.once)
        return steps * each + validations * position.validation_seconds


class TimePace:
    """A budget of seconds for the whole run, from the start of the command to the last file written.

    What is learnt of the machine on the way stands in the position: a run that is resumed knows it still.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.budget = config.budget
        self.averages = config.average > 1
        self.once = config.consistency_start if config.consistency else 1.0

    def goes_twice(self, position: Position) -> bool:
        """Whether it is time to send batches through twice."""
        return position.seconds >= self.once * self._deadline(position)

    def total_steps(self, position: Position) -> int | None:
        """The steps done and those that the time left is enough for, at the speed so far; None while it is unknown."""
        if (each := _seconds_a_step(position)) is None:
            return None
        left = self._time_for_steps(position)
        if not position.twice:
            before = max(0.0, self.once * self._deadline(position) - position.seconds)
            left -= max(0.0, left - before) * (1 - 1 / TWICE)
        return max(position.step, 1) + int(left / each)

    def is_over(self, position: Position) -> bool:
        """Whether only what the end takes is left. However short the budget, there is a step to save."""
        spent = position.seconds >= self._deadline(position) or position.spent == self.budget
        return position.step > 0 and spent

    def validates(self, position: Position) -> bool:
        """At equal distances in time, but not shortly before the end, which validates by itself."""
        left = self._deadline(position) - position.seconds
        return position.seconds >= self._next_validation(position) and left > self._distance(position) / 2

    def saves(self, position: Position) -> bool:
        """Every two minutes, or ten times a run."""
        return position.seconds >= position.saved_at + min(SAVE_SECONDS, self.budget / 10)

    def stepped(self, position: Position, seconds: float) -> None:
        """Learn the speed of this machine."""
        if not position.timed_steps:
            position.validated_at = position.seconds  # the first validation is awaited from here
        _timed(position, seconds)

    def validated(self, position: Position, seconds: float) -> None:
        """Learn what a validation costs; the next comes when it can be paid for."""
        # Validations get shorter as translations get better, never much longer.
        position.validation_seconds = seconds
        position.validated_at = position.seconds

    def seconds_left(self, position: Position) -> float | None:
        """What is left of the budget."""
        return max(0.0, self.budget - position.seconds)

    def _next_validation(self, position: Position) -> float:
        return position.validated_at + self._distance(position)

    def _distance(self, position: Position) -> float:
        """Seconds from one validation to the next: never more than a quarter, what the last one cost gets stale."""
        if not position.validation_seconds:
            return self.budget * VALIDATION_SHARE
        affordable = max(position.validation_seconds / VALIDATION_SHARE, self.budget / MOST_VALIDATIONS)
        return min(affordable, self.budget / 4)

    def _deadline(self, position: Position) -> float:
        """When training has to end for its last validation, and that of the average, to end in time."""
        last = position.validation_seconds * (2 if self.averages else 1)
        return self.budget * (1 - MARGIN) - last

    def _time_for_steps(self, position: Position) -> float:
        """Seconds until the deadline, less those of the validations in between."""
        left = max(0.0, self._deadline(position) - position.seconds)
        first = max(0.0, self._next_validation(position) - position.seconds)
        validations = 0 if left < first else 1 + int((left - first) / self._distance(position))
        return max(0.0, left - validations * position.validation_seconds)


def turn(position: Position, twice: bool) -> None:
    """From here on batches go through twice, or once again.

    What a step takes is learnt anew, beginning with what is expected of it; what may be in a batch is halved where that
    is bounded, and patience is as long as it was.
    """
    position.twice = twice
    if (each := _seconds_a_step(position)) is not None:
        known = min(position.timed_steps - COLD_STEPS, EXPECTED_STEPS)
        position.timed_steps = COLD_STEPS + known
        position.timed_seconds = known * each * (TWICE if twice else 1 / TWICE)
    if twice and position.room:
        position.room = max(1, position.room // 2)
    position.waited = 0


def _steps_of_time(config: TrainingConfig) -> int:
    """So many steps with one pass take ``consistency_start`` of the time: n / (n + TWICE (all - n)) of it."""
    share = config.consistency_start
    return min(round(config.max_steps * TWICE * share / (1 + (TWICE - 1) * share)), config.max_steps - 1)


def _timed(position: Position, seconds: float) -> None:
    """Add a step to those that tell the speed."""
    position.timed_steps += 1
    if position.timed_steps > COLD_STEPS:
        position.timed_seconds += seconds


def _seconds_a_step(position: Position) -> float | None:
    """The mean so far; None while all steps were cold ones."""
    measured = position.timed_steps - COLD_STEPS
    return position.timed_seconds / measured if measured > 0 else None


Pace = StepPace | TimePace


def new_pace(config: TrainingConfig) -> Pace:
    """By the clock where the recipe has a budget, by steps where it has none."""
    return TimePace(config) if config.budget else StepPace(config)
