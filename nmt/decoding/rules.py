"""What may be written next: the same rules for every search that writes token by token.

A rule takes tokens away and leaves probabilities alone: these are the model's own, over the whole vocabulary, and a
token that may not be written still has its share. In this order, a later one over an earlier one:

- ``forbidden`` ids and BOS are never written;
- no n-gram of tokens stands twice in a translation (``no_repeat_ngram``, Paulus et al. 2018);
- what would end a phrase to avoid is not written;
- behind a phrase to use nothing is written that would make it part of a longer word, but for another phrase to use;
- within a forced prefix only its next token is. So a prefix has in it what the other rules would take away; what it is
  made of counts for them afterwards, as if it had been chosen.

EOS is taken away within a prefix and by no other rule: a translation can always end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.request import Source
from nmt.decoding.search import on_device

__all__ = ["Rules"]

ANY = -1
"""In a phrase's place: whatever stands there."""

NONE = -2
"""What stands before the first token of a translation."""


@dataclass(frozen=True)
class Rules:
    """The rules for a batch of B sentences.

    ``never`` are the ids that are not written in any of them. ``prefixes`` are padded, their lengths ``forced``.
    Phrases to avoid, K a sentence at most, are their last tokens ``last`` (-1 where there is no phrase) and what has to
    stand before these for the rule to apply, ``before``, aligned to the right and filled up with -1. ``used`` are the
    phrases to use in the same way, behind which none of the tokens ``continuing`` is written, but those with which a
    ``longer`` one goes on.
    """

    eos_id: int
    never: Int[Tensor, " F"]
    no_repeat_ngram: int
    prefixes: Int[Tensor, "B P"]
    forced: Int[Tensor, " B"]
    before: Int[Tensor, "B K W"]
    last: Int[Tensor, "B K"]
    used: Int[Tensor, "B U X"]
    continuing: Int[Tensor, " C"]
    longer: Bool[Tensor, "B U C"]

    @staticmethod
    def of(
        sources: Sequence[Source],
        config: DecodingConfig,
        *,
        bos_id: int,
        eos_id: int,
        forbidden: Sequence[int] = (),
        device: torch.device,
    ) -> Rules:
        """The rules for ``sources``, in their order; none of their own for those that are not there."""
        avoid = _table([source.avoid for source in sources])
        use = _table([source.use if source.continuing else () for source in sources])
        forced = [len(source.prefix) for source in sources]
        width = max(forced, default=0)
        prefixes = [[*source.prefix, *[ANY] * (width - len(source.prefix))] for source in sources]

        continuing = sorted(frozenset().union(*(source.continuing for source in sources if source.use)))

        def ids(values: Sequence[object], *shape: int) -> Tensor:
            return on_device(np.array(values, dtype=np.int64).reshape(shape), device)

        return Rules(
            eos_id=eos_id,
            never=ids(sorted({bos_id, *forbidden} - {eos_id}), -1),
            no_repeat_ngram=config.no_repeat_ngram,
            prefixes=ids(prefixes, len(sources), width),
            forced=ids(forced, len(sources)),
            before=ids([[phrase[:-1] for phrase in row] for row in avoid], *_shape(avoid, shorter=1)),
            last=ids([[phrase[-1] for phrase in row] for row in avoid], *_shape(avoid)[:2]),
            used=ids(use, *_shape(use)),
            continuing=ids(continuing, -1),
            longer=on_device(_longer(use, continuing), device),
        )

    @property
    def is_plain(self) -> bool:
        """Whether ``never`` is all there is."""
        return not (self.no_repeat_ngram or self.prefixes.shape[1] or self.last.shape[1] or self.used.shape[1])

    def forbid_(
        self,
        logits: Float[Tensor, "R V"],
        written: Int[Tensor, "R T"],
        sentences: Int[Tensor, " R"],
    ) -> None:
        """Set to -inf, in place, what each row may not write next.

        ``written`` are the tokens of each row so far, BOS left out, and ``sentences`` says which of the B sentences a
        row translates.
        """
        rows, tokens = self._forced(written.shape[1], sentences)
        kept = logits[rows, tokens]
        logits.index_fill_(1, self.never, -torch.inf)
        if 0 < self.no_repeat_ngram <= written.shape[1]:
            self._forbid(logits, *_repeated(written, self.no_repeat_ngram))
        if self.last.shape[1]:
            self._forbid(logits, *self._completing(written, sentences))
        if self.used.shape[1]:
            used = self.used[sentences]
            behind = _tail_matches(written, used) & (used[:, :, -1] != ANY)
            ended = behind.any(dim=1).nonzero().squeeze(1)
            broken = (behind[ended].unsqueeze(2) & ~self.longer[sentences[ended]]).any(dim=1)
            places = ended.unsqueeze(1), self.continuing
            logits[places] = logits[places].masked_fill(broken, -torch.inf)
        if len(rows):
            logits[rows] = -torch.inf
            logits[rows, tokens] = kept

    def _forbid(self, logits: Float[Tensor, "R V"], rows: Int[Tensor, " X"], tokens: Int[Tensor, " X"]) -> None:
        words = tokens != self.eos_id
        logits[rows[words], tokens[words]] = -torch.inf

    def _forced(self, length: int, sentences: Int[Tensor, " R"]) -> tuple[Int[Tensor, " X"], Int[Tensor, " X"]]:
        """The rows within a prefix after ``length`` tokens, and the token that comes next in each."""
        if length >= self.prefixes.shape[1]:
            nothing = sentences[:0]
            return nothing, nothing
        rows = (self.forced[sentences] > length).nonzero().squeeze(1)
        return rows, self.prefixes[sentences[rows], length]

    def _completing(
        self, written: Int[Tensor, "R T"], sentences: Int[Tensor, " R"]
    ) -> tuple[Int[Tensor, " X"], Int[Tensor, " X"]]:
        """Rows and tokens, each of which would complete a phrase to avoid of its sentence."""
        last = self.last[sentences]
        matches = _tail_matches(written, self.before[sentences]) & (last != ANY)
        return matches.nonzero(as_tuple=True)[0], last[matches]


def _table(phrases: Sequence[Sequence[tuple[int, ...]]]) -> list[list[list[int]]]:
    """As many phrases for each sentence, all of one length, filled up with ANY on the left."""
    real = [[phrase for phrase in row if phrase] for row in phrases]
    most = max(map(len, real), default=0)
    longest = max((len(phrase) for row in real for phrase in row), default=1)
    return [
        [[ANY] * (longest - len(phrase)) + list(phrase) for phrase in [*row, *[()] * (most - len(row))]] for row in real
    ]


def _longer(table: list[list[list[int]]], continuing: Sequence[int]) -> Bool[np.ndarray, "B U C"]:
    """Which tokens may come behind which phrase because another one of its sentence has them there."""
    longer = np.zeros((*_shape(table)[:2], len(continuing)), dtype=np.bool_)
    places = {token: place for place, token in enumerate(continuing)}
    for sentence, row in enumerate(table):
        phrases = [[token for token in phrase if token != ANY] for phrase in row]
        for number, phrase in enumerate(phrases):
            for other in phrases:
                for end in range(len(phrase), len(other)):
                    if phrase and other[end - len(phrase) : end] == phrase and other[end] in places:
                        longer[sentence, number, places[other[end]]] = True
    return longer


def _shape(table: list[list[list[int]]], *, shorter: int = 0) -> tuple[int, int, int]:
    """The shape of a table, whose rows are shorter by so much."""
    most = len(table[0]) if table else 0
    return len(table), most, (len(table[0][0]) if most else 1) - shorter


def _tail_matches(written: Int[Tensor, "R T"], phrases: Int[Tensor, "R K W"]) -> Bool[Tensor, "R K"]:
    """Which phrases the tokens end with. One that is filled up with nothing but ANY matches whatever is written."""
    width = phrases.shape[2]
    tail = torch.nn.functional.pad(written, (width, 0), value=NONE)[:, written.shape[1] :].unsqueeze(1)
    return ((phrases == tail) | (phrases == ANY)).all(dim=2)


def _repeated(written: Int[Tensor, "R T"], n: int) -> tuple[Int[Tensor, " X"], Int[Tensor, " X"]]:
    """Rows and tokens, each of which would make the last n tokens of the row an n-gram that it has already.

    There are n tokens at least.
    """
    windows = written.unfold(1, n, 1)
    ending = written[:, written.shape[1] - n + 1 :].unsqueeze(1)
    matches = (windows[:, :, :-1] == ending).all(dim=2)
    return matches.nonzero(as_tuple=True)[0], windows[:, :, -1][matches]
