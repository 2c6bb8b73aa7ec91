"""What a search has written, step by step, and from where: a hypothesis is read back from its end.

Hypotheses that go on are mostly the same but for their last tokens. Copying each of them at every step would cost more
than all else that is kept of them, while in the end one or a few of a sentence are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["History", "Line"]


class Line(NamedTuple):
    """A hypothesis from its first token on: t tokens, the logarithms of their probabilities, and t + 1 rows.

    Row i is that of step i + 1 in which the hypothesis stood when token i was chosen; in the last it stands now.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    rows: list[int]


class History:
    """The tokens of each step, and the rows of that step that they continue."""

    def __init__(self) -> None:
        self._rows: list[Int[np.ndarray, " R"]] = []
        self._tokens: list[Int[np.ndarray, " R"]] = []
        self._log_probabilities: list[Float[np.ndarray, " R"]] = []

    def add(
        self,
        rows: Int[np.ndarray, " R"],
        tokens: Int[np.ndarray, " R"],
        log_probabilities: Float[np.ndarray, " R"],
    ) -> None:
        """A step is over: the rows of the next one continue these ``rows`` of it, by these tokens."""
        self._rows.append(rows)
        self._tokens.append(tokens)
        self._log_probabilities.append(log_probabilities)

    def line(self, length: int, row: int) -> Line:
        """What stood in ``row`` when ``length`` tokens were written."""
        tokens, log_probabilities, rows = [], [], [row]
        for step in range(length - 1, -1, -1):
            tokens.append(self._tokens[step].item(row))
            log_probabilities.append(self._log_probabilities[step].item(row))
            row = self._rows[step].item(row)
            rows.append(row)
        return Line(tuple(tokens[::-1]), tuple(log_probabilities[::-1]), rows[::-1])

    def written(self, count: int) -> Int[np.ndarray, "R t"]:
        """The tokens of all ``count`` hypotheses there are now."""
        written = np.empty((count, len(self._tokens)), dtype=np.int64)
        rows = np.arange(count)
        for step in range(len(self._tokens) - 1, -1, -1):
            written[:, step] = self._tokens[step].take(rows)
            rows = self._rows[step].take(rows)
        return written
