"""A history against hypotheses that are copied at every step."""

from __future__ import annotations

import random

import numpy as np

from nmt.decoding.history import History


def test_a_hypothesis_is_read_back_as_it_was_written() -> None:
    draw = random.Random(1)
    history = History()
    copies: list[tuple[list[int], list[float], list[int]]] = [([], [], [row]) for row in range(3)]
    for length in range(6):
        for row, (tokens, log_probabilities, rows) in enumerate(copies):
            line = history.line(length, row)
            assert line == (tuple(tokens), tuple(log_probabilities), rows)
        assert history.written(len(copies)).tolist() == [tokens for tokens, _, _ in copies]
        count = draw.randint(1, 5)
        parents = [draw.randrange(len(copies)) for _ in range(count)]
        tokens = [draw.randrange(100) for _ in range(count)]
        values = [-draw.random() for _ in range(count)]
        history.add(np.array(parents), np.array(tokens), np.array(values))
        copies = [
            (copies[parent][0] + [token], copies[parent][1] + [value], copies[parent][2] + [row])
            for row, (parent, token, value) in enumerate(zip(parents, tokens, values, strict=True))
        ]


def test_what_ended_before_is_still_there() -> None:
    history = History()
    history.add(np.array([0, 0]), np.array([5, 6]), np.array([-1.0, -2.0]))
    history.add(np.array([1]), np.array([7]), np.array([-3.0]))
    assert history.line(1, 0).tokens == (5,)
    assert history.line(2, 0) == ((6, 7), (-2.0, -3.0), [0, 1, 0])
