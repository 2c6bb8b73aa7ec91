"""Scores against their formulas, attention against its definition and against torch's nn.MultiheadAttention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from nmt.config import GruDecoder, LstmDecoder
from nmt.config import Score as ScoreName
from nmt.layers.attention import (
    AdditiveScore,
    DotScore,
    GeneralScore,
    MultiHeadAttention,
    ScaledDotScore,
    Score,
    attend,
    build_score,
)

WIDTH, STATE_WIDTH = 4, 6


def additive(score: Any, query: Tensor, state: Tensor) -> Tensor:
    hidden = torch.tanh(score.query.weight @ query + score.query.bias + score.key.weight @ state)
    return torch.dot(score.energy.weight[0], hidden)


def general(score: Any, query: Tensor, state: Tensor) -> Tensor:
    return torch.dot(query, score.key.weight @ state)


SCORES: dict[str, tuple[Callable[[], Score], int, Callable[[Any, Tensor, Tensor], Tensor]]] = {
    "additive": (lambda: AdditiveScore(WIDTH, STATE_WIDTH, 5), STATE_WIDTH, additive),
    "dot": (DotScore, WIDTH, lambda _, query, state: torch.dot(query, state)),
    "scaled-dot": (ScaledDotScore, WIDTH, lambda _, query, state: torch.dot(query, state) / math.sqrt(WIDTH)),
    "general": (lambda: GeneralScore(WIDTH, STATE_WIDTH), STATE_WIDTH, general),
}


def test_every_score_has_its_formula_here() -> None:
    assert set(SCORES) == set(get_args(ScoreName))


@pytest.mark.parametrize("name", SCORES)
def test_score_is_its_formula_for_every_query_and_key(name: str) -> None:
    new, state_width, formula = SCORES[name]
    torch.manual_seed(1)
    score = new().double()
    query, states = torch.randn(2, 3, WIDTH).double(), torch.randn(2, 5, state_width).double()
    scores = score(query, score.prepare(states))
    assert scores.shape == (2, 3, 5)
    for b in range(2):
        for t in range(3):
            for s in range(5):
                torch.testing.assert_close(scores[b, t, s], formula(score, query[b, t], states[b, s]))


def test_keys_are_the_whole_source_side_of_a_score() -> None:
    """What ``prepare`` gives is all that ``forward`` needs: an annotation of another width never meets the query."""
    for name, (new, state_width, _) in SCORES.items():
        keys = new().prepare(torch.randn(1, 2, state_width))
        assert keys.shape[-1] == {"additive": 5}.get(name, WIDTH)


@pytest.mark.parametrize("config", [GruDecoder, LstmDecoder])
@pytest.mark.parametrize(
    ("attention", "kind"),
    [("additive", AdditiveScore), ("dot", DotScore), ("scaled-dot", ScaledDotScore), ("general", GeneralScore)],
)
def test_recipe_names_the_score(config: Any, attention: str, kind: type[Score]) -> None:
    tag = config.model_fields["type"].annotation.__args__[0]
    assert type(build_score(config(type=tag, width=6, attention=attention), 6)) is kind


def test_additive_width_is_the_decoders_unless_given() -> None:
    default = build_score(GruDecoder(type="gru", width=6), 8)
    given = build_score(GruDecoder(type="gru", width=6, attention_width=3), 8)
    assert default.prepare(torch.zeros(1, 1, 8)).shape[-1] == 6
    assert given.prepare(torch.zeros(1, 1, 8)).shape[-1] == 3


def test_attend_is_softmax_and_weighted_sum_over_the_real_positions() -> None:
    torch.manual_seed(1)
    scores, values = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 5).double()
    lengths = (4, 2)
    mask = torch.arange(4)[None, :] < torch.tensor(lengths)[:, None]
    context, weights = attend(scores, values, mask.unsqueeze(1))
    for row, length in enumerate(lengths):
        for t in range(3):
            powers = [math.exp(scores[row, t, s]) for s in range(length)]
            expected = torch.zeros(5).double()
            for s, power in enumerate(powers):
                expected += power / sum(powers) * values[row, s]
                torch.testing.assert_close(weights[row, t, s].item(), power / sum(powers))
            torch.testing.assert_close(context[row, t], expected)
        assert (weights[row, :, length:] == 0).all()


def test_attend_survives_scores_that_overflow_an_exponential() -> None:
    scores = torch.tensor([[[1e4, 1e4 - 1.0, -1e30]]])
    context, weights = attend(scores, torch.eye(3).unsqueeze(0), torch.ones(1, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(weights[0, 0, :2], torch.tensor([1.0, 0.0]).softmax(0))
    assert context.isfinite().all()


def test_what_stands_behind_the_mask_does_not_matter_even_when_huge() -> None:
    scores, values = torch.randn(1, 2, 4), torch.randn(1, 4, 3)
    mask = torch.tensor([[[True, True, False, False]]])
    plain, _ = attend(scores, values, mask)
    scores[..., 2:] = 1e30
    values[:, 2:] = 1e6
    noisy, _ = attend(scores, values, mask)
    torch.testing.assert_close(noisy, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("width", "state_width", "heads"), [(8, 8, 2), (8, 8, 1), (6, 10, 3)])
@pytest.mark.parametrize("kind", ["all", "padding", "causal"])
def test_multi_head_attention_is_torchs(width: int, state_width: int, heads: int, kind: str) -> None:
    """The same weights, the same queries and keys: output, each head's weights, and every gradient."""
    torch.manual_seed(2)
    ours = MultiHeadAttention(width, heads, state_width, dropout=0.0).double()
    theirs = nn.MultiheadAttention(width, heads, kdim=state_width, vdim=state_width, batch_first=True).double()
    keys, values = ours.key_value.weight.chunk(2)
    key_bias, value_bias = ours.key_value.bias.chunk(2)
    with torch.no_grad():
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, keys, values]))
        else:
            theirs.q_proj_weight.copy_(ours.query.weight)
            theirs.k_proj_weight.copy_(keys)
            theirs.v_proj_weight.copy_(values)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, key_bias, value_bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    query = torch.randn(3, 5, width).double().requires_grad_()
    states = torch.randn(3, 5, state_width).double().requires_grad_()
    mask = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    arguments: dict[str, Tensor] = {}
    if kind == "padding":
        real = torch.arange(5)[None, :] < torch.tensor([5, 3, 1])[:, None]
        mask, arguments = real[:, None, None, :], {"key_padding_mask": ~real}
    elif kind == "causal":
        seen = torch.ones(5, 5, dtype=torch.bool).tril()
        mask, arguments = seen[None, None], {"attn_mask": ~seen}
    attended, weights = ours(query, *ours.project(states), mask)
    expected, heads_weights = theirs(query, states, states, average_attn_weights=False, **arguments)
    torch.testing.assert_close(attended, expected)
    torch.testing.assert_close(weights, heads_weights)
    direction = torch.randn_like(attended)
    mine = torch.autograd.grad((attended * direction).sum(), [query, states])
    torchs = torch.autograd.grad((expected * direction).sum(), [query, states])
    torch.testing.assert_close(mine, torchs)


def test_dropout_of_attention_spares_the_weights_that_are_shown() -> None:
    torch.manual_seed(3)
    attention = MultiHeadAttention(8, 2, 8, dropout=0.5).train()
    states = torch.randn(2, 6, 8)
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    first, shown = attention(states, *attention.project(states), mask)
    second, again = attention(states, *attention.project(states), mask)
    assert not torch.equal(first, second)
    torch.testing.assert_close(shown, again, rtol=0, atol=0)
    torch.testing.assert_close(shown.sum(-1), torch.ones(2, 2, 6))


def test_shapes_are_checked_when_tests_run() -> None:
    """The signatures below are not decoration: what breaks them is refused."""
    with pytest.raises(TypeCheckError):
        attend(torch.zeros(2, 3, 4), torch.zeros(2, 5, 6), torch.ones(2, 1, 4, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        attend(torch.zeros(2, 3, 4), torch.zeros(2, 4, 6), torch.ones(2, 1, 4))
    with pytest.raises(TypeCheckError):
        DotScore()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
