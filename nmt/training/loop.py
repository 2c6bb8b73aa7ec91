"""The training loop: batches, loss, backward, clip, step, log, validate, save, stop.

How batches, losses, scores and files are made lives elsewhere; what happens in which order is here. With several
processes (:class:`~nmt.distributed.Ranks`) each runs this loop on its share of every step's batches; what a decision
rests on is agreed on first, so that all take the same one, and the first process alone validates, tells and writes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields
from pathlib import Path
from typing import Literal

from torch.nn.utils import clip_grad_norm_

from nmt.checkpoint import Checkpoint, Run, check_folder, goodness
from nmt.config import TrainingConfig
from nmt.data.batching import Batch, Source
from nmt.errors import CheckpointError, DivergedError, Interrupted, TrainingError
from nmt.models import Seq2Seq
from nmt.training.allocator import forget_most_memory, most_memory
from nmt.training.average import average
from nmt.training.curves import draw_curves
from nmt.training.gradients import Gradients, Objective
from nmt.training.groups import set_rate
from nmt.training.pace import Pace, new_pace, turn
from nmt.training.precision import resolve_precision
from nmt.training.report import Log, Reporter, StepReport, ValidationReport, read_log
from nmt.training.signals import Stopped, StopRequest
from nmt.training.state import Interval, Position, TrainingState
from nmt.training.validation import Scores, Validator

__all__ = ["Trainer", "is_over"]

#: Steps in a row whose loss or gradient is not finite before training goes back to its last checkpoint.
MAX_SKIPPED_IN_A_ROW = 5
#: How often a run may go back, each time at half the rate.
MAX_RETREATS = 3
#: Checkpoints in a row that could not be written before training ends.
MAX_UNSAVED_IN_A_ROW = 3


class Trainer:
    """Trains the model of one run from wherever its state stands to the end of its recipe."""

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        source: Source,
        validator: Validator,
        log: Log | None,
        reporter: Reporter,
    ) -> None:
        self.run, self.state, self.source, self.validator = run, state, source, validator
        self.log, self.reporter = log, reporter
        self.config = run.recipe.training
        self.ranks = state.ranks
        self.device = next(state.model.parameters()).device
        self.dtype = resolve_precision(self.config.precision, self.device)
        self.objective = Objective(state.model, self.config.label_smoothing)
        self.gradients = Gradients(state, self.objective, self.dtype)
        self.pace = new_pace(self.config)
        self._rate = 0.0
        self._unsaved_in_a_row = {"model": 0, "checkpoint": 0}

    def train(self, stop: StopRequest) -> Checkpoint:
        """Train to the end of the pace or until ``patience`` is out; gives the model that translates.

        Raises Interrupted after saving where ``stop`` was requested, DivergedError where neither skipping steps nor
        going back at lower rates brings gradients back to numbers, CheckpointError where checkpoints cannot be written.
        """
        position = self.state.position
        self.begin()
        while not self._is_over() or position.validated != position.step or self.state.unscored:
            try:
                if self._awaits_first_scores():
                    self._validate(stop)
                elif not self._is_over() and not self._awaits_validation():
                    self.step()
                if position.step and (self._is_over() or self.state.unscored or self.pace.validates(position)):
                    self._validate(stop)
            except DivergedError as error:
                position = self._retreat(error)
                continue
            except Stopped:
                pass  # the validation is the first thing that the resumed run does
            except Exception:
                self._rescue()
                raise
            if self._any(stop):
                self._save()
                raise Interrupted(self._farewell(stop), stop.ending)
            if not position.skipped_in_a_row and self.pace.saves(position):
                with self._unless_unsaved_again("checkpoint"):
                    self._save()
        return self._finish(stop)

    # ------------------------------------------------------------------------------------------------------- a step

    def begin(self) -> None:
        """Take batches from where the state stands."""
        self._clock, self._cpu_clock = time.monotonic(), time.process_time()
        forget_most_memory(self.device)
        self.state.model.train()
        self._stream = self._endless()

    def step(self) -> None:
        """Make one step and tell of it.

        Raises DivergedError where the gradients of several in a row are no numbers.
        """
        self._choose_passes()
        position, began = self.state.position, time.monotonic()
        place = position.epoch, position.batch, position.mark
        try:
            batches = self._next_batches()
            waiting = time.monotonic() - began
            loss, tokens = self.gradients.backward(batches)
        except Exception:
            position.epoch, position.batch, position.mark = place  # nothing was learnt from what was taken
            raise
        (loss,) = self.ranks.total(loss)
        norm = self._update(loss)
        self._count(batches, loss, norm, tokens, waiting)
        self._tell(tokens)

    def _choose_passes(self) -> None:
        """Whether the batches of the next step go through once or twice; when they have gone twice, they go on so."""
        position = self.state.position
        twice = self.config.consistency > 0 and (position.twice or self.pace.goes_twice(position))
        if twice != position.twice:
            turn(position, twice)
            self.state.schedule.waited = 0
            if position.step:
                often = "twice" if twice else "once"
                self.reporter.note(f"step {position.step}: from here on every batch goes through {often}")
        self.objective.consistency = self.config.consistency if twice else 0.0

    def _next_batches(self) -> list[Batch]:
        """The batches of the next step that this process takes; the position moves behind all of them."""
        of_all = list(itertools.islice(self._stream, self.config.accumulate * self.ranks.size))
        own = (make().to(self.device) for make in of_all[self.ranks.rank :: self.ranks.size])
        return self.gradients.fitted(own)

    def _endless(self) -> Iterator[Callable[[], Batch]]:
        """Batches, yet to be made, from the position on, epoch after epoch."""
        position = self.state.position
        while True:
            for after, batch in self.source.plan(position.epoch, position.batch, position.mark):
                position.batch, position.mark = after, self.source.mark(after)
                yield batch
            position.epoch, position.batch, position.mark = position.epoch + 1, 0, None

    def _update(self, loss: float) -> float:
        """One optimiser step; one whose loss or gradient is not finite is skipped and counted.

        Gives the gradient's norm. Raises DivergedError where several in a row were skipped.
        """
        state, position = self.state, self.state.position
        parameters = list(state.model.parameters())
        norm = float(clip_grad_norm_(parameters, self.config.clip_norm or math.inf))
        position.step += 1
        self._rate = state.schedule.learning_rate(position.step, self.pace.total_steps(position))
        set_rate(state.optimizer, self._rate)
        if math.isfinite(loss) and math.isfinite(norm):
            state.optimizer.step()
            position.skipped_in_a_row = 0
        else:
            position.skipped += 1
            position.skipped_in_a_row += 1
            self.reporter.warn(
                f"step {position.step}, epoch {position.epoch}, batch {position.batch}: the "
                f"{'gradient' if math.isfinite(loss) else 'loss'} is not finite; the step is skipped"
            )
        state.optimizer.zero_grad(set_to_none=True)
        if position.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(f"{MAX_SKIPPED_IN_A_ROW} steps in a row had losses or gradients that are not finite")
        return norm

    def _retreat(self, reason: DivergedError) -> Position:
        """Go back to the last checkpoint, and on from there at half the rate; gives the position there.

        Raises DivergedError where the run has gone back often enough.
        """
        self._lap()
        state, before = self.state, self.state.position
        if before.retreats == MAX_RETREATS:
            raise DivergedError(
                f"{self.run.folder}: step {before.step}: {reason}; going back to a checkpoint at half the rate did not "
                f"help {MAX_RETREATS} times; lower training.learning_rate or lengthen training.schedule.warmup_steps"
            ) from reason
        factor = state.schedule.factor
        log_size, complaints = state.go_back(self.run.folder)
        for complaint in complaints:
            self.reporter.warn(f"{complaint}; going back to the one before")
        after = state.position
        after.retreats, after.skipped, after.skipped_in_a_row = before.retreats + 1, before.skipped, 0
        after.halved, after.room = before.halved, before.room
        after.seconds, after.cpu_seconds = before.seconds, before.cpu_seconds
        state.schedule.factor = min(state.schedule.factor, factor) / 2
        if self.log is not None:
            self.log.cut(log_size, after.step)
        self.reporter.warn(
            f"step {before.step}: {reason}: back to step {after.step}, and on at half the learning rate "
            f"({after.retreats} of at most {MAX_RETREATS} times)"
        )
        with self._unless_unsaved_again("checkpoint"):
            self._save()
        self._lap()
        self.begin()
        return after

    # ---------------------------------------------------------------------------------------------- what is said of it

    def _count(self, batches: list[Batch], loss: float, norm: float, tokens: int, waiting: float) -> None:
        """Add this step, of which ``loss``, ``norm`` and ``tokens`` are those of all processes, to the interval."""
        interval = self.state.interval
        masks = [mask for batch in batches for mask in (batch.source_mask, batch.target_mask)]
        own = sum(mask.numel() for mask in masks), sum(int(mask.sum()) for mask in masks)
        waiting, places, filled, halvings = self.ranks.total(waiting, *own, self.gradients.halvings)
        interval.steps += 1
        interval.waiting += waiting / self.ranks.size
        interval.places += int(places)
        interval.filled += int(filled)
        if math.isfinite(loss) and math.isfinite(norm):
            interval.loss += loss
            interval.norm += norm
            interval.made += 1
            interval.heard += tokens
        if halvings:
            self.gradients.agree(int(halvings))
            self.reporter.warn(
                f"step {self.state.position.step}: out of memory: going on with batches of at most "
                f"{self.state.position.room} tokens, padding counted, and as many of them a step as it takes"
            )

    def _tell(self, tokens: int) -> None:
        """Report a step of so many target tokens, and log the interval where it ends."""
        position, interval = self.state.position, self.state.interval
        seconds = self._lap()
        self.pace.stepped(position, seconds)
        interval.seconds += seconds
        interval.tokens += tokens
        position.tokens += tokens
        report = StepReport(
            step=position.step,
            epoch=position.epoch,
            loss=interval.loss / interval.heard if interval.heard else math.nan,
            learning_rate=self._rate,
            gradient_norm=interval.norm / interval.made if interval.made else math.nan,
            tokens=position.tokens,
            tokens_per_second=interval.tokens / max(interval.seconds, 1e-9),
            seconds=position.seconds,
            cpu_seconds=position.cpu_seconds,
            skipped=position.skipped,
            halved=position.halved,
            padding=1 - interval.filled / max(interval.places, 1),
            waiting=interval.waiting / max(interval.seconds, 1e-9),
            memory=most_memory(self.device),
        )
        self.reporter.expects(self.pace.seconds_left(position))
        self.reporter.stepped(report, self.pace.total_steps(position))
        if position.step % self.config.log_every == 0:
            self._record("train", report)
            self.state.interval = Interval()

    def _lap(self) -> float:
        """Seconds since the last lap, added to the run's time as those of all processors are."""
        position, seconds, cpu_seconds = self.state.position, self._clock, self._cpu_clock
        self._clock, self._cpu_clock = time.monotonic(), time.process_time()
        all_seconds, all_cpu_seconds = self.ranks.total(self._clock - seconds, self._cpu_clock - cpu_seconds)
        position.seconds += all_seconds / self.ranks.size
        position.cpu_seconds += all_cpu_seconds
        return all_seconds / self.ranks.size

    def _awaits_validation(self) -> bool:
        """Whether the last step is one to validate after and that has not been done: a signal stopped it, or what was
        done counts no more.
        """
        position = self.state.position
        if self.state.unscored:
            return position.step > 0
        return 0 < position.step != position.validated and self.pace.validates(position)

    def _awaits_first_scores(self) -> bool:
        """Whether nothing has been learnt yet by a model that has learnt before, and how good it is, is not known."""
        position = self.state.position
        return self.config.finetune_from is not None and position.step == 0 and position.best_score is None

    def _validate(self, stop: StopRequest) -> None:
        """Score the model, keep it where it is among the best, hear what the schedule makes of it.

        Raises Stopped where a stop was requested meanwhile, and CheckpointError where models could not be written too
        often: with nothing counted, so that the resumed run begins with this validation.
        """
        position = self.state.position
        scores = self._scores(self.state.model, stop)
        if self.ranks.is_first:
            with self._unless_unsaved_again("model"):
                self.run.save_model(self.state.model, position.step, scores.by_metric())
                self.run.keep_best(max(1, self.config.average))
        value = goodness(self.config.metric, scores.by_metric())
        best = position.best_score is None or value > position.best_score
        if best:
            position.best_score, position.waited = value, 0
        else:
            position.waited += 1
        position.validated, self.state.unscored = position.step, False  # whatever fails now, it is counted once
        if self.state.schedule.validated(best):
            self.reporter.note(f"step {position.step}: no better, the learning rate is cut")
        report = ValidationReport(
            position.step,
            scores.loss,
            scores.perplexity,
            scores.bleu,
            scores.chrf,
            scores.seconds,
            position.seconds,
            best,
        )
        self._record("valid", report)
        self.reporter.validated(report)
        if self.ranks.is_first:
            with self._unless_lost(self.run.folder / "curves.svg"):
                draw_curves(read_log(self.run.folder), self.run.folder / "curves.svg")
        self.ranks.wait()
        self.pace.validated(position, self._lap())  # tokens a second are counted without validations

    def _scores(self, model: Seq2Seq, stop: StopRequest) -> Scores:
        """The validation of a model, by the first process for all.

        Raises DivergedError where the loss is no number, Stopped where the first process was told to stop. Where it
        fails, what all have come to is saved first.
        """
        fault: Exception | None = None
        figures = (math.nan,) * len(fields(Scores))
        if self.ranks.is_first:
            try:
                figures = astuple(self.validator(model, self.device, self.dtype, stop))
            except Exception as error:
                fault = error
        stopped, failed, *values = self.ranks.of_first(isinstance(fault, Stopped), fault is not None, *figures)
        if stopped:
            raise Stopped
        if failed:
            if self.ranks.size > 1:
                with contextlib.suppress(CheckpointError):
                    self._save()
            raise fault or TrainingError("the first process could not validate, and says why")
        scores = Scores(*values)
        if not math.isfinite(scores.loss):
            raise DivergedError("the loss of the validation set is not a number any more")
        return scores

    def _record(self, kind: str, report: StepReport | ValidationReport) -> None:
        if self.log is not None:
            with self._unless_lost(self.log.path):
                self.log.write(kind, report)

    # ------------------------------------------------------------------------------------------ what cannot be written

    @contextlib.contextmanager
    def _unless_unsaved_again(self, kind: Literal["model", "checkpoint"]) -> Iterator[None]:
        """A model or a checkpoint to go on from that cannot be written is told of and done without.

        The third in a row ends the run. A model that can be written makes up for no checkpoint that cannot: the disk
        may have room for the smaller of the two alone.
        """
        unsaved = self._unsaved_in_a_row
        try:
            yield
        except CheckpointError as error:
            unsaved[kind] += 1
            if sum(unsaved.values()) >= MAX_UNSAVED_IN_A_ROW:
                raise
            self.reporter.warn(f"{error}; training goes on, and writes the next one where it can")
        else:
            unsaved.update({"model": 0} if kind == "model" else dict.fromkeys(unsaved, 0))

    @contextlib.contextmanager
    def _unless_lost(self, path: Path) -> Iterator[None]:
        """A line of the log or a picture of it that cannot be written is told of, and missing."""
        try:
            yield
        except OSError as error:
            self.reporter.warn(f"{path}: cannot be written: {error.strerror or error}; training goes on without it")

    # ----------------------------------------------------------------------------------------------------- its end

    def _any(self, stop: StopRequest) -> bool:
        """Whether a process was told to stop."""
        (told,) = self.ranks.total(bool(stop))
        return told > 0

    def _is_over(self) -> bool:
        return is_over(self.config, self.pace, self.state.position)

    def _rescue(self) -> None:
        """Save what a process alone has come to, before an error ends it: of several, the others wait elsewhere.

        Whatever saving raises then, the error is what counts.
        """
        if self.ranks.size == 1 and not self.state.position.skipped_in_a_row:
            with contextlib.suppress(Exception):
                self._save()

    def _save(self) -> None:
        """Write a checkpoint to go on from; all go on when it is there."""
        if self.log is not None:  # of which the checkpoint says how long it is
            with contextlib.suppress(OSError):  # where nothing can be written, the checkpoint says so
                self.log.flush()
        try:
            self.state.save(self.run.folder, log_size=self.log.size if self.log is not None else 0)
        finally:
            self.ranks.wait()

    def _farewell(self, stop: StopRequest) -> str:
        who = stop.name or "a signal to another process"
        return (
            f"stopped by {who} after step {self.state.position.step}, everything is saved; "
            f"go on with: nmt train --resume --out {self.run.folder}"
        )

    def _finish(self, stop: StopRequest) -> Checkpoint:
        """Make the average of the best, and leave a checkpoint to go on from.

        Raises Interrupted where ``stop`` was requested meanwhile: the resumed run makes the average.
        """
        if self.config.average > 1:  # which takes its time
            self._lap()
            with self._unless_unsaved_again("checkpoint"):
                self._save()
        stopped = False
        if self.ranks.is_first:
            try:
                self._average(stop)
            except Stopped:
                stopped = True
        (stopped_first,) = self.ranks.of_first(stopped)
        if stopped_first:
            raise Interrupted(self._farewell(stop), stop.ending)
        self._lap()
        position = self.state.position
        position.spent = 0.0 if is_out_of_patience(self.config, position) else self.config.budget
        position.finished = position.step
        self._save()
        self.reporter.note(
            f"{position.step} steps, {position.tokens:,} target tokens in {position.seconds / 60:.1f} minutes "
            f"({position.cpu_seconds / 60:.1f} minutes of processor time)"
        )
        return self.run.best()

    def _average(self, stop: StopRequest) -> None:
        """Make a model of the best ones' mean weights, and validate it. Raises Stopped where ``stop`` was requested."""
        scored = [one for one in self.run.checkpoints() if one.step and one.scores]
        candidates = [one for one in scored if self._is_whole(one)][: self.config.average]
        if len(candidates) > 1:
            averaged: Seq2Seq = average(self.run, candidates).to(self.device)
            scores = self.validator(averaged, self.device, self.dtype, stop)
            self.reporter.note(
                f"the average of the best {len(candidates)}: BLEU {scores.bleu:.2f}, perplexity {scores.perplexity:.2f}"
            )
            before = next((one for one in self.run.checkpoints() if one.name == "average"), None)
            metric = self.config.metric
            if before and goodness(metric, before.scores) > goodness(metric, scores.by_metric()):
                self.reporter.note("the average that was made before is better, and stays")
            else:
                self.run.save_model(averaged, 0, scores.by_metric(), name="average")

    def _is_whole(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint can be averaged; a damaged one is named."""
        try:
            check_folder(checkpoint.folder)
        except CheckpointError as error:
            self.reporter.warn(f"{error}; the average is made without it")
            return False
        return True


def is_over(config: TrainingConfig, pace: Pace, position: Position) -> bool:
    """Whether a training has come to its end, by its pace or because patience is out."""
    return pace.is_over(position) or is_out_of_patience(config, position)


def is_out_of_patience(config: TrainingConfig, position: Position) -> bool:
    """Whether so many validations in a row were no better; before batches go through twice none is the last word."""
    settled = position.twice or not config.consistency
    return settled and 0 < config.patience <= position.waited
