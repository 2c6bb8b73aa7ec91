"""A run's model for another engine: converted, tried on the lines it was validated with, and only then written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from nmt.checkpoint import Run, beside, write_folder
from nmt.config import DecodingConfig
from nmt.decoding.ctranslate2 import PLAIN, cannot
from nmt.decoding.exported import EXPORT, Export, Kind, need
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, ConfigError
from nmt.evaluation.metrics import default_tokenization
from nmt.evaluation.signature import sign_model
from nmt.export.parity import Parity, compare
from nmt.layers.positions import longest
from nmt.models.seq2seq import Seq2Seq

__all__ = ["Target", "check_place", "export", "place_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What is to be exported and for whom: a checkpoint, an engine, and how that engine is to keep numbers."""

    kind: Kind
    quantization: str = "none"
    which: str = "best"


def place_of(run: Path, target: Target) -> Path:
    """Where an export is written if nothing else is said: in the run folder, under the engine's name."""
    return run / "exports" / "-".join(part for part in (target.kind, target.quantization) if part != "none")


def check_place(out: Path, *, force: bool) -> None:
    """Raise ConfigError where ``out`` would take the place of something: of another export only with ``force``.

    It is put in its place as a whole, which the folder that one works in cannot be.
    """
    if Path.cwd().is_relative_to(out.resolve()):
        raise ConfigError(f"{out}: you are in it; name a new folder with --out, such as ./export")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / EXPORT).is_file():
        raise ConfigError(f"{out}: there is something else in that place: name another folder with --out")
    if not force:
        raise ConfigError(f"{out}: there is an export already: replace it with --force, or name a folder with --out")


def export(run: Run, target: Target, out: Path, lines: Sequence[str], *, threads: int = 0) -> Parity | None:
    """Write the export of a run's model as the folder ``out``, after it has translated ``lines`` as the run does.

    Where ``out`` is a link, the folder lies where it leads. Where the model is quantised any result will do, else it
    must be the same. Without lines nothing is compared, and None returned. ``threads`` are the engine's, 0 being all.
    Raises ConfigError for a model that the engine does not know, NmtError where its library is not
    installed or where it translates otherwise; ``out`` is then as it was.
    """
    need(target.kind)
    model = run.load_model(target.which)
    exported = Export(
        kind=target.kind,
        quantization=target.quantization,
        decoding=_decoding(run, target.kind),
        tokenizers=run.tokenizers,
        longest_source=longest(model.encoder),
        longest_target=longest(model.decoder),
        run=sign_model(run, run.checkpoint(target.which)),
        learnt=run.recipe.data.max_length,
    )
    files = exported.files() | _converted(run, model, target)
    out = out.resolve() if out.is_symlink() else out
    parity = _tried(run, exported, model, files, out, lines, threads)
    if parity is not None and target.quantization == "none":
        parity.require(target.kind)
    write_folder(out, files)
    return parity


def _decoding(run: Run, kind: Kind) -> DecodingConfig:
    """How the export searches: as the recipe says, as far as its engine can; what it cannot is said, and left out.

    The precision of its numbers is its own.
    """
    decoding = run.recipe.decoding.model_copy(update={"precision": "auto"})
    if kind == "ctranslate2":
        for name in cannot(decoding):
            _log.warning("the recipe's decoding.%s: CTranslate2 cannot; the export searches without", name)
            decoding = decoding.model_copy(update={name: PLAIN[name]})
    return decoding


def _converted(run: Run, model: Seq2Seq, target: Target) -> dict[str, bytes]:
    """What the engine reads."""
    match target.kind:
        case "ctranslate2":
            from nmt.export import ctranslate2

            return ctranslate2.convert(model, run.recipe.model, run.tokenizers, target.quantization)
        case "onnx":
            need("onnx", "onnx")
            from nmt.export import onnx

            return onnx.convert(model, target.quantization)
    assert_never(target.kind)


def _tried(
    run: Run, exported: Export, model: Seq2Seq, files: dict[str, bytes], out: Path, lines: Sequence[str], threads: int
) -> Parity | None:
    """How the export translates, read from a folder that is gone afterwards."""
    decoding = exported.decoding.model_copy(update={"precision": "float32"})  # the reference, whatever the processor
    try:
        parent = beside(out, "tmp")  # a name that is swept when it is written again, should the process be killed
        shutil.rmtree(parent, ignore_errors=True)
        try:
            write_folder(parent / "export", files)
            theirs = Translator.load(parent / "export", device="cpu", threads=threads)
            theirs.check()
            if not lines:
                return None
            ours = Translator.of(model, run.tokenizers, decoding, learnt=exported.learnt)
            return compare(ours, theirs, lines, default_tokenization(run.recipe.data.target))
        finally:
            shutil.rmtree(parent, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from error
