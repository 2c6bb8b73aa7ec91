"""Word links: from attention, from two directions, as text, and against a gold standard."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.alignment.links import (
    AlignmentScore,
    Gold,
    Link,
    Links,
    Method,
    Symmetrization,
    aer,
    extract,
    format_links,
    parse_gold,
    parse_links,
    symmetrize,
    to_words,
)
from nmt.errors import DataError


def links(text: str) -> Links:
    return parse_links(text, "test:1")


some_links = st.frozensets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)

# -------------------------------------------------------------------------------------------------- attention to links


def test_to_words_adds_up_over_the_source_and_averages_over_the_target() -> None:
    # Two source words of 2 + 1 pieces and EOS; two target words of 1 + 2 pieces and EOS.
    attention = np.array(
        [
            [0.5, 0.2, 0.2, 0.1],
            [0.1, 0.1, 0.8, 0.0],
            [0.2, 0.0, 0.4, 0.4],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    matrix = to_words(attention, [0, 0, 1], [0, 1, 1], 2, 2)
    np.testing.assert_allclose(matrix, [[0.7, 0.2], [0.2, 0.6]])


def test_to_words_without_eos_is_the_same() -> None:
    attention = np.random.default_rng(1).dirichlet(np.ones(4), size=4)
    whole = to_words(attention, [0, 0, 1], [0, 1, 1], 2, 2)
    np.testing.assert_array_equal(whole, to_words(attention[:3, :3], [0, 0, 1], [0, 1, 1], 2, 2))


def test_a_word_without_pieces_has_zeros_and_no_link() -> None:
    matrix = to_words(np.array([[0.9, 0.1]]), [2], [1], 3, 2)
    np.testing.assert_allclose(matrix, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.9]])
    assert extract(matrix) == links("2-1")


def test_to_words_refuses_attention_of_other_pieces() -> None:
    with pytest.raises(ValueError, match=r"attention of shape \(2, 5\) for 2 target and 3 source pieces"):
        to_words(np.zeros((2, 5)), [0, 0, 1], [0, 1], 2, 2)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_to_words_spends_what_the_pieces_spent(data: st.DataObject) -> None:
    source = sorted(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    target = sorted(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    attention = np.random.default_rng(data.draw(st.integers(0, 9))).dirichlet(np.ones(len(source)), size=len(target))
    matrix = to_words(attention, source, target, 4, 4)
    for word in range(4):
        assert matrix[word].sum() == pytest.approx(1.0 if word in target else 0.0)


MATRIX = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.0, 0.0, 0.0]])


def test_argmax_takes_the_most_looked_at_word_and_the_first_of_equals() -> None:
    assert extract(MATRIX, "argmax") == links("0-0 0-1")


def test_mutual_keeps_a_source_word_for_the_target_word_that_looks_most() -> None:
    assert extract(MATRIX, "mutual") == links("0-0")
    assert extract(np.eye(3), "mutual") == links("0-0 1-1 2-2")
    turned = np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
    assert extract(turned, "mutual") == links("1-0 2-1 0-2")


def test_grow_diag_reads_the_matrix_both_ways() -> None:
    """``qu'ils`` is two source words: its row can only name one of them, their columns both name it."""
    matrix = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],
            [0.1, 0.4, 0.5, 0.0],
            [0.0, 0.1, 0.1, 0.8],
            [0.3, 0.0, 0.0, 0.7],
        ]
    )
    assert extract(matrix, "argmax") == links("0-0 2-1 3-2 3-3")
    assert extract(matrix) == extract(matrix, "grow-diag") == links("0-0 1-1 2-1 3-2 3-3")


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_grow_diag_lies_between_mutual_and_both(seed: int, rows: int, columns: int) -> None:
    matrix = np.random.default_rng(seed).dirichlet(np.full(columns, 0.5), size=rows)
    both = extract(matrix, "argmax") | frozenset((s, t) for t, s in extract(matrix.T, "argmax"))
    assert extract(matrix, "mutual") <= extract(matrix) <= both


def test_threshold_takes_all_that_reach_it() -> None:
    assert extract(MATRIX, "threshold", threshold=0.3) == links("0-0 1-0 0-1 1-1")
    assert extract(MATRIX, "threshold", threshold=0.0) == links("0-0 1-0 2-0 0-1 1-1 2-1")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_words_no_links(shape: tuple[int, int]) -> None:
    for method in get_args(Method):
        assert extract(np.zeros(shape), method) == frozenset()


# ------------------------------------------------------------------------------------------------------ two directions


def moses(forward: Links, backward: Links, *, final: bool, both: bool) -> Links:
    """Grow-diag as https://www2.statmt.org/moses/?n=FactoredTraining.AlignWords prints it: loops over a table."""
    size = 6
    table = [[(s, t) in forward & backward for s in range(size)] for t in range(size)]
    union = forward | backward

    def source_free(s: int) -> bool:
        return not any(table[t][s] for t in range(size))

    def target_free(t: int) -> bool:
        return not any(table[t])

    added = True
    while added:
        added = False
        for t in range(size):
            for s in range(size):
                if not table[t][s]:
                    continue
                for dt, ds in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                    nt, ns = t + dt, s + ds
                    if (ns, nt) in union and (target_free(nt) or source_free(ns)):
                        table[nt][ns] = added = True
    for direction in (forward, backward) if final else ():
        for t in range(size):
            for s in range(size):
                if (s, t) in direction:
                    free = source_free(s), target_free(t)
                    table[t][s] = table[t][s] or (all(free) if both else any(free))
    return frozenset((s, t) for t in range(size) for s in range(size) if table[t][s])


@settings(deadline=None, max_examples=200)
@given(some_links, some_links)
def test_symmetrize_equals_the_published_loops(forward: Links, backward: Links) -> None:
    assert symmetrize(forward, backward, "grow-diag") == moses(forward, backward, final=False, both=False)
    assert symmetrize(forward, backward, "grow-diag-final") == moses(forward, backward, final=True, both=False)
    assert symmetrize(forward, backward, "grow-diag-final-and") == moses(forward, backward, final=True, both=True)


@settings(deadline=None)
@given(some_links, some_links)
def test_each_symmetrization_lies_in_the_next(forward: Links, backward: Links) -> None:
    order: list[Symmetrization] = ["intersection", "grow-diag", "grow-diag-final-and", "grow-diag-final", "union"]
    sets = [symmetrize(forward, backward, method) for method in order]
    assert sets[0] <= sets[1] <= sets[2] <= sets[4]
    assert sets[1] <= sets[3] <= sets[4]
    assert sets[0] == forward & backward
    assert sets[4] == forward | backward


@pytest.mark.parametrize("method", ["intersection", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and"])
def test_two_directions_that_agree_stay_as_they_are(method: Symmetrization) -> None:
    assert symmetrize(links("0-0 1-2 2-1"), links("0-0 1-2 2-1"), method) == links("0-0 1-2 2-1")


def test_grow_diag_by_hand() -> None:
    # 1-1 touches 0-0 and reaches the words 1 and 1; 4-4 touches nothing; 0-1 would reach nothing new after 1-1.
    forward, backward = links("0-0 1-1 4-4"), links("0-0 0-1")
    assert symmetrize(forward, backward, "grow-diag") == links("0-0 0-1 1-1")
    assert symmetrize(forward, backward, "grow-diag-final-and") == links("0-0 0-1 1-1 4-4")


# ------------------------------------------------------------------------------------------------------------- as text


@given(some_links)
def test_links_survive_being_written(given_links: frozenset[Link]) -> None:
    assert links(format_links(given_links)) == given_links


def test_format_is_in_the_order_of_the_source() -> None:
    assert format_links({(10, 0), (2, 1), (2, 0)}) == "2-0 2-1 10-0"
    assert format_links([]) == ""


@pytest.mark.parametrize(
    "token", ["0", "0-", "-1", "a-b", "0-1-2", "0:1", "-1-0", "1.5-2", "²-1", "0?1", "9" * 5000 + "-1"]
)
def test_what_is_not_a_link_is_named_with_its_place(token: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_links(f"0-0 {token}", "test.align:7")
    assert str(caught.value) == (
        f"test.align:7: {token!r} is not a link: write source-target, counted from 0, such as 0-1"
    )
    assert caught.value.exit_code == 3


def test_gold_has_sure_and_possible_links() -> None:
    gold = parse_gold("0-0 1?1 2p2", "gold:1")
    assert gold.sure == links("0-0")
    assert gold.possible == links("0-0 1-1 2-2")
    with pytest.raises(DataError, match=r"gold:4: '0!1' is not a link: .* such as 0-1, or 0\?1 for a possible one"):
        parse_gold("0!1", "gold:4")


def test_gold_links_point_at_words_that_are_there() -> None:
    assert parse_gold("1-2", "gold:1", num_source=2, num_target=3).sure == links("1-2")
    with pytest.raises(
        DataError, match="gold:3: the link 2-0 names source word 2, but the source has 2 words, counted"
    ):
        parse_gold("0-0 2-0", "gold:3", num_source=2, num_target=3)
    with pytest.raises(DataError, match="gold:3: the link 0-3 names target word 3, but the target has 3 words"):
        parse_gold("0?3", "gold:3", num_source=2, num_target=3)


# ------------------------------------------------------------------------------------------------------- against gold


def test_scores_by_hand() -> None:
    gold = parse_gold("0-0 1-1 2?1 2?2", "gold:1")
    score = aer(links("0-0 2-1 3-3"), gold)
    assert score.precision == pytest.approx(2 / 3)  # 0-0 and 2-1 are possible
    assert score.recall == pytest.approx(1 / 2)  # 0-0 of 0-0, 1-1
    assert score.error_rate == pytest.approx(1 - (1 + 2) / (3 + 2))


def test_without_possible_links_error_rate_is_one_minus_f() -> None:
    gold = Gold(links("0-0 1-1 2-2"), frozenset())
    score = aer(links("0-0 1-2"), gold)
    f1 = 2 * score.precision * score.recall / (score.precision + score.recall)
    assert score.error_rate == pytest.approx(1 - f1)


def test_a_corpus_is_scored_by_its_counts_not_by_the_mean() -> None:
    first = aer(links("0-0"), Gold(links("0-0"), frozenset()))
    second = aer(links("0-0 1-0 2-0"), Gold(links("0-1"), frozenset()))
    total = sum((first, second), AlignmentScore())
    assert total == AlignmentScore(links=4, sure=2, sure_hits=1, possible_hits=1)
    assert total.error_rate == pytest.approx(1 - 2 / 6)


def test_extremes() -> None:
    gold = Gold(links("0-0 1-1"), links("0-1"))
    assert aer(gold.sure, gold).error_rate == 0
    assert aer(gold.possible, gold).error_rate == 0
    assert aer(frozenset(), gold).error_rate == 1
    assert aer(frozenset(), gold).precision == 1
    assert aer(frozenset(), Gold(frozenset(), frozenset())).error_rate == 0
    assert aer(links("0-0"), Gold(frozenset(), links("0-0"))).recall == 1


@given(some_links, some_links, some_links)
def test_ranges(found: Links, sure: Links, possible: Links) -> None:
    score = aer(found, Gold(sure, possible))
    assert 0 <= score.precision <= 1
    assert 0 <= score.recall <= 1
    assert -1e-12 <= score.error_rate <= 1
