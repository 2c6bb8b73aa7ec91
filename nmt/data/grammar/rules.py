"""The rules of the grammar, multiplied out over their features into a plain synchronous context-free grammar.

A rule as it is written mentions features in braces; here it becomes one rule for every choice of their values, with
plain names such as ``Simple person f s def``. Rules that need a word or a symbol that does not exist are dropped, and
with them, step by step, whatever needs those.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nmt.data.grammar.lexicon import LANGUAGES, Lexicon
from nmt.errors import DataError

__all__ = ["Item", "Rule", "multiply_out"]

KEYWORDS = ("weight", "where", *LANGUAGES)


class Item(NamedTuple):
    """One piece of a right-hand side.

    It stands for ``slot`` and the ``form`` of the word in it; or it is the literal ``text``, linked to the word in
    ``slot`` or to the literals of the other language with the same ``mark``.
    """

    slot: str = ""
    form: str = ""
    text: str = ""
    mark: str = ""


class Rule(NamedTuple):
    """One alternative of one symbol. ``number`` says which written rule it came from."""

    symbol: str
    number: int
    weight: float
    slots: dict[str, str]
    sides: dict[str, tuple[Item, ...]]

    def owners(self) -> dict[str, list[tuple[str, Item]]]:
        """The items, with their languages, by the slot or mark that links them, each once; those unlinked under ""."""
        owners: dict[str, list[tuple[str, Item]]] = {}
        for language, items in self.sides.items():
            for item in items:
                parts = owners.setdefault(item.slot or item.mark, [])
                if (language, item) not in parts:
                    parts.append((language, item))
        return owners


def multiply_out(
    tables: Mapping[str, Any], lexicon: Lexicon, has_forms: Callable[[Rule, str], bool], start: str
) -> dict[str, list[Rule]]:
    """The rules of every symbol that can be reached from ``start`` and derives something, weights adding up to one.

    ``has_forms`` says whether there are words with the forms that a rule asks for in a slot. Raises DataError for a
    written rule of no use.
    """
    features = {name: dict(values) for name, values in tables["features"].items()}
    written = [_written(table["name"], rule) for table in tables["symbol"] for rule in table["rules"]]
    rules: dict[str, list[Rule]] = {}
    for number, (rule, where) in enumerate(written):
        for made in _instances(rule._replace(number=number), where, features, lexicon):
            rules.setdefault(made.symbol, []).append(made)
    rules = _reachable(_productive(rules, lexicon, has_forms), start)
    used = {rule.number for alternatives in rules.values() for rule in alternatives}
    unused = [f"{rule.symbol}: {rule.sides['en']}" for number, (rule, _) in enumerate(written) if number not in used]
    if unused:
        raise DataError(f"the grammar has rules that derive nothing: {'; '.join(unused)}")
    return {
        symbol: _weighed(alternatives, [rule.weight for rule, _ in written]) for symbol, alternatives in rules.items()
    }


def _written(symbol: str, table: Mapping[str, Any]) -> tuple[Rule, dict[str, list[str]]]:
    """A rule as it is written, its features still in braces, and the values it limits them to."""
    slots = {key: text for key, text in table.items() if key not in KEYWORDS}
    sides = {language: _items(table[language], slots) for language in LANGUAGES}
    where = {name: values.split() for name, values in table.get("where", {}).items()}
    return Rule(symbol, 0, float(table.get("weight", 1)), slots, sides), where


def _items(text: str, slots: Mapping[str, str]) -> tuple[Item, ...]:
    """``"V.past O to~a"`` as items."""
    items = []
    for part in text.split():
        slot, _, form = part.partition(".")
        literal, _, mark = part.partition("~")
        if slot in slots:
            items.append(Item(slot=slot, form=form))
        elif mark in slots:
            items.append(Item(slot=mark, text=literal))
        else:
            items.append(Item(text=literal, mark=mark))
    return tuple(items)


def _instances(
    rule: Rule, where: Mapping[str, Sequence[str]], features: Mapping[str, Mapping[str, float]], lexicon: Lexicon
) -> Iterator[Rule]:
    """The rule for every choice of the values of its features; the weight is that of the features left open."""
    given = _mentioned([rule.symbol])
    forms = [item.form for items in rule.sides.values() for item in items]
    names = _mentioned([rule.symbol, *rule.slots.values(), *forms])
    if stray := sorted(set(where) - set(names)):
        raise DataError(f"the grammar's rule {rule.symbol} {rule.slots} limits {', '.join(stray)}, which it lacks")
    for values in itertools.product(*(where.get(name, features[name]) for name in names)):
        choice = dict(zip(names, values, strict=True))
        slots = {slot: content.format_map(choice) for slot, content in rule.slots.items()}
        if not all(map(lexicon.may_hold, slots.values())):
            continue
        weight = 1.0
        for name in names[len(given) :]:
            weight *= features[name][choice[name]]
        sides = {language: tuple(_fill(item, choice) for item in items) for language, items in rule.sides.items()}
        yield Rule(rule.symbol.format_map(choice), rule.number, weight, slots, sides)


def _mentioned(texts: Sequence[str]) -> list[str]:
    """The features named in braces, each once, in order."""
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", " ".join(texts))))


def _fill(item: Item, choice: Mapping[str, str]) -> Item:
    return item._replace(form=item.form.format_map(choice)) if "{" in item.form else item


def _productive(
    rules: Mapping[str, list[Rule]], lexicon: Lexicon, has_forms: Callable[[Rule, str], bool]
) -> dict[str, list[Rule]]:
    """Only rules whose slots can all be filled."""
    alive: dict[str, list[Rule]] = {}
    needs: dict[int, list[str]] = {}
    for symbol, alternatives in rules.items():
        for rule in alternatives:
            words = [slot for slot, content in rule.slots.items() if lexicon.is_query(content)]
            if all(has_forms(rule, slot) for slot in words):
                alive.setdefault(symbol, []).append(rule)
                needs[id(rule)] = [content for slot, content in rule.slots.items() if slot not in words]
    while True:
        kept = {
            symbol: [rule for rule in alternatives if all(need in alive for need in needs[id(rule)])]
            for symbol, alternatives in alive.items()
        }
        if sum(map(len, kept.values())) == sum(map(len, alive.values())):
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
        rule._replace(weight=rule.weight / shares[rule.number] * written[rule.number] / total) for rule in alternatives
    ]
