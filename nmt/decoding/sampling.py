"""Sampling: translations drawn from the model's distribution, or from what truncations leave of it.

A token is drawn from the model's probabilities after, in this order,

1. the rules (:mod:`nmt.decoding.rules`): what may not be written next has the probability 0;
2. ``temperature`` T: logits are divided by it;
3. ``top_k``: the k likeliest tokens stay;
4. ``top_p``: the fewest likeliest tokens stay that have this much probability together (nucleus sampling, Holtzman et
   al. 2020, section 3.1);
5. ``epsilon``: tokens of at least this probability stay, and the likeliest in any case (Hewitt et al. 2022, section
   4.2).

Each of them sees the probabilities that the one before left, summing to one again. Tokens as likely as the last one
that stays stay too, so that no order among equals has a say.

What is drawn for a sentence depends on the seed, on the source's own tokens and on the sample's number, on nothing
else: not on batch size, neighbours or order, and torch's generators are neither used nor changed. Each sample has a
stream of random numbers of its own, Philox (Salmon et al. 2011) keyed by these three; the same line gets the same
samples wherever it stands.

A token is drawn by the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014): of log p + G, with a G = -log(-log u)
for each choice, the largest is at a random place of probability p. Walking along the cumulative distribution would need
one random number in place of many, but it does not give the same draw twice: where thousands of unlikely tokens share a
few percent, rounding moves the sums before them by a good part of a token's share, and of 1,000 draws from a vocabulary
of 16,000 one to three came out otherwise in a batch of another shape. A maximum is another one only where the two
largest are as near as rounding errors are large. To spare a random number a token, first one of about sqrt(V) groups of
tokens is drawn by its probability, then a token within it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_for
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.decoding.search import Searchable, check_numbers, numbers, wide
from nmt.decoding.topk import top_k

__all__ = ["sample", "truncate_"]

TOGETHER = 512
"""Samples that are drawn at once; more of them are drawn one lot after another."""

NUCLEUS = 64
"""Of how many tokens the nucleus is sought first; of four times as many where it is larger."""


@torch.inference_mode()
def sample(
    model: Searchable,
    source: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    *,
    config: DecodingConfig,
    bos_id: int,
    eos_id: int,
    forbidden: Sequence[int] = (),
    sources: Sequence[Source] = (),
    nbest: int = 1,
    attention: bool = False,
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """``nbest`` independent samples of each source, best score first; what was drawn twice is there twice.

    Takes and returns what :func:`~nmt.decoding.beam.beam_search` does. Log-probabilities are the model's own, at
    temperature 1 and over the whole vocabulary, whatever was drawn from. A sample that does not end by itself is ended
    at the longest translation allowed, the probability of EOS counted. Prefixes and phrases to avoid are kept; whether
    a phrase to use is in a sample is left to chance.

    Raises NmtError where the model gives no numbers or a prefix is longer than it can write.
    """
    if len(source) == 0:
        return []
    sentences = [row[real].tolist() for row, real in zip(source.cpu(), mask.cpu(), strict=True)]
    wishes = sources or [Source(())] * len(sentences)
    limits = [
        longest_for(wish, len(tokens), config, max_length) for wish, tokens in zip(wishes, sentences, strict=True)
    ]
    rules = Rules.of(wishes, config, bos_id=bos_id, eos_id=eos_id, forbidden=forbidden, device=source.device)
    sampler = _Sampler(model, rules, config, bos_id, eos_id, attention)
    memory = model.remember(source, mask)
    numbered = [(row, number) for row in range(len(sentences)) for number in range(nbest)]
    drawn: list[_Ended] = []
    for first in range(0, len(numbered), TOGETHER):
        lot = numbered[first : first + TOGETHER]
        rows = torch.as_tensor([row for row, _ in lot], device=source.device)
        streams = [_stream(config.seed, sentences[row], number) for row, number in lot]
        most = torch.as_tensor([limits[row] for row, _ in lot], device=source.device)
        drawn += sampler.draw(memory.select(rows), _Lot.of(rows, most, streams))
    found: list[list[Hypothesis]] = [[] for _ in sentences]
    for (row, _), one in zip(numbered, drawn, strict=True):
        found[row].append(_hypothesis(one, len(sentences[row]), config))
    return [sorted(ones, key=lambda one: -one.score) for ones in found]


@dataclass(frozen=True)
class _Lot:
    """Samples that are drawn together and have not ended: R of them, t tokens in each, with their logarithms.

    ``places`` numbers them in the lot, ``limits`` is the most tokens each may have, EOS counted. ``trail`` says in
    which row of each step so far a sample stood.
    """

    places: Int[Tensor, " R"]
    sentences: Int[Tensor, " R"]
    limits: Int[Tensor, " R"]
    streams: Sequence[np.random.Philox]
    tokens: Int[Tensor, "R t"]
    log_probabilities: Float[Tensor, "R t"]
    trail: Int[Tensor, "R t"]

    @staticmethod
    def of(sentences: Int[Tensor, " R"], limits: Int[Tensor, " R"], streams: Sequence[np.random.Philox]) -> _Lot:
        """Samples of which nothing is written yet."""
        places = torch.arange(len(sentences), device=sentences.device)
        nothing = places.new_empty(len(sentences), 0)
        return _Lot(places, sentences, limits, streams, nothing, nothing.double(), nothing)

    def extend(self, tokens: Int[Tensor, " R"], log_probabilities: Float[Tensor, " R"]) -> _Lot:
        """The samples, a token longer."""
        here = torch.arange(len(tokens), device=tokens.device)
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens.unsqueeze(1)], dim=1),
            log_probabilities=torch.cat([self.log_probabilities, log_probabilities.double().unsqueeze(1)], dim=1),
            trail=torch.cat([self.trail, here.unsqueeze(1)], dim=1),
        )

    def select(self, rows: Int[Tensor, " K"]) -> _Lot:
        """The samples in the given rows."""
        return _Lot(
            self.places[rows],
            self.sentences[rows],
            self.limits[rows],
            [self.streams[row] for row in rows.tolist()],
            self.tokens[rows],
            self.log_probabilities[rows],
            self.trail[rows],
        )


@dataclass(frozen=True)
class _Ended:
    """A sample that has ended: its tokens without EOS, their logarithms and EOS's, and its attention if asked for."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    attention: Float[np.ndarray, "T S"] | None


@dataclass(frozen=True)
class _Sampler:
    """Draws one lot of samples after another."""

    model: Searchable
    rules: Rules
    config: DecodingConfig
    bos_id: int
    eos_id: int
    attention: bool

    def draw(self, memory: Any, lot: _Lot) -> list[_Ended]:
        """The samples of a lot, in its order; ``memory`` has a row a sample."""
        ended: dict[int, _Ended] = {}
        looked: list[Tensor] = []
        state = self.model.start(memory)
        previous = torch.full_like(lot.places, self.bos_id)
        while True:
            step = self.model.step(previous, state, memory)
            if self.attention:
                looked.append(step.attention)
            lot = lot.extend(*self._next(wide(self.model.logits(step.features)), lot))
            previous = lot.tokens[:, -1]
            ends = previous == self.eos_id
            ended |= self._ended(lot.select(ends.nonzero().squeeze(1)), looked)
            state, going = step.state, (~ends).nonzero().squeeze(1)
            if not len(going):
                return [ended[place] for place in sorted(ended)]
            if len(going) < len(ends):
                lot, previous = lot.select(going), previous[going]
                state, memory = state.select(going), memory.select(going)

    def _next(self, logits: Float[Tensor, "R V"], lot: _Lot) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
        """A token for each sample, and its logarithm in the model's own distribution."""
        written = lot.tokens.shape[1]
        log_probabilities = logits.log_softmax(dim=-1)
        closing = log_probabilities[:, self.eos_id].clone()
        check_numbers(closing, written + 1)
        self.rules.forbid_(log_probabilities, lot.tokens, lot.sentences)
        left = _heated(log_probabilities, self.config.temperature)
        truncate_(left, self.config)
        tokens = _pick(left, lot.streams)
        chosen = log_probabilities.gather(1, tokens.unsqueeze(1)).squeeze(1)
        # Where nothing may be written the translation ends, as it does at its longest.
        ends = (chosen == -torch.inf) | (lot.limits == written + 1)
        return tokens.masked_fill(ends, self.eos_id), torch.where(ends, closing, chosen)

    def _ended(self, lot: _Lot, looked: Sequence[Tensor]) -> dict[int, _Ended]:
        """Samples whose last token is EOS, by their places in the lot."""
        ended = {}
        for place, tokens, logarithms, trail in zip(
            lot.places.tolist(), lot.tokens.tolist(), lot.log_probabilities.tolist(), lot.trail.tolist(), strict=True
        ):
            looks = None
            if self.attention:
                rows = [attention[row] for attention, row in zip(looked, trail, strict=True)]
                looks = numbers(rows)
            ended[place] = _Ended(tuple(tokens[:-1]), tuple(logarithms), looks)
        return ended


def _heated(log_probabilities: Float[Tensor, "R V"], temperature: float) -> Float[Tensor, "R V"]:
    """Logits at another temperature; at 1 the tensor itself. The largest is 0, lest it leave the range of numbers."""
    if temperature == 1.0:
        return log_probabilities
    largest = log_probabilities.amax(dim=1, keepdim=True)
    return (log_probabilities - largest.nan_to_num(neginf=0.0)).div_(temperature)


def truncate_(logits: Float[Tensor, "R V"], config: DecodingConfig) -> None:
    """Set to -inf, in place, what ``top_k``, ``top_p`` and ``epsilon`` leave out, in this order.

    ``logits`` need not be normalised, nor finite: what is -inf stays out.
    """
    if 0 < config.top_k < logits.shape[1]:
        smallest = top_k(logits, config.top_k)[0][:, -1:]
        logits.masked_fill_(logits < smallest, -torch.inf)
    if config.top_p < 1.0:
        logits.masked_fill_(logits < _smallest_of_nucleus(logits, config.top_p), -torch.inf)
    if config.epsilon > 0.0:
        smallest = logits.logsumexp(dim=1, keepdim=True) + math.log(config.epsilon)
        logits.masked_fill_(logits < torch.minimum(smallest, logits.amax(dim=1, keepdim=True)), -torch.inf)


def _smallest_of_nucleus(logits: Float[Tensor, "R V"], share: float) -> Float[Tensor, "R 1"]:
    """The logit of the last of the fewest likeliest tokens whose probabilities reach ``share`` together."""
    smallest = torch.empty_like(logits[:, :1])
    rows, count = torch.arange(len(logits), device=logits.device), NUCLEUS
    norm = logits.logsumexp(dim=1, keepdim=True)
    while len(rows):
        largest = top_k(logits[rows], count)[0]
        reached = (largest - norm[rows]).double().exp().cumsum(dim=1)
        before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=1)
        last = (before < share).sum(dim=1, keepdim=True) - 1
        smallest[rows] = largest.gather(1, last)
        rows = rows[reached[:, -1] < share] if count < logits.shape[1] else rows[:0]
        count *= 4
    return smallest


def _pick(logits: Float[Tensor, "R V"], streams: Sequence[np.random.Philox]) -> Int[Tensor, " R"]:
    """A token from each row's distribution: a group of neighbours by what they have together, then one of the group."""
    width = math.isqrt(logits.shape[1] - 1) + 1
    groups = -(-logits.shape[1] // width)
    padding = groups * width - logits.shape[1]
    table = torch.nn.functional.pad(logits, (0, padding), value=-torch.inf).view(-1, groups, width)
    noise = _gumbel(streams, groups + width).to(logits)
    group = (table.logsumexp(dim=2) + noise[:, :groups]).argmax(dim=1)
    members = table[torch.arange(len(group), device=group.device), group]
    return group * width + (members + noise[:, groups:]).argmax(dim=1)


def _gumbel(streams: Sequence[np.random.Philox], count: int) -> Float[Tensor, "R N"]:
    """The next ``count`` numbers of each stream, as draws from the standard Gumbel distribution.

    Raw bits are what numpy promises to keep from version to version.
    """
    bits = np.stack([stream.random_raw(count) for stream in streams]) >> np.uint64(11)
    uniform = (bits + 0.5) * 2.0**-53  # the middle of one of 2**53 parts: neither 0 nor 1
    return torch.from_numpy(-np.log(-np.log(uniform)))


def _stream(seed: int, tokens: Sequence[int], number: int) -> np.random.Philox:
    """The random numbers of a source's sample of that number."""
    key = hashlib.blake2b(np.array([seed, number, *tokens], "<i8").tobytes(), digest_size=16)
    return np.random.Philox(key=int.from_bytes(key.digest(), "little"))


def _hypothesis(one: _Ended, source_length: int, config: DecodingConfig) -> Hypothesis:
    """A sample as search returns it."""
    total = math.fsum(one.log_probabilities)
    return Hypothesis(
        tokens=one.tokens,
        log_probability=total,
        score=total / length_penalty(len(one.tokens) + 1, config),
        attention=None if one.attention is None else one.attention[:, :source_length],
        token_log_probabilities=one.log_probabilities,
    )
