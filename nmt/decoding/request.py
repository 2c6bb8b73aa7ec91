"""What is to be translated, and what its translation has to be like: as text, and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.decoding.glossary import Glossary
from nmt.errors import ConfigError

__all__ = ["Request", "Source"]


@dataclass(frozen=True)
class Request:
    """A line, and what its translation has to be like.

    The translation begins with ``prefix``, has every phrase of ``use`` in it and none of ``avoid``. Search writes and
    avoids phrases in the pieces that the target's tokenizer cuts them into behind a space; one that it comes upon in
    other pieces, such as behind a bracket, is used as well, but not avoided. Of a text that is translated in parts,
    being too long, the first part has them all. Where the text has a term of ``glossary`` its translation is a phrase
    to use, in the part that has the term. Raises ConfigError for one phrase in place of
    phrases.
    """

    text: str
    prefix: str = ""
    use: Sequence[str] = ()
    avoid: Sequence[str] = ()
    glossary: Glossary | None = None

    def __post_init__(self) -> None:
        for name in ("use", "avoid"):
            phrases = getattr(self, name)
            if isinstance(phrases, str):  # would pass for as many phrases as it has characters
                raise ConfigError(f"Request: {name} takes phrases, and {phrases[:40]!r} is one: put it into a tuple")
            object.__setattr__(self, name, tuple(phrases))

    @property
    def is_plain(self) -> bool:
        """Whether any translation will do."""
        return not (self.prefix or self.use or self.avoid or self.glossary)


@dataclass(frozen=True)
class Source:
    """A sentence as search takes it: ``tokens`` of the source without EOS, the others are ids of the target.

    ``continuing`` are those that behind a phrase make it part of a longer word: a phrase to use is not used there.
    """

    tokens: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    use: tuple[tuple[int, ...], ...] = ()
    avoid: tuple[tuple[int, ...], ...] = ()
    continuing: frozenset[int] = frozenset()
