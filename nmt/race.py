"""Recipes against each other: the same time for each, with several seeds, and what came of it as a table and a picture.

One run says little: two that differ in their seed alone may be half a BLEU apart. A race trains every recipe as often
as there are seeds, all for the same time, and gives the mean and the spread of what they reached.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from nmt.alignment.plot import FAINT, INK, check_picture_path, save_figure
from nmt.checkpoint import Run, has_checkpoint
from nmt.config import Recipe
from nmt.data.ahead import prepare_ahead
from nmt.distributed import ALONE, Ranks
from nmt.errors import CheckpointError, ConfigError, DivergedError, Interrupted
from nmt.evaluation.metrics import Score
from nmt.evaluation.runs import Scoring, evaluate_run, held_out_split
from nmt.training.report import Reporter, read_log
from nmt.training.session import Session, check, train
from nmt.training.signals import StopRequest
from nmt.training.summary import RunSummary, summarize

__all__ = ["Standing", "draw_race", "names_of", "race", "scored_on_test", "table"]

SCORING = Scoring(metrics=("bleu", "chrf"))
"""What a race has of the test set."""

#: Told apart by people who see colours differently too (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclass(frozen=True)
class Standing:
    """What the runs of one recipe reached, by seed; ``tests`` are scores of their best models on the test set."""

    recipe: str
    runs: tuple[RunSummary, ...]
    tests: tuple[tuple[Score, ...], ...] = ()

    @property
    def bleu(self) -> tuple[float, ...]:
        """The best validation BLEU of every run that has one."""
        return tuple(run.bleu for run in self.runs if run.bleu is not None)

    @property
    def chrf(self) -> tuple[float, ...]:
        """The chrF of the same validations."""
        return tuple(run.chrf for run in self.runs if run.chrf is not None)

    def tested(self, metric: str) -> tuple[float, ...]:
        """The scores of that name on the test set."""
        return tuple(score.value for scores in self.tests for score in scores if score.name == metric)


def names_of(paths: Sequence[Path]) -> list[str]:
    """What the recipes of a race are called: their files' names, with their folders' where two are alike.

    Raises ConfigError where that does not tell them apart.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}-{path.stem}" for path in paths]
    for name, path in zip(names, paths, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two recipes of the race are called {name}: rename one of the files")
    return names


def race(
    recipes: Mapping[str, Recipe],
    session: Session,
    reporters: Callable[[], AbstractContextManager[Reporter]],
    *,
    seeds: int = 1,
    ranks: Ranks = ALONE,
) -> list[Standing]:
    """Train every recipe with its own seed and the ones after it; gives what they reached, the best first.

    Runs go into ``<name>/seed-<n>`` in the session's folder, each told of to a reporter of its own. All recipes are
    trained with the first seed before any is with the second, and what they are trained on is tokenised outside their
    time. With ``session.resume`` runs that are finished stay as they are, and the one that was cut short is gone on
    with. A run that diverges keeps what it had reached. Raises ConfigError for recipes that are not given the same
    ``training.budget``, CheckpointError where there is nothing to resume, before the first is trained what would stop
    any of them (:func:`~nmt.training.session.check`), and what :func:`~nmt.training.session.train` raises.
    """
    budgets = {recipe.training.budget for recipe in recipes.values()}
    if len(budgets) != 1:
        raise ConfigError("the recipes of a race need the same training.budget")
    if 0 in budgets:
        raise ConfigError("a race is run for some time: give a training.budget, such as 20m")
    if seeds < 1:
        raise ConfigError(f"seeds {seeds}: a race needs one at least")
    lanes = [_lane(name, recipe, turn, session) for turn in range(seeds) for name, recipe in recipes.items()]
    if session.resume and not any(lane.session.resume for lane in lanes):
        raise CheckpointError(f"{session.folder}: there is no race to resume; leave out --resume to begin one")
    for lane in lanes:
        check(lane.recipe, lane.session)
    ready, stop = set[str](), StopRequest()
    for number, lane in enumerate(lanes, 1):
        with reporters() as reporter:
            reporter.note(f"{lane.name}, seed {lane.recipe.training.seed}: run {number} of {len(lanes)}")
            with ranks.first_leads():
                if ranks.is_first and lane.data not in ready and lane.recipe.data.stream is None:
                    prepare_ahead(lane.recipe, session.kept, note=reporter.note, progress=reporter.prepared)
                    ready.add(lane.data)
            try:
                train(lane.recipe, lane.session, reporter, ranks, stop)
                if any(ranks.total(bool(stop))) and number < len(lanes):
                    who = stop.name or "a signal to another process"
                    raise Interrupted(f"finished, and the race stopped by {who}", stop.ending)
            except Interrupted as error:
                what = str(error).partition(";")[0]
                raise Interrupted(f"{lane.session.folder}: {what}; go on with --resume", error.signal_number) from error
            except DivergedError as error:
                reporter.warn(f"{error}; the race goes on without it")
    standings = [
        Standing(name, tuple(summarize(lane.session.folder) for lane in lanes if lane.name == name)) for name in recipes
    ]
    return sorted(standings, key=lambda one: -statistics.fmean(one.bleu or (-1.0,)))


def scored_on_test(
    standings: Sequence[Standing],
    *,
    device: str = "auto",
    track: Callable[[Iterable[Any], int], Iterable[Any]] = lambda translations, total: translations,
) -> list[Standing]:
    """The standings, in their order, with BLEU and chrF2 of every run's best model on the test set of its recipe.

    Each searches as its recipe says, and keeps translations and scores as ``nmt evaluate`` does. Runs that ended before
    they were validated have none. Raises what :func:`~nmt.evaluation.runs.evaluate_run` raises.
    """
    scored = []
    for one in standings:
        tests = []
        for summary in one.runs:
            if summary.bleu is not None:
                run = Run.open(summary.run)
                held_out = held_out_split(run.recipe, "test")
                tests.append(tuple(evaluate_run(run, held_out, SCORING, device=device, track=track).scores))
        scored.append(replace(one, tests=tuple(tests)))
    return scored


@dataclass(frozen=True)
class _Lane:
    """One run of a race."""

    name: str
    recipe: Recipe
    session: Session

    @property
    def data(self) -> str:
        """What the token ids that it is trained on depend on: equal for runs that share them."""
        return f"{self.recipe.training.seed} {self.recipe.tokenizer!r} {self.recipe.data!r}"


def _lane(name: str, recipe: Recipe, turn: int, session: Session) -> _Lane:
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + turn})
    folder = session.folder / name / f"seed-{training.seed}"
    begun = session.resume and has_checkpoint(folder)
    return _Lane(name, recipe.model_copy(update={"training": training}), replace(session, folder=folder, resume=begun))


def table(standings: Sequence[Standing]) -> Iterator[str]:
    """The standings as lines of aligned columns: mean and standard deviation over the seeds.

    Where runs ended before they were validated, it is said of how many of them the mean is. The test set has columns of
    its own if it was asked for.
    """
    has_tests = any(one.tests for one in standings)
    test_names = ("test BLEU", "test chrF2") if has_tests else ()
    rows = [("recipe", "runs", "BLEU", "chrF", *test_names, "parameters", "steps", "minutes")]
    for one in standings:
        parameters = next((run.parameters for run in one.runs if run.parameters is not None), None)
        minutes = [run.seconds / 60 for run in one.runs if run.seconds is not None]
        rows.append(
            (
                one.recipe,
                str(len(one.runs)) if len(one.bleu) == len(one.runs) else f"{len(one.bleu)} of {len(one.runs)}",
                _spread(one.bleu),
                _spread(one.chrf),
                *((_spread(one.tested("BLEU")), _spread(one.tested("chrF2"))) if has_tests else ()),
                "-" if parameters is None else f"{parameters / 1e6:.1f} M",
                f"{statistics.fmean(run.steps for run in one.runs):,.0f}",
                f"{statistics.fmean(minutes):.1f}" if minutes else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *numbers])


def _spread(values: Sequence[float]) -> str:
    """Mean and, where there is one, sample standard deviation."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def draw_race(standings: Sequence[Standing], path: Path) -> None:
    """Draw the validation BLEU of every run over its minutes as ``path`` (.png, .svg or .pdf).

    A recipe has one colour, a run one line, with a dot at what the run's best model reached. Raises ConfigError for
    another ending of ``path``.
    """
    from matplotlib.figure import Figure

    check_picture_path(path)
    figure = Figure(figsize=(7.0, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("BLEU of the validation set over minutes of training", fontsize=9, color=INK, loc="left")
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=8, length=3)
    for one, colour in zip(standings, cycle(COLOURS)):
        label = f"{one.recipe}: {_spread(one.bleu)}"
        for run in one.runs:
            minutes, values = _course(Path(run.run))
            axes.plot(minutes, values, "-", color=colour, linewidth=1.2, label=label)
            if run.seconds is not None and run.bleu is not None:
                axes.plot(run.seconds / 60, run.bleu, "o", color=colour, markersize=4)
            label = ""
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    save_figure(figure, path)


def _course(folder: Path) -> tuple[list[float], list[float]]:
    """Minutes and BLEU of every validation in a run's log."""
    found = [record for record in read_log(folder) if record.get("type") == "valid" and "elapsed" in record]
    return [float(record["elapsed"]) / 60 for record in found], [float(record["bleu"]) for record in found]
