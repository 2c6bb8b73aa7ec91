"""How good the model is on sentences it does not train on: loss, and BLEU and chrF of what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nmt.config import DecodingConfig, TrainingConfig
from nmt.data.batching import Batch, collate
from nmt.data.corpus import Pair
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.engine import Engine
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.decoding.scoring import evaluating
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.errors import NmtError, is_out_of_memory
from nmt.evaluation.metrics import Tokenization, default_tokenization, evaluate
from nmt.models import Seq2Seq
from nmt.training.loss import perplexity, token_loss
from nmt.training.precision import autocast
from nmt.training.signals import Stopped, StopRequest

__all__ = ["Scores", "Validator"]


@dataclass(frozen=True)
class Scores:
    """One validation. ``loss`` is the negative log-likelihood a target token in nats, ``seconds`` what it took."""

    loss: float
    perplexity: float
    bleu: float
    chrf: float
    seconds: float

    def by_metric(self) -> dict[str, float]:
        """The scores under the names that ``training.metric`` knows."""
        return {"loss": self.loss, "perplexity": self.perplexity, "bleu": self.bleu, "chrf": self.chrf}


class Validator:
    """Scores a model on one fixed set of pairs, blank lines included in BLEU as everywhere."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        tokenizers: Tokenizers,
        training: TrainingConfig,
        decoding: DecodingConfig,
        target_language: str,
        learnt: int = 0,
    ) -> None:
        """``learnt`` as in :class:`~nmt.decoding.translator.Translator`."""
        self.pairs = pairs
        self.tokenizers = tokenizers
        self.learnt = learnt
        self.decoding = decoding.model_copy(
            update={"beam": training.validation_beam or decoding.beam, "groups": 1, "sampling": False, "mbr": "none"}
        )
        self.tokenize: Tokenization = (
            default_tokenization(target_language) if training.bleu_tokenize == "auto" else training.bleu_tokenize
        )
        self.batches = list(_batches(pairs, tokenizers, training.batch_tokens))

    def check(self, model: Seq2Seq, device: torch.device) -> None:
        """Find what would stop every validation of such a model: before the steps that lead to the first.

        Raises ConfigError for a precision that the device does not have or a tokenisation that is not installed,
        DataError for a sentence that is too long where that is an error.
        """
        evaluate([""], [[""]], metrics=("bleu",), tokenize=self.tokenize)
        translator = Translator(TorchEngine(model, self.tokenizers, device), self.tokenizers, self.decoding)
        translator.check()
        if self.decoding.on_long == "error":
            translator.measure(pair.source for pair in self.pairs)

    def __call__(
        self, model: Seq2Seq, device: torch.device, dtype: torch.dtype, stop: StopRequest | None = None
    ) -> Scores:
        """Validate ``model``: it is in evaluation mode meanwhile and afterwards as it was.

        Where its loss is not a finite number nothing is translated: BLEU and chrF are 0. Raises Stopped before the next
        batch where ``stop`` was requested.
        """
        start = time.monotonic()
        with evaluating(model.modules()), torch.inference_mode(), autocast(dtype, device):
            nll, tokens = 0.0, 0
            for batch in self.batches:
                if stop:
                    raise Stopped
                nll += _loss(model, batch.to(device))
                tokens += batch.target_tokens
        if not math.isfinite(nll):
            return Scores(math.nan, math.inf, 0.0, 0.0, time.monotonic() - start)
        engine = _Stoppable(TorchEngine(model, self.tokenizers, device), stop)
        translator = Translator(engine, self.tokenizers, self.decoding, self.learnt)
        hypotheses = [one.text for one in translator.translate(pair.source for pair in self.pairs)]
        bleu, chrf = evaluate(
            hypotheses, [[pair.target for pair in self.pairs]], metrics=("bleu", "chrf"), tokenize=self.tokenize
        )
        seconds = time.monotonic() - start
        return Scores(nll / max(tokens, 1), perplexity(nll, tokens), bleu.value, chrf.value, seconds)


def _loss(model: Seq2Seq, batch: Batch) -> float:
    """The negative log-likelihood of a batch, of its halves one by one where memory does not suffice.

    Raises NmtError where it does not suffice for a single pair.
    """
    try:
        decoded = model(batch)
        loss = token_loss(decoded.features, model.output.weight, batch.target_out, batch.target_mask)
        return float(loss.negative_log_likelihood)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if batch.source.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(batch) == 1:
        source, target = batch.source.shape[1], batch.target_in.shape[1]
        raise NmtError(
            f"data.valid: out of memory over one pair of {source} source and {target} target tokens: take it out of "
            f"the validation set"
        )
    return sum(_loss(model, half) for half in batch.halves())


class _Stoppable:
    """An engine that searches no further batch once ``stop`` was requested: it raises Stopped instead."""

    def __init__(self, engine: Engine, stop: StopRequest | None) -> None:
        self.engine = engine
        self.stop = stop
        self.takes_phrases = engine.takes_phrases
        self.longest_source = engine.longest_source
        self.longest_target = engine.longest_target

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        self.engine.check(config, nbest=nbest, attention=attention)

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        if self.stop:
            raise Stopped
        return self.engine.search(sources, config, nbest=nbest, attention=attention)


def _batches(pairs: Sequence[Pair], tokenizers: Tokenizers, batch_tokens: int) -> Iterator[Batch]:
    """The pairs with something on both sides in order of length, as many a batch as training has."""
    real = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
    ids = sorted(
        ((tokenizers.source.encode(pair.source), tokenizers.target.encode(pair.target)) for pair in real),
        key=lambda both: max(len(both[0]), len(both[1])),
    )
    target = tokenizers.target
    group: list[tuple[list[int], list[int]]] = []
    for one in ids:
        longest = max(len(one[0]), len(one[1])) + 1
        if group and (len(group) + 1) * longest > batch_tokens:
            yield collate(group, range(len(group)), pad_id=target.pad_id, bos_id=target.bos_id, eos_id=target.eos_id)
            group = []
        group.append(one)
    if group:
        yield collate(group, range(len(group)), pad_id=target.pad_id, bos_id=target.bos_id, eos_id=target.eos_id)
