"""The words of the grammar: read from the word lists, with all their forms made from their principal parts.

A word belongs to a class (``noun``), carries tags (``m person``) and has forms by name in both languages. A form is a
tuple of tokens; a form that the word does not have is simply not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nmt.errors import DataError

__all__ = ["LANGUAGES", "Lexicon", "Word"]

LANGUAGES = ("en", "fr")

Tokens = tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """One entry of the lexicon; ``forms`` goes from language and name of the form to its tokens."""

    kind: str
    tags: frozenset[str]
    forms: Mapping[str, Mapping[str, Tokens]]


@dataclass(frozen=True)
class _Paradigm:
    """How one class makes its forms in one language: its principal parts in order, and how to make the others."""

    parts: tuple[str, ...]
    made: Mapping[str, Mapping[str, Any]]


class Lexicon:
    """All words, found by class and tags."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        """Read the merged tables of the grammar's files; raises DataError for a word whose forms cannot be made."""
        self._paradigms = _paradigms(tables["forms"])
        self._words: dict[str, list[Word]] = {}
        for kind, groups in tables.items():
            if isinstance(groups, list) and kind != "symbol":
                self._words[kind] = [word for group in groups for word in self._read(kind, group)]
        self._found: dict[str, tuple[Word, ...]] = {}

    def __iter__(self) -> Iterator[Word]:
        for words in self._words.values():
            yield from words

    def is_query(self, content: str) -> bool:
        """Whether what a slot holds is words (``"noun person m"``), not a symbol."""
        return content.partition(" ")[0] in self._words

    def may_hold(self, content: str) -> bool:
        """False for a query that finds no words."""
        return not self.is_query(content) or bool(self.find(content))

    def find(self, query: str) -> tuple[Word, ...]:
        """The words of ``"class tag tag ..."``: those of the class that carry all the tags."""
        if query not in self._found:
            kind, *tags = query.split()
            wanted = frozenset(tags)
            self._found[query] = tuple(word for word in self._words[kind] if wanted <= word.tags)
        return self._found[query]

    def _read(self, kind: str, group: Mapping[str, Any]) -> Iterator[Word]:
        """The words of one table: ``tags`` for all of them, and ``words`` of [English, French, further tags]."""
        for english, french, *more in group["words"]:
            tags = frozenset(" ".join([group.get("tags", ""), *more]).split())
            forms = {
                language: self._forms(kind, language, text)
                for language, text in zip(LANGUAGES, (english, french), strict=True)
            }
            yield Word(kind, tags, forms)

    def _forms(self, kind: str, language: str, text: str) -> dict[str, Tokens]:
        paradigm = self._paradigms.get((kind, language), _Paradigm(("s",), {}))
        given = text.split()
        if len(given) > len(paradigm.parts):
            raise DataError(f"the grammar's {kind} {text!r} has more than its parts {' '.join(paradigm.parts)}")
        forms: dict[str, str] = dict(zip(paradigm.parts, given, strict=False))
        for name, recipe in paradigm.made.items():
            if name not in forms and (form := _make(recipe, forms)) is not None:
                forms[name] = form
        return {name: tuple(form.split("_")) for name, form in forms.items() if form != "-"}


def _make(recipe: Mapping[str, Any], forms: Mapping[str, str]) -> str | None:
    """One form made as its recipe says; None where the form it is made of is not there or no ending fits."""
    if "is" in recipe:
        return str(recipe["is"])
    form = forms.get(recipe["of"], "-")
    if form == "-":
        return None
    if "endings" not in recipe:
        return form
    for old, new in recipe["endings"].items():
        if form.endswith(old):
            return form[: len(form) - len(old)] + str(new)
    return None


def _paradigms(tables: Mapping[str, Any]) -> dict[tuple[str, str], _Paradigm]:
    """The paradigms by class and language, with ``like`` followed."""
    paradigms: dict[tuple[str, str], _Paradigm] = {}
    for kind, languages in tables.items():
        for language, table in languages.items():
            like = paradigms[table["like"], language] if "like" in table else _Paradigm((), {})
            own = {name: recipe for name, recipe in table.items() if name not in ("like", "parts")}
            parts = tuple(table.get("parts", like.parts))
            paradigms[kind, language] = _Paradigm(parts, _in_order({**like.made, **own}, parts))
    return paradigms


def _in_order(made: Mapping[str, Mapping[str, Any]], parts: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
    """The forms so that each comes after the one it is made of."""
    ordered: dict[str, Mapping[str, Any]] = {}

    def visit(name: str) -> None:
        if name in made and name not in ordered:
            visit(made[name].get("of", ""))
            ordered[name] = made[name]

    for name in (*parts, *made):
        visit(name)
    return ordered
