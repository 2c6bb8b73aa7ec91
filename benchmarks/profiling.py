"""Where the time goes: the shares of torch's operators in some work, as torch's own profiler has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

__all__ = ["Part", "Profile", "lines", "profiled"]

#: How many operators are listed.
LISTED = 12


@dataclass(frozen=True)
class Part:
    """An operator, the seconds that were its own and not those of operators that it called, and how often it ran."""

    name: str
    seconds: float
    calls: int

    @property
    def multiplies(self) -> bool:
        """Whether it is a product of matrices, whichever library makes it."""
        return self.name.rstrip("_").endswith("mm") or "linear" in self.name or "matmul" in self.name


@dataclass(frozen=True)
class Profile:
    """``seconds`` of the work by the clock, as the profiler counts them, and its operators, the longest first.

    What is in no operator is Python, and what the profiler itself takes, which is most where operators are many and
    short.
    """

    seconds: float
    parts: list[Part]


def profiled(work: Callable[[], object]) -> Profile:
    """Do the work once and see what it does."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
    averages = [one for one in seen.key_averages() if "::" in one.key and not one.key.startswith("autograd::")]
    parts = [Part(one.key, one.self_cpu_time_total / 1e6, one.count) for one in averages]
    return Profile(took, sorted(parts, key=lambda part: -part.seconds))


def lines(title: str, found: Profile, times: int) -> Iterator[str]:
    """A table of work that was done so many ``times``: what one took, products together, and the longest operators."""
    yield f"{title}: {1000 * found.seconds / times:,.1f} ms by the clock, under the profiler"
    products = sum(part.seconds for part in found.parts if part.multiplies)
    rest = found.seconds - sum(part.seconds for part in found.parts)
    yield f"{products / found.seconds:>7.1%}  products of matrices"
    for part in found.parts[:LISTED]:
        yield f"{part.seconds / found.seconds:>7.1%}  {part.name:<40}{part.calls / times:>10,.1f} times"
    yield f"{rest / found.seconds:>7.1%}  in no operator: Python and the profiler"
