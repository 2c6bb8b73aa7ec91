"""A corpus drawn once for all tests that look at the embedded corpus."""

from __future__ import annotations

from itertools import islice

import pytest

from nmt.data.synthetic import SyntheticPair, draw


@pytest.fixture(scope="session")
def pairs() -> list[SyntheticPair]:
    """Twenty thousand pairs of seed 1."""
    return list(islice(draw(1), 20_000))
