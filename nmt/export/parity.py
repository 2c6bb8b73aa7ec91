"""Whether what was exported translates as the run does: the same lines by both, and the run's model as the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.data.batching import collate
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.exported import Kind
from nmt.decoding.lengths import length_penalty
from nmt.decoding.scoring import score
from nmt.decoding.translator import Translation, Translator
from nmt.errors import NmtError
from nmt.evaluation.metrics import Tokenization, evaluate
from nmt.models.seq2seq import Seq2Seq

__all__ = ["Parity", "compare"]

EQUAL: dict[Kind, float] = {"ctranslate2": 0.98, "onnx": 0.99}
"""The share of lines that must be equal. CTranslate2 stops by another rule: of 500 lines a few end elsewhere."""

LARGEST_DIFFERENCE = 1e-3
"""Between an export's score of its own translation and the run's score of that, in single precision."""

BATCH = 64


@dataclass(frozen=True)
class Parity:
    """How an export translated ``lines`` lines: how many are ``equal`` to the run's, and their ``bleu`` against these.

    ``difference`` is the largest between the score that it gives a translation of its own and the score that the run's
    model gives it, whether or not the run found the same: log-probabilities after length normalisation.
    """

    lines: int
    equal: int
    difference: float
    bleu: float

    @property
    def text(self) -> str:
        """All of it in a line."""
        return (
            f"checked on {self.lines} lines: {self.equal} equal to the run's, BLEU {self.bleu:.2f} against them, "
            f"scores within {self.difference:.1g}"
        )

    def require(self, kind: Kind) -> None:
        """Raise NmtError unless the export translates as the run does; a line may differ in any case."""
        if self.lines - self.equal > max(1, self.lines * (1 - EQUAL[kind])) or not self.difference < LARGEST_DIFFERENCE:
            raise NmtError(f"the export does not translate as the run does, and was not written: {self.text}")


def compare(ours: Translator, theirs: Translator, lines: Sequence[str], tokenization: Tokenization) -> Parity:
    """Translate ``lines`` with the run's model and with its export; BLEU cuts words by ``tokenization``."""
    expected = [one.text for one in ours.translate(lines)]
    found = list(theirs.translate(lines))
    (bleu,) = evaluate([one.text for one in found], [expected], metrics=("bleu",), tokenize=tokenization)
    return Parity(
        lines=len(expected),
        equal=sum(one.text == text for one, text in zip(found, expected, strict=True)),
        difference=_difference(ours, [one for one in found if one.hypotheses and one.parts == 1]),
        bleu=bleu.value,
    )


def _difference(judge: Translator, found: Sequence[Translation]) -> float:
    """The largest difference between the scores that came with translations and those of the judge's model."""
    largest = 0.0
    ordered = sorted(found, key=lambda one: len(one.source_tokens))
    for start in range(0, len(ordered), BATCH):
        best = [(one.source_tokens, one.hypotheses[0]) for one in ordered[start : start + BATCH]]
        forced = _scores(judge.model, judge.tokenizers, [(source, one.tokens) for source, one in best])
        for (_, one), total in zip(best, forced, strict=True):
            difference = abs(one.log_probability - total) / length_penalty(len(one.tokens) + 1, judge.decoding)
            largest = max(largest, difference) if difference == difference else float("inf")
    return largest


def _scores(
    model: Seq2Seq, tokenizers: Tokenizers, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[float]:
    """The log-probability that a model gives each target."""
    target = tokenizers.target
    batch = collate(pairs, range(len(pairs)), pad_id=target.pad_id, bos_id=target.bos_id, eos_id=target.eos_id)
    scores: list[float] = score(model, batch).tolist()
    return scores
