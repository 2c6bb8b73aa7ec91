"""Neural machine translation: from two text files to a translator.

::

    from pathlib import Path
    from nmt import Translator

    translator = Translator.load(Path("runs/demo/transformer"))
    for translation in translator.translate(["the black cat sleeps ."]):
        print(translation.text)

Importing this module costs nothing: each public name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nmt.config import Recipe, load_recipe, parse_recipe
    from nmt.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergedError,
        Interrupted,
        NmtError,
        TrainingError,
    )

_HOMES = {
    "CheckpointError": "nmt.errors",
    "ConfigError": "nmt.errors",
    "DataError": "nmt.errors",
    "DivergedError": "nmt.errors",
    "Interrupted": "nmt.errors",
    "NmtError": "nmt.errors",
    "Recipe": "nmt.config",
    "TrainingError": "nmt.errors",
    "load_recipe": "nmt.config",
    "parse_recipe": "nmt.config",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Interrupted",
    "NmtError",
    "Recipe",
    "TrainingError",
    "__version__",
    "load_recipe",
    "parse_recipe",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in, once."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
