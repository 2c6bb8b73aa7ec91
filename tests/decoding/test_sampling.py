"""Samples against exact probabilities: the table model's, worked out in plain Python; and against themselves, in any
company."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config import DecodingConfig, ModelConfig
from nmt.data.batching import collate, pad
from nmt.decoding.greedy import greedy_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty
from nmt.decoding.request import Source
from nmt.decoding.sampling import sample, truncate_
from nmt.decoding.scoring import token_log_probabilities
from nmt.errors import NmtError
from nmt.models import Seq2Seq, build

PAD, UNK, BOS, EOS = 0, 1, 2, 3
IDS: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK)}


def config(**changes: Any) -> DecodingConfig:
    return DecodingConfig.model_validate({"max_ratio": 1.0, "max_extra": 0, "sampling": True, **changes})


def sources(*lengths: int) -> tuple[Tensor, Tensor]:
    """Sources of the given lengths, the first token of each naming its table."""
    return pad([[10 + row] * length for row, length in enumerate(lengths)], PAD)


def draw(model: Any, *lengths: int, **arguments: Any) -> list[list[Hypothesis]]:
    return sample(model, *sources(*lengths), **{"config": config(), **IDS, **arguments})


# ------------------------------------------------------------------------------------------------------ distributions


def next_token(logits: list[float], settings: DecodingConfig) -> dict[int, float]:
    """What a token is drawn from, by the definitions: a dictionary of the tokens that stay and their probabilities."""
    odds = {token: math.exp(logits[token] / settings.temperature) for token in range(EOS, len(logits))}

    def keep(tokens: set[int]) -> dict[int, float]:
        total = sum(odds[token] for token in tokens)
        return {token: odds[token] / total for token in tokens}

    left = keep(set(odds))
    if settings.top_k:
        left = keep(set(sorted(left, key=lambda token: -left[token])[: settings.top_k]))
    nucleus: set[int] = set()
    for token in sorted(left, key=lambda token: -left[token]):
        if sum(left[one] for one in nucleus) < settings.top_p:
            nucleus.add(token)
    left = keep(nucleus)
    likeliest = max(left, key=lambda token: left[token])
    return keep({token for token in left if left[token] >= settings.epsilon} | {likeliest})


def every(model: Any, group: int, longest: int, settings: DecodingConfig) -> dict[tuple[int, ...], float]:
    """Every translation that can be drawn, and how probable it is."""
    found: dict[tuple[int, ...], float] = {}

    def go_on(tokens: tuple[int, ...], probability: float) -> None:
        logits = model._rows(model.table, group, tokens)[-1]
        if len(tokens) + 1 == longest:
            found[tokens] = probability
            return
        for token, share in next_token(logits, settings).items():
            if token == EOS:
                found[tokens] = probability * share
            else:
                go_on((*tokens, token), probability * share)

    go_on((), 1.0)
    return found


def surprise(counts: Counter[Any], expected: dict[Any, float]) -> float:
    """The chi-square statistic of counts, in standard deviations above what chance alone gives (Wilson and Hilferty).

    Cells of fewer than five expected draws are taken together.
    """
    number = sum(counts.values())
    large = [key for key, share in expected.items() if share * number >= 5]
    cells = [(counts[key], expected[key] * number) for key in large]
    rest = number - sum(count for count, _ in cells), number - sum(mean for _, mean in cells)
    cells += [rest] if rest[1] >= 1 else []
    degrees = len(cells) - 1
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    spread = 2 / (9 * degrees)
    return float(((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 2},
    {"top_p": 0.8},
    {"epsilon": 0.15},
    {"temperature": 2.0, "top_k": 3, "top_p": 0.9, "epsilon": 0.2},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_frequencies_are_probabilities(table_model: Any, changes: dict[str, Any]) -> None:
    model = table_model(vocabulary=8, seed=3)
    model.table /= 2.0  # flatter: more translations are drawn often enough to be counted
    settings = config(**changes)
    found = draw(model, 4, 2, config=settings, nbest=1500)
    for row, (longest, samples) in enumerate(zip((4, 2), found, strict=True)):
        expected = every(model, 10 + row, longest, settings)
        assert sum(expected.values()) == pytest.approx(1.0)
        counts = Counter(one.tokens for one in samples)
        assert set(counts) <= set(expected)
        assert len(expected) > 1
        assert abs(surprise(counts, expected)) < 3.5


def test_another_distribution_is_told_apart(table_model: Any) -> None:
    """The bound of the test above is one that a small mistake breaks."""
    model = table_model(vocabulary=8, seed=3)
    model.table /= 2.0
    (samples,) = draw(model, 4, config=config(temperature=1.2), nbest=3000)
    assert surprise(Counter(one.tokens for one in samples), every(model, 10, 4, config())) > 5


def test_a_large_vocabulary_is_drawn_from_as_well() -> None:
    """Groups of tokens first, then tokens: sizes that fill the groups and sizes that do not."""
    for vocabulary in (2, 3, 5, 25, 26, 1000):
        generator = torch.Generator().manual_seed(vocabulary)
        logits = torch.randn(vocabulary, generator=generator)
        logits[0] = -torch.inf

        counts = Counter(picked(logits, 3000))
        expected = dict(enumerate(logits.softmax(dim=0).tolist()))
        assert counts[0] == 0
        if vocabulary > 2:
            assert abs(surprise(counts, {key: value for key, value in expected.items() if key})) < 3.5


def picked(logits: Tensor, number: int) -> list[int]:
    from nmt.decoding import sampling

    streams = [np.random.Philox(key=key) for key in range(number)]
    return sampling._pick(logits.expand(number, -1), streams).tolist()


# -------------------------------------------------------------------------------------------------------- truncations


def kept(probabilities: list[list[float]], **changes: Any) -> list[list[int]]:
    logits = torch.tensor(probabilities, dtype=torch.float64).log() + 3.0  # not normalised
    truncate_(logits, config(**changes))
    return [(row > -torch.inf).nonzero().squeeze(1).tolist() for row in logits]


def test_truncations_by_hand() -> None:
    rows = [[0.1, 0.5, 0.05, 0.3, 0.05], [0.0, 0.0, 1.0, 0.0, 0.0]]
    assert kept(rows) == [[0, 1, 2, 3, 4], [2]]
    assert kept(rows, top_k=1) == [[1], [2]]
    assert kept(rows, top_k=3) == [[0, 1, 3], [2]]
    assert kept(rows, top_k=9) == [[0, 1, 2, 3, 4], [2]]
    assert kept(rows, top_p=0.4) == [[1], [2]]
    assert kept(rows, top_p=0.6) == [[1, 3], [2]]
    assert kept(rows, top_p=0.85) == [[0, 1, 3], [2]]
    assert kept(rows, epsilon=0.2) == [[1, 3], [2]]
    assert kept(rows, epsilon=0.7) == [[1], [2]]
    # Of the three likeliest the first has 0.5 / 0.9, the first two 0.8 / 0.9.
    assert kept(rows, top_k=3, top_p=0.85) == [[1, 3], [2]]
    assert kept(rows, top_k=3, top_p=0.9) == [[0, 1, 3], [2]]
    # Of the two that are left then the second has 0.3 / 0.8.
    assert kept(rows, top_k=3, top_p=0.85, epsilon=0.37) == [[1, 3], [2]]
    assert kept(rows, top_k=3, top_p=0.85, epsilon=0.38) == [[1], [2]]


def test_equals_of_the_last_that_stays_stay() -> None:
    rows = [[0.2, 0.1, 0.2, 0.1, 0.4]]
    assert kept(rows, top_k=2) == [[0, 2, 4]]
    assert kept(rows, top_p=0.5) == [[0, 2, 4]]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_nucleus_of_any_size_is_found(share: float) -> None:
    """Sought among a few tokens first and among more where these do not suffice; rows of both kinds together."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9000, generator=generator, dtype=torch.float64) * torch.tensor([[0.01, 1, 2, 4, 8, 16]]).T
    expected = []
    for row in logits.softmax(dim=1).tolist():
        total, tokens = 0.0, set()
        for token in sorted(range(len(row)), key=lambda token: -row[token]):
            if total < share:
                tokens.add(token)
            total += row[token]
        expected.append(sorted(tokens))
    truncate_(logits, config(top_p=share))
    assert [(row > -torch.inf).nonzero().squeeze(1).tolist() for row in logits] == expected


@pytest.mark.parametrize("changes", [{"temperature": 1e-9}, {"top_k": 1}, {"top_p": 1e-9}, {"epsilon": 0.999999}])
def test_at_its_coldest_sampling_is_greedy(table_model: Any, changes: dict[str, Any]) -> None:
    for seed in range(4):
        model = table_model(vocabulary=20, seed=seed)
        settings = config(max_extra=3, **changes)
        greedy = greedy_search(model, *sources(9, 3, 6, 1), config=settings, **IDS)
        for (expected,), samples in zip(greedy, draw(model, 9, 3, 6, 1, config=settings, nbest=3), strict=True):
            for one in samples:
                assert one.tokens == expected.tokens
                assert one.score == pytest.approx(expected.score)


# ------------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_probabilities_are_the_models_own(table_model: Any, changes: dict[str, Any]) -> None:
    model = table_model(vocabulary=12)
    model.table[..., UNK] += 2.0  # what may not be written has its share all the same
    settings = config(length_penalty="gnmt", alpha=0.6, **changes)
    for row, samples in enumerate(draw(model, 7, 2, 15, config=settings, nbest=5)):
        scores = [one.score for one in samples]
        assert scores == sorted(scores, reverse=True)
        for one in samples:
            assert not {PAD, UNK, BOS, EOS} & set(one.tokens)
            assert one.log_probability == pytest.approx(model.log_probability(10 + row, one.tokens))
            assert one.score == pytest.approx(one.log_probability / length_penalty(len(one.tokens) + 1, settings))
            prefixes = [model.log_probability(10 + row, one.tokens[:n], eos=False) for n in range(len(one.tokens) + 1)]
            steps = np.diff([*prefixes, one.log_probability]).tolist()
            assert list(one.token_log_probabilities) == pytest.approx(steps)


def test_attention_follows_its_sample(table_model: Any) -> None:
    model = table_model(vocabulary=12)
    for row, samples in enumerate(draw(model, 7, 2, 15, nbest=6, attention=True)):
        for one in samples:
            expected = model.attention_of(10 + row, one.tokens, (7, 2, 15)[row])
            assert one.attention is not None and one.attention.dtype == np.float32
            np.testing.assert_allclose(one.attention, expected.numpy(), rtol=1e-5)
    assert all(one.attention is None for samples in draw(model, 7, 2) for one in samples)


def test_a_sample_that_never_ends_is_ended_at_its_limit(table_model: Any) -> None:
    model = table_model()
    model.table[..., EOS] -= 60.0
    for most, tokens in ((None, 3), (2, 1)):
        ((one,),) = draw(model, 4, max_length=most)
        assert len(one.tokens) == tokens
        assert one.log_probability == pytest.approx(model.log_probability(10, one.tokens))


def test_ended_samples_leave_the_batch(table_model: Any) -> None:
    model = table_model()
    model.table[..., EOS] -= 60.0
    draw(model, 2, 6, 4, nbest=2)
    assert model.steps == [6, 6, 4, 4, 2, 2]


# ----------------------------------------------------------------------------------------------------------- the rules


def test_the_rules_are_kept(table_model: Any) -> None:
    """Each of them where it makes a difference: without it something else is drawn."""
    model = table_model(vocabulary=7)
    model.table[..., EOS] -= 3.0
    free = [one.tokens for one in draw(model, 8, nbest=40)[0]]
    assert any(len(set(tokens)) < len(tokens) for tokens in free) and any((4, 5) in pairs(tokens) for tokens in free)
    assert any(tokens[:3] != (6, 6, 4) for tokens in free)

    (samples,) = draw(model, 8, nbest=40, config=config(no_repeat_ngram=1))
    assert all(len(set(one.tokens)) == len(one.tokens) for one in samples)
    (samples,) = draw(model, 8, nbest=40, sources=[Source((10,) * 7, avoid=((4, 5),))])
    assert not any((4, 5) in pairs(one.tokens) for one in samples)
    coldest = config(temperature=1e-9, top_k=1)
    both = [Source((10,) * 7, prefix=(6, 6, 4)), Source((11,) * 7)]
    forced, other = draw(model, 8, 8, nbest=2, sources=both, config=coldest)
    assert all(one.tokens[:3] == (6, 6, 4) for one in forced)
    assert forced[0].log_probability == pytest.approx(model.log_probability(10, forced[0].tokens))
    assert other[0].tokens == draw(model, 8, 8, config=coldest)[1][0].tokens


def test_there_is_room_for_a_prefix_or_it_is_refused(table_model: Any) -> None:
    ((one,),) = draw(table_model(), 2, sources=[Source((10,), prefix=(4, 5, 4, 4))])
    assert one.tokens == (4, 5, 4, 4)
    with pytest.raises(NmtError, match="cannot begin with a prefix of 4 tokens: the model writes 3 at most"):
        draw(table_model(), 2, sources=[Source((10,), prefix=(4, 5, 4, 4))], max_length=4)


def pairs(tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tokens[start : start + 2] for start in range(len(tokens) - 1)]


def test_where_nothing_can_be_written_the_translation_ends(table_model: Any) -> None:
    model = table_model()
    model.table[..., 5] = -torch.inf
    ((one,),) = draw(model, 4, sources=[Source((10,) * 3, prefix=(4, 5))])
    assert one.tokens == (4,)
    assert one.log_probability == pytest.approx(model.log_probability(10, (4,)))


# ------------------------------------------------------------------------------------------------------ the same again

PARTS: dict[str, dict[str, Any]] = {
    "gru": {"type": "gru", "width": 16},
    "lstm": {"type": "lstm", "width": 16},
    "transformer": {"type": "transformer", "width": 16, "layers": 2, "heads": 2, "feed_forward": 32},
}


@pytest.fixture(params=[(encoder, decoder) for encoder in PARTS for decoder in PARTS], ids="-".join)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    torch.manual_seed(3)
    encoder, decoder = (PARTS[name] for name in request.param)
    shape = {"encoder": encoder, "decoder": decoder, "embedding": 16, "tied_embeddings": 0}
    built = build(ModelConfig.model_validate(shape), 24, 24).eval()
    with torch.no_grad():
        built.output.weight.normal_(std=0.5)
    return built


def sentences(number: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 7, (number,), generator=generator).tolist()
    return [torch.randint(4, 24, (length,), generator=generator).tolist() for length in lengths]


def by_batches(
    model: Seq2Seq, rows: list[list[int]], size: int, order: list[int], *, nbest: int = 1
) -> dict[int, list[Hypothesis]]:
    """The samples of those of ``rows`` that ``order`` names, searched in that order, so many at once."""
    found: dict[int, list[Hypothesis]] = {}
    settings = config(max_extra=1)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        padded = pad([[*rows[row], EOS] for row in batch], PAD)
        found |= dict(zip(batch, sample(model, *padded, config=settings, nbest=nbest, **IDS), strict=True))
    return found


def test_samples_do_not_know_their_neighbours(model: Seq2Seq) -> None:
    rows = sentences(64)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(2)).tolist()
    whole = by_batches(model, rows, 64, list(range(64)))
    for other in (by_batches(model, rows, 7, shuffled[:35]), by_batches(model, rows, 1, shuffled[-8:])):
        for row, ones in other.items():
            assert [one.tokens for one in ones] == [one.tokens for one in whole[row]]
            assert [one.score for one in ones] == pytest.approx([one.score for one in whole[row]], abs=1e-4)


def test_what_is_drawn_scores_as_it_says(model: Seq2Seq) -> None:
    rows = sentences(5)
    found = by_batches(model, rows, 5, list(range(5)), nbest=2)
    written = [(rows[row], one.tokens) for row, ones in found.items() for one in ones]
    batch = collate(written, range(len(written)), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    expected = token_log_probabilities(model, batch)
    for row, one in enumerate(one for ones in found.values() for one in ones):
        mine = torch.tensor(one.token_log_probabilities)
        torch.testing.assert_close(mine, expected[row, : len(mine)], atol=1e-4, rtol=1e-4)


def test_lots_do_not_know_each_other(table_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = table_model(vocabulary=12)
    together = draw(model, 7, 2, 15, nbest=5, attention=True)
    monkeypatch.setattr("nmt.decoding.sampling.TOGETHER", 4)
    for expected, ones in zip(together, draw(model, 7, 2, 15, nbest=5, attention=True), strict=True):
        assert [one.tokens for one in ones] == [one.tokens for one in expected]
        for one, other in zip(ones, expected, strict=True):
            assert one.attention is not None and other.attention is not None
            np.testing.assert_allclose(one.attention, other.attention)
    assert max(model.steps[-10:]) <= 4


def test_a_sample_depends_on_seed_source_and_number(table_model: Any) -> None:
    model = table_model(vocabulary=30, seed=1)
    model.table /= 4.0  # hundreds of translations: two alike by chance are rare

    def texts(first: int, seed: int = 1, nbest: int = 8) -> set[tuple[int, ...]]:
        source = torch.full((1, 9), first)
        found = sample(model, source, source > 0, config=config(seed=seed), nbest=nbest, **IDS)
        return {one.tokens for one in found[0]}

    assert texts(10) == texts(10)
    assert len(texts(10)) > 6
    assert texts(10, nbest=3) < texts(10)
    assert len(texts(10) & texts(10, seed=2)) < 3
    assert len(texts(10) & texts(14)) < 3  # the same table, by another name


def test_torchs_generator_is_left_alone(table_model: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draw(table_model(), 5, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert [one.tokens for (one,) in draw(table_model(), 5, 5)] == [one.tokens for (one,) in first]


def test_the_random_numbers_are_those_of_every_machine() -> None:
    """Written down once: another version, or another machine, that draws others is found out."""
    from nmt.decoding import sampling

    assert sampling._gumbel([sampling._stream(1, [5, 6, 3], 0)], 3).tolist() == [
        pytest.approx([1.9197649053882109, 1.1855851705146483, 0.6574648913465264], rel=1e-12)
    ]


def test_no_sources_no_samples(table_model: Any) -> None:
    empty = torch.zeros(0, 0, dtype=torch.long)
    assert sample(table_model(), empty, empty > 0, config=config(), **IDS) == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_output_that_is_not_a_number_is_one_clear_error(table_model: Any, value: float) -> None:
    model = table_model()
    model.table[1, 1, ..., 4] = value
    model.table[..., EOS] -= 60.0
    with pytest.raises(NmtError, match="not a number at target token 2: its weights are damaged"):
        draw(model, 5, 5, 5, 5)
