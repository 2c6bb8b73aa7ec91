"""The rules of the grammar, multiplied out over their features into a plain synchronous context-free grammar.

A rule as it is written mentions features in braces; here it becomes one rule for every choice of their values, with
plain names such as ``Simple person f s def``. Rules that need a word or a symbol that does not exist are dropped, and
with them, step by step, whatever needs those.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmt.errors import DataError

__all__ = ["Item", "Rule", "multiply_out"]

KEYWORDS = ("weight", "where", "en", "fr")


@dataclass(frozen=True)
class Item:
    """One piece of a right-hand side.

    It stands for ``slot`` and the ``form`` of the word in it; or it is the literal ``text``, linked to the word in
    ``slot`` or to the literals of the other language with the same ``mark``.
    """

    slot: str = ""
    form: str = ""
    text: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Rule:
    """One alternative of one symbol, without features; ``number`` says which written rule it came from."""

    symbol: str
    number: int
    weight: float
    slots: Mapping[str, str]
    sides: Mapping[str, tuple[Item, ...]]


def multiply_out(
    tables: Mapping[str, Any], has_words: Callable[[Rule, str], bool], start: str
) -> dict[str, list[Rule]]:
    """The rules of every symbol that can be reached from ``start`` and derives something, weights adding up to one.

    ``has_words`` says whether there are words for a slot of a rule. Raises DataError for a written rule of no use.
    """
    features = {name: dict(values) for name, values in tables["features"].items()}
    rules: dict[str, list[Rule]] = {}
    written = [(table["name"], rule) for table in tables["symbol"] for rule in table["rules"]]
    for number, (symbol, rule) in enumerate(written):
        for made in _instances(symbol, number, rule, features):
            rules.setdefault(made.symbol, []).append(made)
    rules = _reachable(_productive(rules, has_words), start)
    used = {rule.number for alternatives in rules.values() for rule in alternatives}
    if unused := [f"{symbol}: {rule['en']}" for number, (symbol, rule) in enumerate(written) if number not in used]:
        raise DataError(f"the grammar has rules that derive nothing: {'; '.join(unused)}")
    written_weights = [float(rule.get("weight", 1)) for _, rule in written]
    return {symbol: _weighed(alternatives, written_weights) for symbol, alternatives in rules.items()}


def _instances(
    symbol: str, number: int, rule: Mapping[str, Any], features: Mapping[str, Mapping[str, float]]
) -> Iterator[Rule]:
    """The rule for every choice of the values of its features; the weight is that of the features left open."""
    slots = {key: text for key, text in rule.items() if key not in KEYWORDS}
    texts = [symbol, rule["en"], rule["fr"], *slots.values()]
    names = list(dict.fromkeys(re.findall(r"\{(\w+)\}", " ".join(texts))))
    given = set(re.findall(r"\{(\w+)\}", symbol))
    where = {name: values.split() for name, values in rule.get("where", {}).items()}
    if stray := set(where) - set(names):
        raise DataError(f"the grammar's rule {symbol}: {rule['en']!r} limits {', '.join(sorted(stray))}, which it lacks")
    for values in itertools.product(*(where.get(name, features[name]) for name in names)):
        choice = dict(zip(names, values, strict=True))
        weight = 1.0
        for name in names:
            weight *= 1.0 if name in given else features[name][choice[name]]
        filled = {name: text.format_map(choice) for name, text in slots.items()}
        sides = {language: _items(rule[language].format_map(choice), filled) for language in ("en", "fr")}
        yield Rule(symbol.format_map(choice), number, weight, filled, sides)


def _items(text: str, slots: Mapping[str, str]) -> tuple[Item, ...]:
    """``"V.past O to~a"`` as items."""
    items = []
    for part in text.split():
        slot, _, form = part.partition(".")
        text, _, mark = part.partition("~")
        if slot in slots:
            items.append(Item(slot=slot, form=form))
        elif mark in slots:
            items.append(Item(slot=mark, text=text))
        else:
            items.append(Item(text=text, mark=mark))
    return tuple(items)


def _productive(rules: Mapping[str, list[Rule]], has_words: Callable[[Rule, str], bool]) -> dict[str, list[Rule]]:
    """Only rules whose slots can all be filled."""
    needs = {
        id(rule): [content for slot, content in rule.slots.items() if not has_words(rule, slot)]
        for alternatives in rules.values()
        for rule in alternatives
    }
    alive = dict(rules)
    while True:
        kept = {
            symbol: [rule for rule in alternatives if all(need in alive for need in needs[id(rule)])]
            for symbol, alternatives in alive.items()
        }
        if kept == alive:
            return alive
        alive = {symbol: alternatives for symbol, alternatives in kept.items() if alternatives}


def _reachable(rules: Mapping[str, list[Rule]], start: str) -> dict[str, list[Rule]]:
    """Only the symbols that ``start`` leads to."""
    reached: dict[str, list[Rule]] = {}
    waiting = [start]
    while waiting:
        symbol = waiting.pop()
        if symbol in rules and symbol not in reached:
            reached[symbol] = rules[symbol]
            waiting += [content for rule in rules[symbol] for content in rule.slots.values()]
    return reached


def _weighed(alternatives: Sequence[Rule], written: Sequence[float]) -> list[Rule]:
    """Weights that add up to one: a written rule has its share whatever became of its features."""
    shares: dict[int, float] = {}
    for rule in alternatives:
        shares[rule.number] = shares.get(rule.number, 0.0) + rule.weight
    total = sum(written[number] for number in shares)
    return [
        Rule(
            rule.symbol,
            rule.number,
            rule.weight / shares[rule.number] * written[rule.number] / total,
            rule.slots,
            rule.sides,
        )
        for rule in alternatives
    ]
