"""What was exported: a folder that another library's engine translates from, and that says all that translating needs.

::

    EXPORT/
      export.json            the format's number, which engine, how it keeps numbers, how to search, which run it was
      source.model           SentencePiece; target.model beside it where the two sides have one each
      manifest.json          sizes and SHA-256 of all files
      ...                    what the engine reads

The engines are libraries that nmt can do without: each is an extra of the same name. Nothing here needs torch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from nmt import __version__
from nmt.checkpoint import check_folder, json_bytes, read_json
from nmt.config import DecodingConfig
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.decoding.engine import Engine
from nmt.errors import CheckpointError, ConfigError, NmtError

__all__ = ["EXPORT", "Export", "Kind", "check_precision", "is_export", "need", "threads_or_all"]

#: Number of the folder's format; an export of a larger one was written by a newer version.
FORMAT = 1

EXPORT = "export.json"

Kind = Literal["ctranslate2", "onnx"]
"""The engines, each also the name of the extra that it needs."""

_MODULES: dict[Kind, str] = {"ctranslate2": "ctranslate2", "onnx": "onnxruntime"}
_PACKAGES: dict[Kind, tuple[str, ...]] = {"ctranslate2": ("ctranslate2",), "onnx": ("onnx", "onnxruntime")}


@dataclass(frozen=True)
class Export:
    """An exported model: who runs it, how, and where it came from.

    ``run`` is the signature of the model that was exported (:func:`nmt.evaluation.signature.sign_model`). The longest
    source and target are in tokens, EOS counted; None where there is no bound. ``learnt`` is how many pieces the
    sentences had at most that the model was trained on, 0 being any number.
    """

    kind: Kind
    quantization: str
    decoding: DecodingConfig
    tokenizers: Tokenizers
    longest_source: int | None
    longest_target: int | None
    run: Mapping[str, str]
    learnt: int = 0

    def files(self) -> dict[str, bytes]:
        """The files that every export has, by name; those of its engine come beside them."""
        said = {
            "format": FORMAT,
            "nmt": __version__,
            "kind": self.kind,
            "quantization": self.quantization,
            "decoding": self.decoding.model_dump(mode="json"),
            "longest_source": self.longest_source,
            "longest_target": self.longest_target,
            "learnt": self.learnt,
            "joint": self.tokenizers.joint,
            "run": dict(self.run),
        }
        files = {EXPORT: json_bytes(said), "source.model": self.tokenizers.source.to_bytes()}
        if not self.tokenizers.joint:
            files["target.model"] = self.tokenizers.target.to_bytes()
        return files

    @staticmethod
    def open(folder: Path) -> Export:
        """The export in ``folder``.

        Raises CheckpointError where there is none, where a file is missing or damaged, or where it was written by a
        newer version.
        """
        if not is_export(folder):
            raise CheckpointError(f"{folder}: not an export: it has no {EXPORT}")
        said = read_json(folder / EXPORT)
        if not isinstance(said.get("format"), int) or said["format"] > FORMAT:
            raise CheckpointError(
                f"{folder}: an export of format {said.get('format')}, written by nmt {said.get('nmt')}; "
                f"this nmt {__version__} reads up to {FORMAT}: install a newer one"
            )
        check_folder(folder)
        if said.get("kind") not in _MODULES:
            raise CheckpointError(
                f"{folder}: an export for {said.get('kind')!r}, which this nmt {__version__} cannot run"
            )
        source = Tokenizer.load(folder / "source.model")
        try:
            limits = [said[name] for name in ("longest_source", "longest_target")]
            if not all(limit is None or (isinstance(limit, int) and limit > 0) for limit in limits):
                raise ValueError(f"the longest source and target are {limits}")
            return Export(
                kind=said["kind"],
                quantization=str(said["quantization"]),
                decoding=DecodingConfig.model_validate(said["decoding"]),
                tokenizers=Tokenizers(source, source if said["joint"] else Tokenizer.load(folder / "target.model")),
                longest_source=limits[0],
                longest_target=limits[1],
                run=dict(said["run"]),
                learnt=max(0, int(said.get("learnt", 0))),
            )
        except (KeyError, TypeError, ValueError) as error:  # pydantic's error is a ValueError
            raise CheckpointError(f"{folder / EXPORT}: damaged: {str(error).splitlines()[0]}") from error

    def engine(self, folder: Path, *, device: str = "auto", threads: int = 0) -> Engine:
        """What runs the export in ``folder``; ``threads`` are those of the processor, 0 being all.

        Raises NmtError where the library is not installed, ConfigError for a device that it cannot use,
        CheckpointError where it cannot read the model.
        """
        need(self.kind)
        match self.kind:
            case "ctranslate2":
                from nmt.decoding.ctranslate2 import CTranslate2Engine

                return CTranslate2Engine(self, folder, device=device, threads=threads)
            case "onnx":
                from nmt.decoding.onnx import OnnxEngine

                return OnnxEngine(self, folder, device=device, threads=threads)
        assert_never(self.kind)

    def settled(self) -> set[str]:
        """The fields of search that an export of this kind has one way of only, by name."""
        match self.kind:
            case "ctranslate2":
                from nmt.decoding.ctranslate2 import PLAIN

                return {"precision", *PLAIN}
            case "onnx":
                return {"precision"}
        assert_never(self.kind)


def check_precision(quantization: str, config: DecodingConfig) -> None:
    """Raise ConfigError where a search asks for numbers that an export has not: it has those it was written in."""
    written = "float32" if quantization == "none" else quantization
    if config.precision not in ("auto", written):
        raise ConfigError(f"--precision {config.precision}: this export is of {written}; leave it out, or export again")


def is_export(folder: Path) -> bool:
    """Whether a folder says of itself that it is an export."""
    return (folder / EXPORT).is_file()


def need(kind: Kind, module: str = "") -> Any:
    """The library of an engine, or ``module`` in its place. Raises NmtError where it is not installed."""
    try:
        return importlib.import_module(module or _MODULES[kind])
    except ImportError as error:
        raise NmtError(
            f"{kind} exports need a library that is not installed ({error}): pip install {' '.join(_PACKAGES[kind])}"
        ) from error


def threads_or_all(threads: int) -> int:
    """So many threads; for 0 as many as OpenMP is told to use, or else as there are processors to run on."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if threads or (told.isdecimal() and int(told)):
        return threads or int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
