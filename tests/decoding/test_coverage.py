"""The coverage penalty: against Python's own logarithm, and in search against enumeration and a slow search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nmt.decoding.coverage import coverage, words_of
from nmt.decoding.request import Source
from tests.decoding.slow import SlowSearch, about, as_pairs, config, enumerated, search

WISHES = [Source((10 + row,) * length) for row, length in enumerate([3, 1, 4, 2])]


def test_coverage_is_the_equation() -> None:
    read = [[0.5, 2.0, 0.25, 0.1], [1.0, 0.999, 7.0, 0.0]]
    words = np.array([[True, True, True, False], [True, True, False, False]])
    expected = [math.log(0.5) + math.log(0.25), math.log(0.999)]
    assert coverage(np.array(read), words).tolist() == pytest.approx(expected)


def test_a_source_token_that_is_never_read_costs_a_number() -> None:
    (value,) = coverage(np.array([[0.0, 1.0]], dtype=np.float32), np.array([[True, True]]))
    assert -math.inf < float(value) < -80


def test_all_tokens_but_eos_have_to_be_read() -> None:
    mask = np.array([[True, True, True], [True, True, False], [True, False, False]])
    assert words_of(mask).tolist() == [[True, True, False], [True, False, False], [False, False, False]]


@pytest.mark.parametrize("penalty", ["none", "average", "gnmt"])
@pytest.mark.parametrize("stopping", ["fast", "exact"])
def test_a_beam_wide_enough_finds_what_enumeration_finds(table_model: Any, penalty: str, stopping: str) -> None:
    changed = 0
    for seed in range(2):
        model = table_model(seed=seed)
        settings = config(beam=31, length_penalty=penalty, coverage_penalty=0.7, stopping=stopping)
        for nbest in (1, 31):
            for wish, found in zip(WISHES, search(model, WISHES, config=settings, nbest=nbest), strict=True):
                expected = enumerated(model, wish, settings, len(wish.tokens) + 1)
                assert as_pairs(found) == about(expected[:nbest])
                plain = enumerated(
                    model, wish, settings.model_copy(update={"coverage_penalty": 0.0}), len(wish.tokens) + 1
                )
                changed += plain[0][1] != expected[0][1]
    assert changed > 0


@pytest.mark.parametrize("stopping", ["fast", "exact"])
@pytest.mark.parametrize("beam", [1, 3, 6])
def test_a_narrow_beam_agrees_with_a_slow_one(table_model: Any, beam: int, stopping: str) -> None:
    for seed, penalty in enumerate(["none", "average"]):
        model = table_model(vocabulary=9, groups=4, positions=5, seed=seed)
        settings = config(
            beam=beam, length_penalty=penalty, coverage_penalty=1.5, stopping=stopping, max_extra=3, max_ratio=2.0
        )
        nbest = (beam + 1) // 2
        for wish, found in zip(WISHES, search(model, WISHES, config=settings, nbest=nbest), strict=True):
            longest = 2 * len(wish.tokens) + 5
            expected, _ = SlowSearch(model, wish, settings, longest, late=True).run(nbest)
            assert as_pairs(found) == about(expected)


def test_a_score_is_what_it_says(table_model: Any) -> None:
    """Probability and attention of a hypothesis, put into the equation again."""
    model = table_model(vocabulary=12)
    settings = config(beam=4, coverage_penalty=0.5, length_penalty="gnmt", alpha=0.6)
    for wish, found in zip(WISHES, search(model, WISHES, config=settings, nbest=3, attention=True), strict=True):
        for one in found:
            assert one.attention is not None
            read = one.attention[:, : len(wish.tokens)].sum(axis=0).clip(max=1.0)
            length = len(one.tokens) + 1
            expected = one.log_probability / ((5 + length) / 6) ** 0.6 + 0.5 * sum(map(math.log, read.tolist()))
            assert one.score == pytest.approx(expected, abs=1e-5)
