"""Translations as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from nmt.decoding.hypothesis import Hypothesis

__all__ = ["moses_lines", "plain_line"]

SEPARATOR = " ||| "


def plain_line(text: str, links: str | None = None) -> str:
    """The translation; with ``links`` behind it as Moses and Marian have them: ``text ||| 0-0 1-2``."""
    return text if links is None else f"{text}{SEPARATOR}{links}"


def moses_lines(number: int, hypotheses: Sequence[Hypothesis], links: Sequence[str] | None = None) -> list[str]:
    """The n best of line ``number`` (from 0) in Moses form: ``id ||| text ||| features ||| score``.

    The one feature is the natural logarithm of the probability; ``links``, one a hypothesis, stand behind the text, as
    Marian has them. A blank line has one translation, which is blank and certain.
    """
    rows = hypotheses or [Hypothesis((), 0.0, 0.0)]
    behind: Sequence[str | None] = [None] * len(rows) if links is None else links or [""]
    texts = [plain_line(one.text, link) for one, link in zip(rows, behind, strict=True)]
    return [
        SEPARATOR.join((str(number), text, f"logprob= {one.log_probability:.4f}", f"{one.score:.4f}"))
        for one, text in zip(rows, texts, strict=True)
    ]
