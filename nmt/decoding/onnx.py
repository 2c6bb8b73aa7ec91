"""Search over two ONNX graphs, run by onnxruntime: any family, under nmt's own search.

``remember.onnx`` reads sources once, ``step.onnx`` takes one step; :mod:`nmt.export.onnx` writes them and says what
goes in and out. What is in them is none of search's business: memory and state are tensors with a row a hypothesis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.exported import Export, check_precision, threads_or_all
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.decoding.torch_engine import TorchEngine
from nmt.errors import CheckpointError, ConfigError
from nmt.models.interface import Step

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxEngine", "OnnxModel", "OnnxTensors"]


@dataclass(frozen=True)
class OnnxTensors:
    """A memory or a state: named tensors whose first dimension is the row."""

    parts: Mapping[str, Tensor]

    def select(self, rows: Int[Tensor, " R"]) -> OnnxTensors:
        """Those of the given rows, in that order."""
        return OnnxTensors({name: part.index_select(0, rows) for name, part in self.parts.items()})

    def under(self, prefix: str) -> OnnxTensors:
        """The parts whose names begin so."""
        return OnnxTensors({name: part for name, part in self.parts.items() if name.startswith(prefix)})


class OnnxModel:
    """Two graphs as a model that can be searched with (:class:`~nmt.decoding.search.Searchable`)."""

    def __init__(self, remember: bytes | Path, step: bytes | Path, *, threads: int = 1) -> None:
        self._remember = _Graph(remember, threads)
        self._step = _Graph(step, threads)

    def remember(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> OnnxTensors:
        return OnnxTensors(self._remember({"source": source, "mask": mask}))

    def start(self, memory: OnnxTensors) -> OnnxTensors:
        return memory.under("state.")

    def step(self, tokens: Int[Tensor, " B"], state: OnnxTensors, memory: OnnxTensors) -> Step:
        """One step; its features are the logits already."""
        made = self._step({"tokens": tokens, **memory.parts, **state.parts})
        after = {f"state.{name.removeprefix('next.')}": part for name, part in made.items() if name.startswith("next.")}
        return Step(made["logits"], OnnxTensors(after), made["attention"])

    def logits(self, features: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
        return features


class _Graph:
    """A graph that is called with named tensors and answers with named tensors; names it does not know are left out."""

    def __init__(self, content: bytes | Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        self._session: InferenceSession = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            values = self._session.run(self._outputs, {name: tensors[name].numpy() for name in self._inputs})
        except Exception as error:  # onnxruntime's exceptions have no class in common but this, and none for memory
            if any(words in str(error) for words in ("allocate memory", "bad_alloc")):
                raise MemoryError(str(error)) from error
            raise
        return {name: torch.from_numpy(value) for name, value in zip(self._outputs, values, strict=True)}


class OnnxEngine:
    """The engine of an export to ONNX."""

    takes_phrases = True

    def __init__(self, export: Export, folder: Path, *, device: str = "auto", threads: int = 0) -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device {device!r} cannot be used: exports to onnx run on the processor, --device cpu")
        self.longest_source = export.longest_source
        self.longest_target = export.longest_target
        self._quantization = export.quantization
        try:
            model = OnnxModel(folder / "remember.onnx", folder / "step.onnx", threads=threads_or_all(threads))
        except Exception as error:  # onnxruntime's exceptions have no class in common but this
            raise CheckpointError(f"{folder}: onnxruntime cannot read it: {str(error).splitlines()[0]}") from error
        self._engine = TorchEngine(model, export.tokenizers, limits=(self.longest_source, self.longest_target))

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        self._engine.check(config, nbest=nbest, attention=attention)
        check_precision(self._quantization, config)

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        return self._engine.search(sources, config, nbest=nbest, attention=attention)
