"""The flags of search, one for each field of ``decoding`` in a recipe, for every verb that searches."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Optional, TypeVar, cast

import typer
from annotated_types import Ge

from nmt.config import DecodingConfig
from nmt_cli.options import by_hand

__all__ = ["HELP", "as_given", "with_search_flags"]

HELP = {
    "beam": "Hypotheses kept in search; 1 is greedy.",
    "length_penalty": "How the length of a hypothesis weighs in its score.",
    "alpha": "The strength of the length penalty.",
    "coverage_penalty": "What it costs to leave source words unread (Wu et al. 2016); 0 is off.",
    "stopping": "exact: until nothing better can come; fast: earlier, when the beam has ended.",
    "no_repeat_ngram": "No so many tokens in a row twice in a translation; 0 is off.",
    "groups": "Parts of the beam that are kept apart, for n best that differ.",
    "diversity": "How far --groups are kept apart.",
    "sampling": "Draw translations by their probability, in place of searching for the best.",
    "temperature": "Below 1 sampling keeps closer to what is likely.",
    "top_k": "Sample among so many likeliest tokens; 0 is all.",
    "top_p": "Sample among the fewest tokens that have this much of the probability together.",
    "epsilon": "Sample among tokens of at least this probability.",
    "seed": "What sampling draws, for a sentence always the same.",
    "mbr": "Of samples take the one most like the others, by chrF or BLEU (minimum Bayes risk).",
    "mbr_samples": "How many samples --mbr compares.",
    "max_ratio": "Target tokens at most for each of the source's, those of --max-extra not counted.",
    "max_extra": "Target tokens allowed beyond --max-ratio.",
    "on_long": "A line longer than is read at once: split at ends of sentences, cut off, or an error.",
    "batch_size": "Sentences searched together.",
    "precision": "The type of weights: auto goes by the processor and the size of the model; float32 rounds nothing.",
}

Verb = TypeVar("Verb", bound=Callable[..., None])


def with_search_flags(*names: str, but: Collection[str] = ()) -> Callable[[Verb], Verb]:
    """Give a verb the flags of the named fields, of all where none are named, ``but`` some.

    The verb takes them as ``**search``, in which are those that the user gave.
    """
    chosen = [name for name in names or HELP if name not in but]

    def equip(verb: Verb) -> Verb:
        hints = typing.get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(verb).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name))
            for name in chosen
        ]

        @functools.wraps(verb)
        def equipped(*args: Any, **given: Any) -> None:
            search = {name: given.pop(name) for name in chosen if name in given}
            verb(*args, **given, **{name: value for name, value in search.items() if value is not None})

        parameters = [*own, *flags]
        equipped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        equipped.__annotations__ = {one.name: one.annotation for one in parameters}
        return cast(Verb, equipped)

    return equip


def as_given(search: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of search as a model is loaded with them: what the environment says is a wish.

    An option that has no say is refused where it was given by hand; a wish, which may be meant for other verbs, is
    passed over.
    """
    said = {name: value for name, value in search.items() if by_hand(name)}
    return {**said, "wishes": {name: value for name, value in search.items() if name not in said}}


def _annotation(name: str) -> Any:
    """The type of a flag that may be left out, as Typer reads it."""
    field = DecodingConfig.model_fields[name]
    least = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        option = typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", help=HELP[name])
    else:
        bound: Any = least if isinstance(least, (int, float)) else None
        option = typer.Option(flag, help=HELP[name], min=bound)
    return Annotated[Optional[cast("Any", field.annotation)], option]  # noqa: UP045 - put together at run time
