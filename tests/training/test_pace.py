"""How long training goes on: by steps as the recipe says, by the clock so that it ends on time."""

from __future__ import annotations

import itertools
import random
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from nmt.config import TrainingConfig
from nmt.training.pace import StepPace, TimePace, new_pace, turn
from nmt.training.schedule import Schedule
from nmt.training.state import Position


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"learning_rate": 1e-3, "schedule": "linear", **values})


class Simulation:
    """A run of which every step and every validation takes the seconds it is told to; the clock is a number.

    With ``resumed`` it is stopped and gone on with after every step: only the position is kept. A step with two passes
    takes ``twice`` as long.
    """

    def __init__(
        self,
        training: TrainingConfig,
        step_seconds: Any,
        validation_seconds: Any,
        head: float = 0.0,
        resumed: bool = False,
        twice: float = 1.0,
    ) -> None:
        self.pace, self.schedule = new_pace(training), Schedule(training)
        self.position = Position(seconds=float(head))
        self.rates: list[float] = []
        self.validations: list[float] = []
        self.saves: list[float] = []
        self.expected: list[tuple[float, float | None]] = []
        self.twice_from: list[tuple[int, float]] = []
        validated = -1
        while not self.pace.is_over(self.position) or validated != self.position.step:
            if not self.pace.is_over(self.position):
                if training.consistency and not self.position.twice and self.pace.goes_twice(self.position):
                    turn(self.position, True)
                    self.twice_from.append((self.position.step, self.position.seconds))
                self.position.step += 1
                self.rates.append(self.schedule.learning_rate(self.position.step, self.pace.total_steps(self.position)))
                self.spend(float(step_seconds(self.position.step)) * (twice if self.position.twice else 1))
                self.expected.append((self.position.seconds, self.pace.seconds_left(self.position)))
            if self.pace.is_over(self.position) or self.pace.validates(self.position):
                self.validate(float(validation_seconds(self.position.seconds)))
                validated = self.position.validated = self.position.step
            if self.pace.saves(self.position):
                self.saves.append(self.position.seconds)
                self.position.saved_at = self.position.seconds
            if resumed:
                self.pace, self.position = new_pace(training), Position(**asdict(self.position))
        if training.average > 1:
            self.validate(float(validation_seconds(self.position.seconds)))

    def spend(self, seconds: float) -> None:
        self.position.seconds += seconds
        self.pace.stepped(self.position, seconds)

    def validate(self, seconds: float) -> None:
        self.position.seconds += seconds
        self.pace.validated(self.position, seconds)
        self.validations.append(self.position.seconds)


def assert_told_in_time(run: Simulation) -> None:
    """From a twentieth of the run on, how long it would take was told within a fifth."""
    end = run.position.seconds
    told = [(seconds, left) for seconds, left in run.expected if 0.05 * end <= seconds]
    assert len(told) > 500
    for seconds, left in told:
        assert left is not None
        assert left == pytest.approx(end - seconds, rel=0.2, abs=15)


def uneven(seed: int, seconds: float) -> Any:
    generator = random.Random(seed)
    return lambda step: seconds * generator.uniform(0.3, 1.7) * (4 if step <= 3 else 1)


@pytest.mark.parametrize("average", [0, 3])
@pytest.mark.parametrize(
    ("budget", "step", "validation", "head"),
    [(600, 0.2, 9, 8), (1800, 0.4, 12, 10), (3600, 1.5, 60, 30), (120, 0.05, 2, 6), (60, 0.5, 1, 20)],
)
def test_a_budget_is_kept_within_three_percent(
    budget: float, step: float, validation: float, head: float, average: int
) -> None:
    training = config(budget=budget, average=average, schedule={"type": "linear", "warmup_steps": 200})
    # the first validations, of a model that babbles, take three times as long
    run = Simulation(training, uneven(1, step), lambda now: validation * (3 if now < budget / 3 else 1), head)
    assert 0.97 * budget <= run.position.seconds <= budget * 1.005


def test_the_rate_rises_once_and_has_come_to_zero_when_the_time_is_over() -> None:
    training = config(budget=900, schedule={"type": "linear", "warmup_steps": 300})
    run = Simulation(training, uneven(2, 0.25), lambda now: 8.0, 10)
    top = run.rates.index(max(run.rates))
    assert 250 <= top <= 310
    assert run.rates[: top + 1] == sorted(run.rates[: top + 1])
    assert run.rates[-1] < 0.01e-3
    half = len(run.rates) // 2
    assert run.rates[half] == pytest.approx(0.53e-3, rel=0.1)


def test_warm_up_is_a_tenth_of_the_steps_where_there_are_few() -> None:
    training = config(budget=100, schedule={"type": "linear", "warmup_steps": 4000})
    run = Simulation(training, lambda step: 0.2, lambda now: 1.0)
    assert 0.05 < run.rates.index(max(run.rates)) / len(run.rates) < 0.15
    assert max(run.rates) > 0.95e-3


@pytest.mark.parametrize("kind", ["constant", "inverse-sqrt", "plateau"])
def test_with_a_budget_every_schedule_falls_to_zero(kind: str) -> None:
    run = Simulation(config(budget=100, schedule=kind), lambda step: 0.1, lambda now: 1.0)
    assert run.rates[-1] < 0.02e-3


@pytest.mark.parametrize("cost", [1.0, 4.0, 20.0])
def test_validations_are_spread_over_the_time_and_take_a_tenth_of_it_at_most(cost: float) -> None:
    run = Simulation(config(budget=1000, average=0), lambda step: 0.3, lambda now: cost)
    *on_the_way, _ = run.validations
    assert len(on_the_way) * cost <= 100
    assert len(run.validations) >= 0.7 * min(20, 100 / cost)
    gaps = [later - earlier for earlier, later in itertools.pairwise(run.validations)]
    assert max(gaps) < 2.2 * min(gaps)


def test_a_dear_first_validation_does_not_end_the_run_early() -> None:
    """An untrained model writes until it is stopped; the trained one is six times as quick."""
    run = Simulation(config(budget=600, average=3), lambda step: 0.3, lambda now: 120.0 if now < 200 else 20.0, 90.0)
    assert 0.97 * 600 <= run.position.seconds <= 600 * 1.005


def test_a_run_that_is_resumed_knows_what_it_had_learnt() -> None:
    training = config(budget=600, average=3)
    straight = Simulation(training, uneven(3, 0.3), lambda now: 9.0, 10.0)
    resumed = Simulation(training, uneven(3, 0.3), lambda now: 9.0, 10.0, resumed=True)
    assert resumed.rates == straight.rates
    assert resumed.validations == straight.validations
    assert resumed.saves == straight.saves


def test_a_budget_that_preparing_has_used_up_leaves_a_step_to_save() -> None:
    run = Simulation(config(budget=60), lambda step: 0.3, lambda now: 1.0, head=100.0)
    assert len(run.rates) == 1
    assert len(run.validations) >= 1


def test_checkpoints_are_written_every_two_minutes_or_ten_times_a_run() -> None:
    assert len(Simulation(config(budget=3600), lambda step: 1.0, lambda now: 20.0).saves) == pytest.approx(30, abs=3)
    assert len(Simulation(config(budget=100), lambda step: 0.1, lambda now: 1.0).saves) == pytest.approx(10, abs=2)


def test_a_run_that_has_spent_its_budget_is_over_and_goes_on_with_a_larger_one() -> None:
    position = Position(step=9, seconds=50.0, spent=60.0)
    assert TimePace(config(budget=60)).is_over(position)
    assert not TimePace(config(budget=120)).is_over(position)


def test_without_a_budget_steps_are_counted() -> None:
    pace = new_pace(config(max_steps=10, validate_every=4, save_every=5))
    assert isinstance(pace, StepPace)
    steps = [Position(step=step) for step in range(1, 11)]
    assert [position.step for position in steps if pace.validates(position)] == [4, 8]
    assert [position.step for position in steps if pace.saves(position)] == [5, 10]
    assert [pace.is_over(position) for position in steps] == [False] * 9 + [True]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), (45, 45)])
def test_a_budget_may_be_given_with_its_unit(text: str | int, seconds: float) -> None:
    training = config(budget=text)
    assert training.budget == seconds
    assert isinstance(new_pace(training), TimePace)


@pytest.mark.parametrize("text", ["soon", "-3m", "m", "10 days"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="budget"):
        config(budget=text)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("average", [0, 3])
@pytest.mark.parametrize(
    "length", [{"max_steps": 1000, "validate_every": 100}, {"max_steps": 730, "validate_every": 400}, {"budget": 1000}]
)
def test_how_long_it_will_take_is_known_within_a_fifth_from_a_twentieth_on(
    length: dict[str, int], average: int, resumed: bool
) -> None:
    run = Simulation(config(average=average, **length), uneven(2, 1), lambda now: 12.0, 5.0, resumed)
    assert_told_in_time(run)


def test_nobody_knows_how_long_it_will_take_before_the_machine_is_warm() -> None:
    run = Simulation(config(max_steps=20, validate_every=10), lambda step: 1.0, lambda now: 2.0)
    assert [left is None for _, left in run.expected] == [True] * 5 + [False] * 15
    assert run.expected[-1][1] == 2.0


def test_without_consistency_no_batch_goes_twice() -> None:
    for training in (config(max_steps=50, consistency_start=0.3), config(budget=50, consistency_start=0.3)):
        assert Simulation(training, lambda step: 1.0, lambda now: 2.0).twice_from == []


@pytest.mark.parametrize(("start", "steps"), [(0.0, 0), (0.25, 80), (0.305, 93), (0.6, 150), (0.999, 199)])
def test_batches_go_twice_after_a_share_of_the_time_told_by_steps(start: float, steps: int) -> None:
    """80 of 200 steps take a quarter of the time where the other 120 take twice as long; the last goes twice anyway."""
    training = config(max_steps=200, consistency=2.0, consistency_start=start)
    run = Simulation(training, lambda step: 1.0, lambda now: 0.0, twice=2.0)
    assert [step for step, _ in run.twice_from] == [steps]
    assert run.twice_from[0][1] == pytest.approx(start * run.position.seconds, abs=2)


def test_the_only_step_goes_twice() -> None:
    assert Simulation(config(max_steps=1, consistency=1, consistency_start=0.6), lambda step: 1.0, float).twice_from


def test_where_memory_bounds_batches_half_as_much_goes_twice() -> None:
    bounded, unbounded = Position(room=101), Position()
    for position in (bounded, unbounded):
        turn(position, True)
    assert (bounded.room, unbounded.room) == (50, 0)


def test_what_went_twice_goes_once_again_at_twice_the_speed() -> None:
    pace, position = new_pace(config(budget=1000)), Position(step=105, seconds=200.0, twice=True)
    position.timed_steps, position.timed_seconds = 105, 200.0
    before = pace.total_steps(position)
    turn(position, False)
    after = pace.total_steps(position)
    assert before is not None
    assert after is not None
    assert after - 105 == pytest.approx(2 * (before - 105), rel=0.01)


@pytest.mark.parametrize(
    ("start", "twice", "resumed"),
    [(0.0, 2.0, False), (0.3, 1.7, False), (0.3, 2.0, True), (0.3, 2.2, False), (0.8, 1.7, True), (0.8, 2.2, False)],
)
def test_batches_go_twice_after_a_share_of_the_time_and_the_rate_knows_of_it(
    start: float, twice: float, resumed: bool
) -> None:
    training = config(budget=900, consistency=2.0, consistency_start=start)
    run = Simulation(training, uneven(4, 0.3), lambda now: 8.0, 10.0, resumed, twice)
    assert 0.97 * 900 <= run.position.seconds <= 900 * 1.005
    ((_, seconds),) = run.twice_from
    assert seconds == pytest.approx(max(10.0, (900 - 9 - 8) * start), abs=3), "of the time that steps have"
    assert run.rates[-1] < 0.01e-3
    top = run.rates.index(max(run.rates))
    left = len(run.rates) - top
    straight = [1e-3 * (1 - place / left) for place in range(left)]
    assert run.rates[top:] == pytest.approx(straight, abs=0.1e-3), "on both sides of that step"


@pytest.mark.parametrize("length", [{"max_steps": 1000, "validate_every": 100}, {"budget": 1500}])
def test_how_long_it_will_take_is_known_before_batches_go_twice(length: dict[str, int]) -> None:
    training = config(consistency=2.0, consistency_start=0.4, **length)
    run = Simulation(training, uneven(5, 1), lambda now: 12.0, 5.0, twice=2.1)
    assert_told_in_time(run)
