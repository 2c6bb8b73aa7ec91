"""Everything that nmt raises on purpose, and the exit code each one ends a command with.

::

    NmtError                     1  something failed at run time
    ├── ConfigError              2  the recipe, an option or a flag is wrong
    ├── DataError                3  the data breaks its contract (line counts, encoding, a truncated file)
    ├── CheckpointError          1  a run folder is missing, incomplete, damaged or from a newer format
    └── TrainingError            1  training cannot go on
        ├── DivergedError        4  the loss or the gradient stopped being a number
        └── Interrupted    130/143  stopped by SIGINT or SIGTERM, everything saved

A message is one line that says what is wrong, where (``file:line`` or the recipe's key) and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Interrupted",
    "NmtError",
    "TrainingError",
    "check_choice",
    "is_out_of_memory",
]


class NmtError(Exception):
    """A known failure: the command line prints its message on one line and ends with ``exit_code``."""

    exit_code: int = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice; torch has a class for that on a GPU and only words on the CPU."""
    words = ("not enough memory", "can't allocate memory", "out of memory", "storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(phrase in str(error).lower() for phrase in words))
    )


class ConfigError(NmtError):
    """A recipe, an option or a flag that cannot be used as it stands."""

    exit_code = 2


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError for the argument ``name`` where it is none of its ``choices``."""
    if value not in choices:
        raise ConfigError(f"{name} {value!r}: say one of {', '.join(choices)}")


class DataError(NmtError):
    """Data that breaks its contract: unequal line counts, bytes that are not UTF-8, a column that is not there."""

    exit_code = 3


class CheckpointError(NmtError):
    """A run folder or checkpoint that cannot be read or written."""


class TrainingError(NmtError):
    """Training that cannot go on."""


class DivergedError(TrainingError):
    """The loss or its gradient is no longer a finite number."""

    exit_code = 4


class Interrupted(TrainingError):
    """Work stopped by a signal after everything was saved; the exit code is 128 plus ``signal_number``."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
