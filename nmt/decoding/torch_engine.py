"""Search by torch: a model of any family, or several of them together, on a processor or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nmt.config import DecodingConfig
from nmt.data.batching import pad
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.decoding.beam import beam_search
from nmt.decoding.constraints import used
from nmt.decoding.engine import check_nbest
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.mbr import minimum_bayes_risk
from nmt.decoding.request import Source
from nmt.decoding.sampling import sample
from nmt.decoding.scoring import evaluating
from nmt.decoding.search import Searchable
from nmt.errors import ConfigError, is_out_of_memory
from nmt.layers.packing import Precision, resolve_precision
from nmt.layers.positions import longest
from nmt.models.packed import Packed, packed
from nmt.models.seq2seq import Seq2Seq

__all__ = ["TorchEngine", "pick_device"]


class TorchEngine:
    """A model in memory, or an ensemble of them, and the ids that search needs to know.

    Its modules and parameters are those that it has now: they may learn, none may be put in another's place.

    Parameters and buffers are only read: what is translated under training leaves the model, its mode and its gradients
    as they were.
    """

    takes_phrases = True

    def __init__(
        self,
        model: Searchable,
        tokenizers: Tokenizers,
        device: torch.device | str = "cpu",
        *,
        limits: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """``limits`` are the longest source and target of a model that does not say so itself."""
        self.model = model
        self.tokenizers = tokenizers
        self.device = torch.device(device)
        self._models: tuple[Seq2Seq, ...] = ()
        self._modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self._sizes: list[int] = []
        self._weights: list[nn.Parameter] = []
        self._counted: list[nn.Parameter] = []
        self._packed: dict[Precision, tuple[object, Packed | Ensemble]] = {}
        if isinstance(model, Seq2Seq | Ensemble):
            self._models = (model,) if isinstance(model, Seq2Seq) else model.models
            self._weights = list(model.parameters())
            self._sizes = [sum(weight.numel() for weight in one.parameters()) for one in self._models]
            self._counted = [weight for weight in self._weights if not weight.is_inference()]
            limits = (longest(model.encoder), longest(model.decoder))
        self.longest_source, self.longest_target = limits

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        """Raise ConfigError where the beam cannot hold ``nbest``, or the device does not have the precision.

        What is run by another library has a precision of its own, which is that one's to check.
        """
        check_nbest(nbest, config)
        if self._models:
            self._precision(config)

    @property
    def is_one_model(self) -> bool:
        """Whether it is a model of torch's and no ensemble, so that it can be trained, forced and asked for more."""
        return isinstance(self.model, nn.Module) and not isinstance(self.model, Ensemble)

    def resolved(self, config: DecodingConfig) -> DecodingConfig:
        """``config`` with the precision that ``auto`` comes to here. Raises ConfigError as :meth:`check` does."""
        return config.model_copy(update={"precision": self._precision(config)})

    def _precision(self, config: DecodingConfig) -> Precision:
        return resolve_precision(config.precision, self.device, self._sizes)

    def packed(self, config: DecodingConfig) -> Searchable:
        """The model as it is now, laid out for search; what was laid out before serves while the weights are the same.

        What is run by another library is laid out already.

        A weight is known by its memory and by how often it was written to; optimizers that do not count that follow a
        forced pass.
        """
        if not isinstance(self.model, Seq2Seq | Ensemble):
            return self.model
        precision = self._precision(config)
        version: list[int] = [one.passes for one in self._models]
        version += [weight.data_ptr() for weight in self._weights]
        version += [weight._version for weight in self._counted]
        known = self._packed.get(precision)
        if known is None or known[0] != version:
            known = self._packed[precision] = version, _packed(self.model, precision)
        return known[1]

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        """Pad the sources to one batch and search, or sample, as ``config`` says.

        Those that have phrases to use are searched for once more without: a beam that is shared out among phrases may
        lose what a whole beam finds, phrases and all.
        """
        tokenizer = self.tokenizers.target
        rows = [[*source.tokens, self.tokenizers.source.eos_id] for source in sources]
        tokens, mask = (tensor.to(self.device) for tensor in pad(rows, self.tokenizers.source.pad_id))
        how: dict[str, Any] = {
            "config": config,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "forbidden": (tokenizer.pad_id, tokenizer.unk_id),
            "sources": sources,
            "nbest": nbest,
            "attention": attention,
            "max_length": self.longest_target,
        }
        try:
            with evaluating(self._modules):
                model = self.packed(config)
                if config.mbr != "none":
                    return minimum_bayes_risk(model, tokens, mask, decode=tokenizer.decode, **how)
                if config.sampling:
                    return sample(model, tokens, mask, **how)
                found = beam_search(model, tokens, mask, **how)
                wishes = [row for row, source in enumerate(sources) if any(source.use)]
                if wishes and config.groups == 1:
                    again = torch.tensor(wishes, device=self.device)
                    how["sources"] = [replace(sources[row], use=()) for row in wishes]
                    others = beam_search(model, tokens[again], mask[again], **how)
                    for row, one in zip(wishes, others, strict=True):
                        found[row] = _best_of(sources[row], found[row], one, nbest, tokenizer)
                return found
        except RuntimeError as error:
            if is_out_of_memory(error) and self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise


def _best_of(
    source: Source, constrained: list[Hypothesis], free: list[Hypothesis], nbest: int, tokenizer: Tokenizer
) -> list[Hypothesis]:
    """The best of a search for phrases, and of those of a free one that miss no more; fewest missing come first."""

    def missing(one: Hypothesis) -> int:
        return used(tokenizer, one.tokens, source.use).count(False)

    known = {one.tokens for one in constrained}
    fewest = min(map(missing, constrained))
    more = [one for one in free if one.tokens not in known and missing(one) <= fewest]
    return sorted([*constrained, *more], key=lambda one: (missing(one), -one.score))[:nbest] if more else constrained


def _packed(model: Seq2Seq | Ensemble, precision: Precision) -> Packed | Ensemble:
    """The model laid out for search, or each of several."""
    if isinstance(model, Seq2Seq):
        return packed(model, precision)
    return Ensemble([packed(member, precision) for member in model.models])


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one. Raises ConfigError where there is none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that holds no numbers, such as meta, is none
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
