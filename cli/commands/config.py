"""``nmt config``: what a recipe comes to, and where each value came from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nmt_cli.options import Settings


def config(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in TOML.")],
    set_: Settings = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, without where values came from.")] = False,
) -> None:
    """Print a whole recipe, and where each value came from.

    Defaults are filled in and --set is applied, so what is printed is the recipe that training would go by.
    """
    from nmt.config import parse_recipe, recipe_text

    overrides = set_ or []
    text = recipe_text(recipe)  # once: a pipe has it no second time
    loaded = parse_recipe(text, name=str(recipe), overrides=overrides)
    if json:
        typer.echo(loaded.model_dump_json(indent=2))
        return
    by_variable = str(context.get_parameter_source("set_")).endswith("ENVIRONMENT")
    origins = dict.fromkeys(_keys(tomllib.loads(text)), str(recipe))
    for override in overrides:
        replaced = override.partition("=")[0].strip()
        origins = {key: origin for key, origin in origins.items() if not f"{key}.".startswith(f"{replaced}.")}
        origins |= dict.fromkeys(_keys(_parsed(override)), "NMT_SET" if by_variable else "--set")
    for line in _lines(loaded.model_dump(mode="json", exclude_none=True), origins):
        typer.echo(line)


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a TOML document that holds a plain value, dotted; the tables of an array are counted from 0."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{name}.")
        elif _is_tables(value):
            for index, inner in enumerate(value):
                yield from _keys(inner, f"{name}.{index}.")
        else:
            yield name


def _lines(table: Mapping[str, Any], origins: Mapping[str, str], path: Sequence[str] = ()) -> Iterator[str]:
    """A table as TOML: its plain values with their origins, then the tables in it."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping) and not _is_tables(value)}
    written = {key: f"{key} = {_value(value)}" for key, value in plain.items()}
    width = max(map(len, written.values()), default=0)
    for key, text in written.items():
        yield f"{text:<{width}}  # {_origin([*path, key], origins)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _section(f"[{'.'.join([*_written(path), key])}]", value, origins, [*path, key])
        elif _is_tables(value):
            for index, inner in enumerate(value):
                yield from _section(f"[[{'.'.join([*path, key])}]]", inner, origins, [*path, key, str(index)])


def _section(header: str, table: Mapping[str, Any], origins: Mapping[str, str], path: Sequence[str]) -> Iterator[str]:
    yield from ("", header) if len(path) > 1 or header != "[data]" else (header,)
    yield from _lines(table, origins, path)


def _origin(path: Sequence[str], origins: Mapping[str, str]) -> str:
    """Where the value at a key came from, whichever way of writing the key was used."""
    short = path[:-1] if path[-1] == "type" else path  # encoder = "gru" is encoder = { type = "gru" }
    for spelled in (path, short, _written(path), _written(short)):  # [data.train] is [[data.train]]
        if origin := origins.get(".".join(spelled)):
            return origin
    return "default"


def _parsed(override: str) -> dict[str, Any]:
    """``key=value`` as a table with one value, which is a string where it is not TOML."""
    key, _, text = override.partition("=")
    try:
        return {key.strip(): tomllib.loads(f"value = {text}")["value"]}
    except (ValueError, RecursionError):
        return {key.strip(): text}


def _written(path: Sequence[str]) -> list[str]:
    """A key as a recipe may write it, without the numbers of an array's tables."""
    return [part for part in path if not part.isdigit()]


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(inner, Mapping) for inner in value)


def _value(value: Any) -> str:
    """A plain value as TOML writes it on one line."""
    import tomli_w

    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
