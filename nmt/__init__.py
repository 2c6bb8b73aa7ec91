"""Neural machine translation: from two text files to a translator.

::

    from nmt import Alignment, LinkRule, Translator

    translator = Translator.load("runs/demo/transformer")
    for translation in translator.translate(["The women see the house."], nbest=2, attention=True):
        print(translation.text)
        for hypothesis in translation.hypotheses:
            print(f"{hypothesis.log_probability:.2f}", hypothesis.text)
        print(sorted(LinkRule()(Alignment.of(translation))))

Importing this module costs nothing: each public name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nmt.alignment.aligner import Aligner, Alignment, LinkRule
    from nmt.checkpoint import Run
    from nmt.config import Recipe, load_recipe, parse_recipe
    from nmt.data.tokenizer import Tokenizer, Tokenizers
    from nmt.decoding.glossary import Glossary
    from nmt.decoding.hypothesis import Hypothesis
    from nmt.decoding.request import Request
    from nmt.decoding.scorer import PairScore, Scorer
    from nmt.decoding.translator import Translation, Translator
    from nmt.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergedError,
        Interrupted,
        NmtError,
        TrainingError,
    )
    from nmt.evaluation.metrics import Score, evaluate
    from nmt.models import build
    from nmt.models.seq2seq import Seq2Seq
    from nmt.training.report import Reporter, SilentReporter
    from nmt.training.session import Session, train

_HOMES = {
    "Aligner": "nmt.alignment.aligner",
    "Alignment": "nmt.alignment.aligner",
    "CheckpointError": "nmt.errors",
    "ConfigError": "nmt.errors",
    "DataError": "nmt.errors",
    "DivergedError": "nmt.errors",
    "Glossary": "nmt.decoding.glossary",
    "Hypothesis": "nmt.decoding.hypothesis",
    "Interrupted": "nmt.errors",
    "LinkRule": "nmt.alignment.aligner",
    "NmtError": "nmt.errors",
    "PairScore": "nmt.decoding.scorer",
    "Recipe": "nmt.config",
    "Reporter": "nmt.training.report",
    "Request": "nmt.decoding.request",
    "Run": "nmt.checkpoint",
    "Score": "nmt.evaluation.metrics",
    "Scorer": "nmt.decoding.scorer",
    "Seq2Seq": "nmt.models.seq2seq",
    "Session": "nmt.training.session",
    "SilentReporter": "nmt.training.report",
    "Tokenizer": "nmt.data.tokenizer",
    "Tokenizers": "nmt.data.tokenizer",
    "TrainingError": "nmt.errors",
    "Translation": "nmt.decoding.translator",
    "Translator": "nmt.decoding.translator",
    "build": "nmt.models",
    "evaluate": "nmt.evaluation.metrics",
    "load_recipe": "nmt.config",
    "parse_recipe": "nmt.config",
    "train": "nmt.training.session",
}

__all__ = [
    "Aligner",
    "Alignment",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Glossary",
    "Hypothesis",
    "Interrupted",
    "LinkRule",
    "NmtError",
    "PairScore",
    "Recipe",
    "Reporter",
    "Request",
    "Run",
    "Score",
    "Scorer",
    "Seq2Seq",
    "Session",
    "SilentReporter",
    "Tokenizer",
    "Tokenizers",
    "TrainingError",
    "Translation",
    "Translator",
    "__version__",
    "build",
    "evaluate",
    "load_recipe",
    "parse_recipe",
    "train",
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
