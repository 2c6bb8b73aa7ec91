"""Races: who runs, for how long, what the table and the picture say of it, and how one goes on that was cut short."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import statistics
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.data.batching import Batch
from nmt.errors import CheckpointError, ConfigError, Interrupted
from nmt.evaluation.runs import evaluate_run, held_out_split
from nmt.models.bahdanau import BahdanauEncoder
from nmt.race import Standing, draw_race, names_of, race, scored_on_test, table
from nmt.training import loop
from nmt.training.gradients import Objective
from nmt.training.report import SilentReporter, StepReport, read_log
from nmt.training.session import Session
from nmt.training.summary import RunSummary
from tests.training.recipes import small_recipe


class Told(SilentReporter):
    """Keeps the notes, and stops the process at the first step of run number ``stop``."""

    def __init__(self, stop: int = 0) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.stop = stop

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def stepped(self, report: StepReport, total: int | None) -> None:
        if report.step == 1 and self.stop == sum(": run " in note for note in self.notes):
            os.kill(os.getpid(), signal.SIGTERM)


def recipes(corpus: Path) -> dict[str, Recipe]:
    return {
        name: small_recipe(corpus, name, name, "training.budget=1.5", "training.seed=7", "training.average=2")
        for name in ("gru", "lstm")
    }


def session(folder: Path, resume: bool = False) -> Session:
    return Session(folder, resume=resume, device="cpu", store=folder / "store")


@pytest.fixture(scope="module")
def raced(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Standing], list[str]]:
    """A race of two recipes with two seeds: its folder, its standings, what it told."""
    folder, told = tmp_path_factory.mktemp("race"), Told()
    standings = race(recipes(corpus), session(folder), lambda: contextlib.nullcontext(told), seeds=2)
    return folder, standings, told.notes


def test_every_recipe_runs_with_every_seed_for_the_same_time(raced: tuple[Path, list[Standing], list[str]]) -> None:
    folder, standings, notes = raced
    turns = [note for note in notes if ": run " in note]
    assert turns == [
        "gru, seed 7: run 1 of 4",
        "lstm, seed 7: run 2 of 4",
        "gru, seed 8: run 3 of 4",
        "lstm, seed 8: run 4 of 4",
    ]
    assert {one.recipe for one in standings} == {"gru", "lstm"}
    for one in standings:
        assert [run.run for run in one.runs] == [str(folder / one.recipe / f"seed-{seed}") for seed in (7, 8)]
        for run, seed in zip(one.runs, (7, 8), strict=True):
            trained = Run.open(Path(run.run)).recipe.training
            assert (trained.seed, trained.budget) == (seed, 1.5)
            assert run.seconds is not None
            assert run.seconds > 0
            assert run.steps > 0
    assert len({(Path(run.run) / "recipe.toml").read_text() for one in standings for run in one.runs}) == 4


def test_the_standings_are_the_best_validations_in_order(raced: tuple[Path, list[Standing], list[str]]) -> None:
    _, standings, _ = raced
    for one in standings:
        assert one.bleu == tuple(Run.open(Path(run.run)).best().scores["bleu"] for run in one.runs)
    means = [statistics.fmean(one.bleu) for one in standings]
    assert means == sorted(means, reverse=True)


def test_validations_say_when_they_were(raced: tuple[Path, list[Standing], list[str]]) -> None:
    _, standings, _ = raced
    for run in standings[0].runs:
        times = [float(record["elapsed"]) for record in read_log(Path(run.run)) if record["type"] == "valid"]
        assert times == sorted(times)
        assert run.seconds is not None
        assert 0 < times[-1] <= run.seconds


def test_the_picture_has_a_line_a_run_and_a_name_a_recipe(
    raced: tuple[Path, list[Standing], list[str]], tmp_path: Path
) -> None:
    _, standings, _ = raced
    draw_race(standings, tmp_path / "race.svg")
    text = (tmp_path / "race.svg").read_text()
    for one in standings:
        assert f"{one.recipe}: {statistics.fmean(one.bleu):.2f} ± {statistics.stdev(one.bleu):.2f}" in text
    with pytest.raises(ConfigError, match="is not that of a picture"):
        draw_race(standings, tmp_path / "race.txt")


def test_the_test_set_has_columns_of_its_own_and_the_order_stays(
    raced: tuple[Path, list[Standing], list[str]],
) -> None:
    """The scores are those of nmt evaluate, of every run that has a model; the table has their mean and spread."""
    _, standings, _ = raced
    seen: list[int] = []

    def track(items: Iterable[Any], total: int) -> Iterable[Any]:
        seen.append(total)
        return items

    scored = scored_on_test(standings, device="cpu", track=track)
    assert [one.recipe for one in scored] == [one.recipe for one in standings]
    assert seen == [15] * 4
    for one in scored:
        for run, scores in zip(one.runs, one.tests, strict=True):
            opened = Run.open(run.run)
            expected = evaluate_run(opened, held_out_split(opened.recipe, "test"), device="cpu").scores
            assert {score.name: score.value for score in scores}.items() <= {s.name: s.value for s in expected}.items()
    head, first, _ = table(scored)
    assert re.split(r"  +", head) == [
        *("recipe", "runs", "BLEU", "chrF", "test BLEU", "test chrF2", "parameters", "steps", "minutes")
    ]
    bleu, chrf = scored[0].tested("BLEU"), scored[0].tested("chrF2")
    assert len(bleu) == len(chrf) == 2
    for values in (bleu, chrf):
        assert f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" in first
    assert "test" not in next(table(standings))
    unvalidated = replace(scored[0], runs=tuple(replace(run, bleu=None) for run in scored[0].runs))
    (nothing,) = scored_on_test([unvalidated], device="cpu")
    assert nothing.tests == ()


SUMMARY = RunSummary("run", "gru", "gru", 1_250_000, 1000, 90.0, 80.0, 5.0, 30.0, 50.0, None)


def test_the_table_has_means_and_standard_deviations() -> None:
    two = Standing("two", (SUMMARY, replace(SUMMARY, bleu=33.0, chrf=51.0, steps=2000, seconds=210.0)))
    one = Standing("one", (replace(SUMMARY, parameters=None),))
    none = Standing("none", (replace(SUMMARY, bleu=None, chrf=None, seconds=None),))
    some = Standing("some", (SUMMARY, replace(SUMMARY, bleu=None, chrf=None)))
    rows = [line.split() for line in table([two, one, none, some])]
    assert rows[0] == ["recipe", "runs", "BLEU", "chrF", "parameters", "steps", "minutes"]
    assert rows[1] == ["two", "2", "31.50", "±", "2.12", "50.50", "±", "0.71", "1.2", "M", "1,500", "2.5"]
    assert rows[2] == ["one", "1", "30.00", "50.00", "-", "1,000", "1.5"]
    assert rows[3] == ["none", "0", "of", "1", "-", "-", "1.2", "M", "1,000", "-"]
    assert rows[4][:5] == ["some", "1", "of", "2", "30.00"]
    assert len({len(line) for line in table([two, one, none])}) == 1


def test_a_race_that_was_cut_short_goes_on(corpus: Path, tmp_path: Path) -> None:
    stopping = Told(stop=2)
    with pytest.raises(Interrupted, match=r"lstm/seed-7: stopped by SIGTERM after step 1.*go on with --resume") as told:
        race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(stopping))
    assert told.value.exit_code == 143
    with pytest.raises(ConfigError, match="gru/seed-7: holds a run already; go on with --resume"):
        race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(Told()))
    finished = (tmp_path / "gru" / "seed-7" / "log.jsonl").read_bytes()
    again = Told()
    standings = race(recipes(corpus), session(tmp_path, resume=True), lambda: contextlib.nullcontext(again))
    assert any("this run is finished" in note for note in again.notes)
    assert (tmp_path / "gru" / "seed-7" / "log.jsonl").read_bytes() == finished
    assert all(run.steps >= 1 and run.bleu is not None for one in standings for run in one.runs)


def test_a_signal_at_the_very_end_of_a_run_ends_the_race(corpus: Path, tmp_path: Path) -> None:
    class AtTheEnd(Told):
        def note(self, text: str) -> None:
            super().note(text)
            if "target tokens in" in text:  # the last that a run says
                os.kill(os.getpid(), signal.SIGINT)

    told = AtTheEnd()
    with pytest.raises(Interrupted, match=r"gru/seed-7: finished, and the race stopped by SIGINT; go on with --resume"):
        race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(told))
    assert not (tmp_path / "lstm").exists()


def test_there_must_be_a_race_to_resume(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no race to resume; leave out --resume to begin one"):
        race(recipes(corpus), session(tmp_path / "elsewhere", resume=True), lambda: contextlib.nullcontext(Told()))
    assert not (tmp_path / "elsewhere" / "gru").exists()


def test_a_recipe_that_diverges_does_not_end_the_race(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objective.forward

    def forward(self: Objective, batch: Batch) -> torch.Tensor:
        lost = isinstance(self.model.encoder, BahdanauEncoder)
        return real(self, batch) * (math.nan if lost else 1.0)

    monkeypatch.setattr(Objective, "forward", forward)
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_A_ROW", 1)  # the first step decides, however slow the machine
    monkeypatch.setattr(loop, "MAX_RETREATS", 0)
    told = Told()
    standings = race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(told))
    assert [one.recipe for one in standings] == ["lstm", "gru"]
    assert standings[0].runs[0].bleu is not None
    assert set(standings[1].bleu) <= {0.0}
    assert any("the race goes on without it" in text for text in told.warnings)


def test_what_would_stop_a_race_is_found_before_it_begins(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "lstm" / "seed-7" / "resume" / "step-1").mkdir(parents=True)
    told = Told()
    with pytest.raises(ConfigError, match="lstm/seed-7: holds a run already"):
        race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(told))
    assert told.notes == []
    unlike = {"a": small_recipe(corpus, "gru", "gru", "training.budget=3"), **recipes(corpus)}
    for wrong in (unlike, {}):
        with pytest.raises(ConfigError, match=r"need the same training\.budget"):
            race(wrong, session(tmp_path), lambda: contextlib.nullcontext(told))
    with pytest.raises(ConfigError, match=r"a race is run for some time: give a training\.budget, such as 20m"):
        race({"a": small_recipe(corpus)}, session(tmp_path), lambda: contextlib.nullcontext(told))
    with pytest.raises(ConfigError, match="seeds 0"):
        race(recipes(corpus), session(tmp_path), lambda: contextlib.nullcontext(told), seeds=0)


def test_recipes_are_called_after_their_files() -> None:
    assert names_of([Path("a/one.toml"), Path("b/two.toml")]) == ["one", "two"]
    assert names_of([Path("a/one.toml"), Path("b/one.toml")]) == ["a-one", "b-one"]
    with pytest.raises(ConfigError, match="two recipes of the race are called a-one"):
        names_of([Path("a/one.toml"), Path("x/a/one.toml")])
