"""From a recipe to a trained run: everything around the loop, in the order in which it can go wrong.

What costs nothing is checked first: the folder can be written and nobody else writes there, the corpora can be read.
Then tokenizers, token ids, model, and the loop.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmt.checkpoint import Checkpoint, Run, goodness, has_checkpoint, recover
from nmt.config import LARGEST, AnyCorpus, Recipe, differences, reshaped
from nmt.data.ahead import ready_overlaps, ready_tokenizers, store_folder
from nmt.data.batching import BatchSource, Source
from nmt.data.corpus import Pair, check_files, check_pairs, describe, digest_corpus, read_eval_pairs
from nmt.data.store import name_of, prepare
from nmt.data.streaming import StreamSource
from nmt.decoding.torch_engine import pick_device
from nmt.distributed import ALONE, Ranks
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.layers.positions import longest
from nmt.memory import keep_freed_memory
from nmt.models import Seq2Seq
from nmt.training.allocator import keep_few_kernels
from nmt.training.finetuning import begin_as, origin_of
from nmt.training.lock import alone_in
from nmt.training.loop import Trainer, is_over
from nmt.training.pace import new_pace
from nmt.training.precision import resolve_precision
from nmt.training.report import Log, Reporter, need_tensorboard
from nmt.training.signals import StopRequest
from nmt.training.state import TrainingState, new_state
from nmt.training.validation import Validator

__all__ = ["Session", "check", "train"]


@dataclass(frozen=True, init=False)
class Session:
    """Where a recipe is run, and how to begin. ``force`` goes on although the recipe is another than the run's.

    What is made of the corpora is kept in ``store``; left out, it is :func:`~nmt.data.ahead.store_folder`. ``began`` is
    the moment, by ``time.monotonic``, from which a budget counts; left out, it is the call.
    """

    folder: Path
    resume: bool = False
    force: bool = False
    device: str = "auto"
    store: Path | None = None
    began: float | None = None

    def __init__(
        self,
        folder: Path | str,
        resume: bool = False,
        force: bool = False,
        device: str = "auto",
        store: Path | str | None = None,
        began: float | None = None,
    ) -> None:
        kept = None if store is None else Path(store)
        fields = {"folder": Path(folder), "resume": resume, "force": force, "device": device, "store": kept}
        for name, value in {**fields, "began": began}.items():
            object.__setattr__(self, name, value)

    @property
    def kept(self) -> Path:
        """The folder in which tokenizers, token ids and the like are kept from run to run."""
        return self.store or store_folder()


def train(
    recipe: Recipe, session: Session, reporter: Reporter, ranks: Ranks = ALONE, stop: StopRequest | None = None
) -> Checkpoint:
    """Train ``recipe`` in ``session.folder``; gives the model that translates.

    Each of ``ranks`` calls this with the same recipe and session; the folder is one that all of them see. ``stop`` is
    whose signals end it, for a caller who has more to do: one that comes when all but the end is done stops nothing.

    Raises what :func:`check` and :meth:`~nmt.training.loop.Trainer.train` raise, DataError for corpora that break their
    contract, CheckpointError for a run that cannot be gone on with.
    """
    check(recipe, session)
    device = _device(session.device, ranks)
    ranks.wait()  # until all have looked at a folder in which nothing has been written yet
    assert recipe.data.valid is not None
    began, cpu_began = session.began or time.monotonic(), time.process_time()
    keep_freed_memory()
    keep_few_kernels()
    with alone_in(session.folder, reporter.warn) if ranks.is_first else contextlib.nullcontext():
        for corpus in (*recipe.data.train, recipe.data.valid, recipe.data.test):
            if corpus is not None:
                check_files(corpus)
        valid = _validation_pairs(recipe.data.valid)
        with ranks.first_leads():
            if not ranks.is_first:
                run = Run(session.folder, recipe, Run.open(session.folder).tokenizers)
            else:
                run = (_resumed if session.resume else _begun)(recipe, session, reporter)
        before, recipe = Run.open(session.folder).recipe if session.resume else recipe, run.recipe
        training, valid_corpus = recipe.training, recipe.data.valid
        assert valid_corpus is not None, "resumed under a recipe that was checked"
        state = new_state(run, device, ranks)
        if not session.resume and training.finetune_from is not None:
            begin_as(state.model, recipe, reporter.note)
        log_size = None
        if session.resume:
            log_size, complaints = state.load(run.folder)
            if session.force and state.position.skipped_in_a_row:  # it would be gone back from, to what was not forced
                log_size, more = state.go_back(run.folder)
                complaints += more
            for complaint in complaints:
                reporter.warn(f"{complaint}; going on from the one before")
            ranks.wait()  # until all have read the run
            over = is_over(training, new_pace(training), state.position)
            if over and state.position.finished == state.position.step and not run.lacks_average():
                _check_finished(state, before, recipe, session)
                _settle(run, session, ranks)
                reporter.note(f"{run.folder}: this run is finished: {state.position.step} steps are done")
                return run.best()
            _take_up(state, before, recipe, session, reporter)
            reporter.note(f"{run.folder}: going on from step {state.position.step}")
        same_set = _is_same_validation(state, valid_corpus, session)
        source, longest_sides = _source(run, state, session, reporter, ranks)
        _check_agreed(recipe, state, device, ranks)
        if training.consistency and not _drops(recipe.model.model_dump()):
            reporter.warn("training.consistency: nothing is dropped in this model: both passes of a batch are the same")
        if not training.budget and training.max_steps < (warmup := training.schedule.warmup_steps):
            reporter.warn(
                f"training.schedule.warmup_steps: of {warmup} steps of warm-up training.max_steps leaves "
                f"{training.max_steps}: the rate never comes to training.learning_rate"
            )
        spoken, learnt = recipe.data.target, recipe.data.max_length
        validator = Validator(valid, run.tokenizers, training, recipe.decoding, spoken, learnt)
        validator.check(state.model, device)
        _check_positions(recipe, state.model, longest_sides, validator)
        compares_anew = _compare_anew(run, state, validator, same_set and not reshaped(before, recipe))
        if session.resume and (session.force or compares_anew):  # or what has been taken up is not what is gone back to
            state.save(run.folder, log_size=log_size or 0)
        _settle(run, session, ranks)  # now that all is known to fit the new recipe
        if state.unscored and ranks.is_first:
            run.forget_scores()
        ranks.wait()
        with _log(run, log_size, state.position.step, ranks) as log:
            trainer = Trainer(run, state, source, validator, log, reporter)
            reporter.note(_summary(run, state.model, trainer.dtype, device, ranks))
            if not session.resume:
                state.save(run.folder, log_size=0)
            seconds, cpu_seconds = ranks.total(time.monotonic() - began, time.process_time() - cpu_began)
            state.position.seconds += seconds / ranks.size
            state.position.cpu_seconds += cpu_seconds
            with StopRequest() if stop is None else stop as request:
                return trainer.train(request)


def check(recipe: Recipe, session: Session) -> None:
    """Find what would stop :func:`train` at once, and costs nothing to find.

    Raises ConfigError for a recipe without training or validation corpus, or one that wants TensorBoard where there is
    none, and for a folder that holds a run already; CheckpointError where there is no run to resume; and what
    :func:`~nmt.training.finetuning.origin_of` raises of a run to fine-tune.
    """
    if recipe.training.tensorboard:
        need_tensorboard()
    if not recipe.data.train or recipe.data.valid is None:
        what = "data.train" if not recipe.data.train else "data.valid"
        raise ConfigError(f"the recipe has no {what}; name corpora there, or a folder with --data")
    if session.resume and not (session.folder / "run.json").exists():
        raise CheckpointError(f"{session.folder}: there is no run to resume; leave out --resume to begin one")
    # A run that ended before its first checkpoint, such as one whose corpora could not be read, is begun anew.
    begun = has_checkpoint(session.folder)
    if session.resume and not begun:
        raise CheckpointError(
            f"{session.folder}: there is no checkpoint to go on from: it has no resume/step-N; leave out --resume to "
            f"begin anew"
        )
    if not session.resume and (begun or any((session.folder / "models").glob("[!.]*"))):
        raise ConfigError(f"{session.folder}: holds a run already; go on with --resume, or name another folder")
    if not session.resume and recipe.training.finetune_from is not None:
        origin_of(recipe)
    if others := Run.strangers(session.folder):
        raise ConfigError(
            f"{session.folder}: holds {others[0]} and is no run: that would be written over; name another with --out"
        )


def _source(
    run: Run, state: TrainingState, session: Session, reporter: Reporter, ranks: Ranks
) -> tuple[Source, tuple[int, int]]:
    """Where the batches come from, and how many tokens a side may have: a store, or a corpus as it is read."""
    recipe, training = run.recipe, run.recipe.training
    how: dict[str, Any] = {"batch_tokens": training.batch_tokens, "seed": training.seed}
    how["sampling"] = recipe.tokenizer.sampling
    if (corpus := recipe.data.stream) is not None:
        digest = digest_corpus(corpus)
        drops = recipe.data.drop_held_out
        name = name_of(recipe.data, run.tokenizers, [digest]) if drops else digest
        _check_same_data(state, name, [digest], [corpus], session, drops)
        if not drops:
            reporter.note(
                f"{describe(corpus)}: read as it comes; it is not searched for validation and test lines, which "
                f"data.drop_held_out leaves out"
            )
        source = StreamSource(recipe.data, run.tokenizers, **how, note=reporter.note)
        return source, (recipe.data.max_length or LARGEST,) * 2
    if recipe.data.test is not None and ranks.is_first:  # looked for in training later on: a fault in it is told now
        check_pairs(recipe.data.test)
    digests = [digest_corpus(corpus) for corpus in recipe.data.train]
    name = name_of(recipe.data, run.tokenizers, digests)
    _check_same_data(state, name, digests, recipe.data.train, session, recipe.data.drop_held_out)
    store = prepare(
        recipe.data, run.tokenizers, session.kept, workers=torch.get_num_threads(), progress=reporter.prepared
    )
    reporter.note(store.report.text())
    if ranks.is_first:
        for overlap in ready_overlaps(recipe.data, session.kept):
            reporter.warn(overlap.text())
    return BatchSource(store, run.tokenizers, **how), store.longest


def _device(name: str, ranks: Ranks) -> torch.device:
    """The device of that name; of several GPUs, that of this process.

    Raises ConfigError where there is none for it, or where all processes were to share one.
    """
    device = pick_device(name)
    if device.type == "cuda":  # before the first product: cuBLAS gives the same bits again only so, by its manual
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type != "cuda" or ranks.size == 1:
        return device
    if device.index is not None:
        raise ConfigError(f"device {name!r}: {ranks.size} processes cannot share it; with 'cuda' each takes its own")
    if ranks.local >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"process {ranks.local} of this machine, counted from 0, has no GPU: there are {count}; start as many "
            f"processes, or take --device cpu"
        )
    return torch.device("cuda", ranks.local)


@contextlib.contextmanager
def _log(run: Run, size: int | None, step: int, ranks: Ranks) -> Iterator[Log | None]:
    """The run's log, which the first process writes; one that is gone on with had this size after so many steps."""
    if not ranks.is_first:
        yield None
        return
    with contextlib.closing(Log(run.folder, tensorboard=run.recipe.training.tensorboard)) as log:
        if size is not None:
            log.cut(size, step)
        yield log


def _begun(recipe: Recipe, session: Session, reporter: Reporter) -> Run:
    """A new run: its tokenizers are loaded or trained, its folder holds recipe and tokenizers."""
    tokenizers = ready_tokenizers(recipe.data, recipe.tokenizer, recipe.training.seed, session.kept, reporter.note)
    return Run.create(session.folder, recipe, tokenizers)


def _resumed(recipe: Recipe, session: Session, reporter: Reporter) -> Run:
    """The run in the folder, if its recipe is the given one, or with ``force`` under the given one."""
    run = Run.open(session.folder)
    for parent in ("resume", "models"):
        recover(run.folder / parent)
    changes = differences(run.recipe, recipe)
    if not changes:
        return run
    changed = f"{session.folder}: the recipe is not the one this run began with: {'; '.join(changes)}"
    if not session.force:
        raise ConfigError(f"{changed}; --force goes on with the new one")
    for difference in changes:
        if difference.startswith("tokenizer.") and not difference.startswith("tokenizer.sampling:"):
            raise ConfigError(f"{session.folder}: {difference}: a run keeps its tokenizers; begin another run")
    reporter.note(changed)
    return Run(session.folder, recipe, run.tokenizers)


def _validation_pairs(corpus: AnyCorpus) -> list[Pair]:
    """The validation set. Raises DataError where nothing in it can be validated on."""
    pairs = read_eval_pairs(corpus)
    if not any(pair.source.strip() and pair.target.strip() for pair in pairs):
        raise DataError(f"{describe(corpus)}: every pair has a blank side: there is nothing to validate on")
    return pairs


def _check_same_data(
    state: TrainingState,
    data: str,
    digests: Sequence[str],
    corpora: Sequence[AnyCorpus],
    session: Session,
    drops_held_out: bool,
) -> None:
    """Raise ConfigError where a resumed run would go on in the middle of other data; ``force`` lets it.

    ``data`` is a name for all of it, ``digests`` has a hash of each of its ``corpora``.
    """
    if state.data and state.data != data:
        both = zip(corpora, state.corpora, digests, strict=False)
        changed = [describe(corpus) for corpus, before, now in both if before != now]
        held_out = ", or the lines that data.drop_held_out leaves out" if drops_held_out else ""
        what = "; ".join(changed) if changed else f"the training corpora or their filters{held_out}"
        if not session.force:
            raise ConfigError(
                f"{session.folder}: the data are not those this run began with: {what}: changed since; --force goes on "
                f"with the new ones"
            )
        state.position.mark = None
    state.data, state.corpora = data, list(digests)


def _is_same_validation(state: TrainingState, corpus: AnyCorpus, session: Session) -> bool:
    """Whether scores are of the set that they were of before.

    Raises ConfigError where a resumed run would compare scores of two sets, unless with ``force``.
    """
    digest = digest_corpus(corpus)
    is_same = state.valid in ("", digest)
    if not is_same and not session.force:
        raise ConfigError(
            f"{session.folder}: the validation set is not the one this run began with: {describe(corpus)}: changed "
            f"since; --force goes on with the new one"
        )
    state.valid = digest
    return is_same


def _check_finished(state: TrainingState, before: Recipe, recipe: Recipe, session: Session) -> None:
    """Raise ConfigError where a forced recipe would have a finished run be what it is not.

    That is one whose weights are multiplied in another way than they have learned to be, or whose scores are those of
    another set.
    """
    corpus = recipe.data.valid
    if session.force and corpus is not None and state.valid not in ("", digest_corpus(corpus)):
        raise ConfigError(
            f"{session.folder}: this run is finished, and its scores are those of another validation set than "
            f"{describe(corpus)}: nmt evaluate {session.folder} --source FILE --reference FILE has those of a new one"
        )
    for difference in reshaped(before, recipe):
        raise ConfigError(
            f"{session.folder}: this run is finished: {difference} would need more steps to learn: raise "
            f"training.max_steps or training.budget too, or begin another run"
        )


def _take_up(state: TrainingState, before: Recipe, recipe: Recipe, session: Session, reporter: Reporter) -> None:
    """Have what a forced recipe says anew of rates, batches and time count from here on.

    Raises ConfigError where its budget is less than what the run has taken.
    """
    position, budget = state.position, recipe.training.budget
    changed = [difference.partition(":")[0] for difference in differences(before, recipe)]
    if "training.budget" in changed and 0 < budget <= position.seconds:
        raise ConfigError(
            f"{session.folder}: training.budget is for the whole run, which has taken {position.seconds / 60:.1f} of "
            f"these {budget / 60:.1f} minutes already: give more"
        )
    rates = ("training.learning_rate", "training.schedule.")
    if any(key.startswith(rates) for key in changed) and (state.schedule.factor != 1.0 or position.retreats):
        reporter.note(f"the learning rate is the recipe's again, and no longer {state.schedule.factor:g} times that")
        state.schedule.factor, position.retreats = 1.0, 0
    if "training.batch_tokens" in changed:
        position.room = 0


def _check_agreed(recipe: Recipe, state: TrainingState, device: torch.device, ranks: Ranks) -> None:
    """Raise ConfigError, in all processes, where one has another recipe, other data or another type of products."""
    rest = json.dumps(recipe.model_dump(mode="json", exclude={"data"}), sort_keys=True)
    mine = {
        "recipe": hashlib.sha256(rest.encode()).hexdigest(),
        "training data": state.data,
        "training.precision": str(resolve_precision(recipe.training.precision, device)),
    }
    first, *others = map(json.loads, ranks.collect(json.dumps(mine)))
    for rank, other in enumerate(others, 1):
        if unlike := [name for name in mine if other[name] != first[name]]:
            raise ConfigError(
                f"process {rank} of {ranks.size} has another {' and another '.join(unlike)} than the first: start all "
                f"with the same command, on the same files and on like machines"
            )


def _drops(values: Mapping[str, Any]) -> bool:
    """Whether a part of a recipe drops units, others in each of two passes. (Both are one loop over one matrix.)"""
    return any(
        _drops(value)
        if isinstance(value, Mapping)
        else name.endswith("dropout") and name != "recurrent_dropout" and value > 0
        for name, value in values.items()
    )


def _compare_anew(run: Run, state: TrainingState, validator: Validator, is_same: bool) -> bool:
    """Have scores be forgotten of another set, another model or words cut otherwise; by another metric, the best is
    another. ``is_same`` says that set and model are what they were.

    Gives whether there was any such change. Where scores are forgotten, what the run stands at is validated anew.
    """
    metric, position = run.recipe.training.metric, state.position
    before: dict[str, str] = state.scored
    now: dict[str, str] = {"metric": metric, "tokenize": validator.tokenize}
    state.scored = now
    is_comparable = is_same and before.get("tokenize", now["tokenize"]) == now["tokenize"]
    if is_comparable and before.get("metric", metric) == metric:
        return False
    state.unscored = state.unscored or not is_comparable
    scored = [] if state.unscored else [one.scores for one in run.checkpoints() if one.name.startswith("step-")]
    known = [goodness(metric, scores) for scores in scored if scores]
    position.best_score, position.waited, state.schedule.waited = max(known, default=None), 0, 0
    return True


def _settle(run: Run, session: Session, ranks: Ranks) -> None:
    """Have a forced recipe be the run's."""
    if session.resume and session.force and ranks.is_first:
        run.write()


def _check_positions(recipe: Recipe, model: Seq2Seq, longest_sides: tuple[int, int], validator: Validator) -> None:
    """Raise ConfigError where a sentence is longer than the positions that the model learns."""
    for side, part, most in zip(("encoder", "decoder"), (model.encoder, model.decoder), longest_sides, strict=True):
        limit = longest(part)
        if limit is None:
            continue
        if recipe.tokenizer.sampling:  # cut otherwise, a sentence may be of any length that the recipe lets pass
            most = max(most, recipe.data.max_length or LARGEST)
        train = most + 1
        valid = max((batch.source if side == "encoder" else batch.target_in).shape[1] for batch in validator.batches)
        if max(train, valid) > limit:
            least = f", or set data.max_length to {limit - 1} or less" if valid <= limit > 1 else ""
            length = "any length" if most == LARGEST else f"up to {max(train, valid)} tokens"
            raise ConfigError(
                f"model.{side}.max_positions: {limit} are too few for sentences of {length}: raise it{least}"
            )


def _summary(run: Run, model: torch.nn.Module, dtype: torch.dtype, device: torch.device, ranks: Ranks) -> str:
    config = run.recipe.model
    parameters, threads = sum(parameter.numel() for parameter in model.parameters()), torch.get_num_threads()
    return (
        f"{run.folder}: {config.encoder.type} encoder, {config.decoder.type} decoder, "
        f"{parameters / 1e6:.1f} million parameters, {str(dtype).removeprefix('torch.')} products on {device}, "
        f"{threads} thread{'s' if threads > 1 else ''}"
        + (f" in each of {ranks.size} processes" if ranks.size > 1 else "")
    )
