"""A run folder on disk: self-contained, without pickle, whole or not there at all.

::

    RUN/
      run.json               the format's number and the version that wrote it
      recipe.toml            the whole recipe, defaults included
      source.model           SentencePiece; target.model beside it where the two sides have one each
      manifest.json          sizes and SHA-256 of the files above
      models/step-N/         weights.safetensors, scores.json, manifest.json: the best validations
      models/average/        the same, the average of the best
      models/NAME/           the same, what nmt average made
      resume/step-N/         weights, training.safetensors, state.json, manifest.json: all that going on needs
      log.jsonl              a line a report, curves.svg drawn from it

A folder of files (a checkpoint) is written beside its place under a temporary name, every file and the folder are
flushed to the disk, and only then it gets its name: a reader finds it whole or not at all, whenever the power fails.
Its manifest names the size and the SHA-256 of every file, so that a truncated or altered one is found before it is
used. While a run's recipe is replaced its manifest has, under ``before``, what the file was too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nmt import __version__
from nmt.config import Recipe, load_recipe
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from nmt.models import Seq2Seq

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Run",
    "beside",
    "check_folder",
    "has_checkpoint",
    "read_tensors",
    "recover",
    "remove_folder",
    "step_folders",
    "tensor_bytes",
    "write_folder",
]

#: Number of the folder's format; a run of a larger one was written by a newer version.
FORMAT = 1

MANIFEST = "manifest.json"

WRITTEN = ("recipe.toml", "source.model", "target.model", "log.jsonl", "curves.svg")
"""Files of a run's folder besides ``run.json`` and the manifest."""

#: The names that :func:`beside` gives.
_BESIDE = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<ending>tmp|old)")

_log = logging.getLogger(__name__)


# ----------------------------------------------------------------------------------------------------- folders of files


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their manifest as ``folder``, atomically; an older folder of that name is replaced.

    What a process that was killed while writing it left beside it is put right: one process writes it at a time. All
    else that lies there is somebody else's.
    Raises CheckpointError, the older folder still in place and no temporary one left, where the disk is full or the
    folder cannot be written.
    """
    temporary = beside(folder, "tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder.parent, folder.name)
        temporary.mkdir()
        for name, content in {**files, MANIFEST: _manifest(files)}.items():
            _write_flushed(temporary / name, content)
        _flush_folder(temporary)
        _swap(temporary, folder)
        _flush_folder(folder.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            recover(folder.parent, folder.name)
        needed = sum(map(len, files.values()))
        free = _free_bytes(folder.parent)
        room = f" ({needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)" if free is not None else ""
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}{room}") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder of files, whole or not at all: it loses its name first, and what is left then is swept later."""
    gone = beside(folder, "tmp")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def recover(parent: Path, name: str | None = None) -> None:
    """Put right what processes that were killed while writing left in ``parent``, of the folder ``name`` or of any.

    A folder that had stepped aside for a new one which never came gets its name back; what is half written goes.
    """
    for left, whose, ending in _left(parent):
        if name not in (None, whose):
            continue
        folder = parent / whose
        if ending == "old" and not folder.exists():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raise CheckpointError unless every file that the manifest names is there, of its size and its SHA-256."""
    manifest = read_json(folder / MANIFEST)
    if not manifest or not all(
        isinstance(expected, dict) and {"bytes", "sha256"} <= expected.keys() for expected in manifest.values()
    ):
        raise CheckpointError(f"{folder / MANIFEST}: damaged: it does not list sizes and SHA-256 of files")
    for name, expected in manifest.items():
        path = folder / name
        versions = [expected, *([expected["before"]] if "before" in expected else [])]  # while it is being replaced
        try:
            size = path.stat().st_size
            if size not in [version["bytes"] for version in versions]:
                raise CheckpointError(f"{path}: damaged: {size} bytes where there were {expected['bytes']}")
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path}: missing from the checkpoint: {error.strerror}") from error
        if (size, digest) not in [(version["bytes"], version["sha256"]) for version in versions]:
            raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it was written with")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where it is missing or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object")
    return content


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as the bytes of a safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file. Raises CheckpointError where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON object, one key a line."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _manifest(files: Mapping[str, bytes]) -> bytes:
    return json_bytes(
        {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    )


def _replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` and their manifest into ``folder``, in which others lie; killed at any moment it is as it was or
    as it shall be, file by file, and its manifest vouches for both.
    """
    for left, whose, _ in _left(folder):
        if whose in (*files, MANIFEST):
            left.unlink()
    manifest = json.loads(_manifest(files))
    before = _listed(folder)
    if changed := {name: before[name] for name in files if name in before and before[name] != manifest[name]}:
        both = {
            name: {**entry, "before": changed[name]} if name in changed else entry for name, entry in manifest.items()
        }
        _replace(folder / MANIFEST, json_bytes(both))
    for name, content in files.items():
        if before.get(name) != manifest[name] or name in changed:
            _replace(folder / name, content)
    _replace(folder / MANIFEST, json_bytes(manifest))


def _listed(folder: Path) -> dict[str, Any]:
    """What a manifest says of the files that lie in a whole folder; nothing where the folder is not whole.

    Of a file whose replacing was cut short its own manifest names two versions: what counts is what lies there.
    """
    try:
        check_folder(folder)
        names = read_json(folder / MANIFEST)
        listed: dict[str, Any] = json.loads(_manifest({name: (folder / name).read_bytes() for name in names}))
        return listed
    except (CheckpointError, OSError):
        return {}


def _replace(path: Path, content: bytes) -> None:
    """Write a file and flush it before it gets its name, which is flushed too."""
    temporary = beside(path, "tmp")
    try:
        _write_flushed(temporary, content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(temporary: Path, folder: Path) -> None:
    """Give ``temporary`` its name; a folder cannot be renamed over a full one, so an older one steps aside first."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = beside(folder, "old")
    folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def beside(folder: Path, ending: Literal["tmp", "old"]) -> Path:
    """A temporary name next to ``folder``: ``tmp`` for what may go at any time, ``old`` for what may be wanted back."""
    return folder.with_name(f".{folder.name}.{os.getpid()}.{ending}")


def _left(parent: Path) -> list[tuple[Path, str, str]]:
    """What has a name by :func:`beside` in ``parent``, which may hold anything: where, of what, and the ending."""
    matches = [(path, _BESIDE.fullmatch(path.name)) for path in sorted(parent.glob(".*"))]
    return [(path, match["name"], match["ending"]) for path, match in matches if match]


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


# ----------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk and how it did on the validation set. ``step`` is 0 for an average of several, and for
    what a run that is fine-tuned begins as: none of the checkpoints that are averaged, or removed for better ones.

    ``scores`` are empty where it was not validated.
    """

    folder: Path
    step: int
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        """``step-N``, ``average``, or what an average was called."""
        return self.folder.name


class Run:
    """A run folder: its recipe, its tokenizers and its models."""

    def __init__(self, folder: Path | str, recipe: Recipe, tokenizers: Tokenizers) -> None:
        self.folder = Path(folder)
        self.recipe = recipe
        self.tokenizers = tokenizers

    @staticmethod
    def create(folder: Path | str, recipe: Recipe, tokenizers: Tokenizers) -> Run:
        """Begin a run: the folder and the files that stand in it from the first minute on."""
        run = Run(folder, recipe, tokenizers)
        run.write()
        return run

    def write(self) -> None:
        """Write recipe and tokenizers. Raises CheckpointError where the folder cannot be written."""
        folder, recipe, tokenizers = self.folder, self.recipe, self.tokenizers
        files = {
            "run.json": json_bytes({"format": FORMAT, "nmt": __version__}),
            "recipe.toml": recipe.to_toml().encode(),
            "source.model": tokenizers.source.to_bytes(),
        }
        if not tokenizers.joint:
            files["target.model"] = tokenizers.target.to_bytes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if tokenizers.joint:
                (folder / "target.model").unlink(missing_ok=True)  # of a run that was never begun in earnest
            _replace_files(folder, files)
        except OSError as error:
            raise CheckpointError(f"{folder}: the run folder cannot be written: {error.strerror}") from error

    @staticmethod
    def strangers(folder: Path) -> list[str]:
        """Files of a folder that is no run which have names that a run writes under: a user's own, not to be lost."""
        if (folder / "run.json").exists():
            return []
        return [name for name in (*WRITTEN, MANIFEST) if (folder / name).exists()]

    @staticmethod
    def open(folder: Path | str) -> Run:
        """The run in ``folder``.

        Raises CheckpointError where there is none, where a file is missing or damaged, or where it was written by a
        newer version.
        """
        folder = Path(folder)
        if folder.is_file():
            raise CheckpointError(f"{folder}: a file, not a run folder; text is named by an option, see --help")
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such run folder")
        if (folder / "export.json").exists():
            raise CheckpointError(f"{folder}: an export, which nmt translate alone takes: name the run that it is of")
        if not (folder / "run.json").exists():
            raise CheckpointError(f"{folder}: not a run folder: it has no run.json")
        written = read_json(folder / "run.json")
        if not isinstance(written.get("format"), int) or written["format"] > FORMAT:
            raise CheckpointError(
                f"{folder}: a run of format {written.get('format')}, written by nmt {written.get('nmt')}; "
                f"this nmt {__version__} reads up to {FORMAT}: install a newer one"
            )
        check_folder(folder)
        try:
            recipe = load_recipe(folder / "recipe.toml")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        source = Tokenizer.load(folder / "source.model")
        target = source if recipe.tokenizer.joint else Tokenizer.load(folder / "target.model")
        return Run(folder, recipe, Tokenizers(source, target))

    def checkpoints(self) -> list[Checkpoint]:
        """The models in the folder, best validation first by the recipe's metric; of equals the earlier.

        What was not validated comes last; where ``scores.json`` is damaged the model is left out.
        """
        found = []
        for scores in (self.folder / "models").glob("*/scores.json"):
            if scores.parent.name.startswith("."):
                continue
            try:
                content = read_json(scores)
                found.append(Checkpoint(scores.parent, int(content["step"]), dict(content["scores"])))
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                _log.warning("%s is left out: its scores.json is damaged (%s)", scores.parent, error)
        metric = self.recipe.training.metric
        return sorted(found, key=lambda one: (-goodness(metric, one.scores), one.step))

    def best(self) -> Checkpoint:
        """The model that translates. Raises CheckpointError where there is none yet."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise CheckpointError(f"{self.folder}: no model has been saved in this run yet")
        return checkpoints[0]

    def checkpoint(self, which: str = "best") -> Checkpoint:
        """A model by name: ``best``, ``average``, ``step-N`` or what ``nmt average`` called it.

        Raises CheckpointError where it is not there.
        """
        if which == "best":
            return self.best()
        checkpoints = {one.name: one for one in self.checkpoints()}
        if which not in checkpoints:
            there = ", ".join(sorted(checkpoints)) or "none"
            raise CheckpointError(f"{self.folder}: no checkpoint {which!r}; there are: {there}")
        return checkpoints[which]

    def load_model(self, which: str = "best", *, device: str = "cpu") -> Seq2Seq:
        """The model of a checkpoint, in evaluation mode. Raises CheckpointError where it is damaged or does not fit."""
        checkpoint = self.checkpoint(which)
        check_folder(checkpoint.folder)
        from nmt.layers.undrawn import Undrawn

        with Undrawn():
            model = self.new_model()
        load_weights(model, read_tensors(checkpoint.folder / "weights.safetensors"), str(checkpoint.folder))
        return model.to(device).eval()

    def new_model(self) -> Seq2Seq:
        """An untrained model of the recipe's shape and the tokenizers' sizes."""
        from nmt.models import build

        return build(self.recipe.model, len(self.tokenizers.source), len(self.tokenizers.target))

    def save_model(
        self,
        model: Seq2Seq,
        step: int,
        scores: Mapping[str, float],
        *,
        name: str = "",
        averaged: Sequence[str] = (),
    ) -> Checkpoint:
        """Write a model and its validation scores as ``models/step-N``, or under another name.

        Which checkpoints it is the average of, if it is one, is written down with them.
        """
        folder = self.folder / "models" / (name or f"step-{step}")
        parts = {"averaged": list(averaged)} if averaged else {}
        files = {
            "weights.safetensors": tensor_bytes(weights(model)),
            "scores.json": json_bytes({"step": step, "scores": dict(scores), **parts}),
        }
        write_folder(folder, files)
        return Checkpoint(folder, step, dict(scores))

    def lacks_average(self) -> bool:
        """Whether the recipe asks for an average of the best that has not been made yet."""
        steps = [one for one in self.checkpoints() if one.step and one.scores]
        wanted = self.recipe.training.average > 1 and len(steps) > 1
        return wanted and not (self.folder / "models" / "average").exists()

    def forget_scores(self) -> None:
        """Take all models for what was not validated: their scores are not comparable with those that will come.

        Raises CheckpointError where they cannot be written.
        """
        for one in self.checkpoints():
            if one.scores:
                try:
                    files = {name: (one.folder / name).read_bytes() for name in ("weights.safetensors", "scores.json")}
                except OSError as error:
                    raise CheckpointError(f"{one.folder}: cannot be read: {error.strerror}") from error
                files["scores.json"] = json_bytes({**read_json(one.folder / "scores.json"), "scores": {}})
                if _listed(one.folder):
                    write_folder(one.folder, files)
                    continue
                try:  # of a damaged model nothing else is touched: its manifest goes on to say that it is
                    _replace(one.folder / "scores.json", files["scores.json"])
                except OSError as error:
                    raise CheckpointError(f"{one.folder}: cannot be written: {error.strerror}") from error

    def keep_best(self, count: int) -> None:
        """Remove all ``models/step-N`` but the ``count`` best."""
        steps = [one for one in self.checkpoints() if one.step]
        for checkpoint in steps[count:]:
            remove_folder(checkpoint.folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds a checkpoint to go on from, or what is left of one."""
    return any(any((folder / "resume").glob(name)) for name in ("step-*", ".step-*.old"))


def goodness(metric: str, scores: Mapping[str, float]) -> float:
    """A score as a number of which more is better: a loss is turned round. Missing scores are the worst."""
    value = scores.get(metric)
    if value is None or value != value:
        return float("-inf")
    return -value if metric == "loss" else value


def weights(model: Seq2Seq) -> dict[str, Tensor]:
    """Every parameter once, by its first name, however many places share it."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_weights(model: Seq2Seq, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors`` into ``model``. Raises CheckpointError where names or shapes are not the model's."""
    import torch

    parameters = dict(model.named_parameters())
    if missing := sorted(parameters.keys() ^ tensors.keys()):
        raise CheckpointError(f"{where}: not the weights of this recipe's model: {missing[0]} is on one side only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{where}: {name} has shape {tuple(tensors[name].shape)}, the recipe's model "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[name])


def step_folders(parent: Path) -> list[Path]:
    """The ``step-N`` folders in ``parent``, the newest first."""
    folders = [path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def latest_folder(parent: Path, check: Callable[[Path], object] = check_folder) -> tuple[Path | None, list[str]]:
    """The newest whole ``step-N`` folder in ``parent``, and a sentence for every newer one that is damaged."""
    complaints = []
    for folder in step_folders(parent):
        try:
            check(folder)
        except CheckpointError as error:
            complaints.append(str(error))
        else:
            return folder, complaints
    return None, complaints
