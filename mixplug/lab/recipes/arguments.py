"""Several ``key=value`` at once: in which order they hold, and which contradict each other. Needs no torch."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from pathlib import Path

from mixplug.checks import did_you_mean
from mixplug.lab.recipes.overrides import SHORT, expand
from mixplug.lab.recipes.schema import Recipe, RecipeError, load_recipe, to_plain

_APPLIED_LAST = ("alpha", "rho")
"""Short keys that depend on the methods as written: alpha first, which a rho of 0 would leave nowhere to go."""


def settled(recipe: str | Path, arguments: Sequence[str], seeds: int | None = None) -> list[str]:
    """``arguments`` in an order in which ``load_recipe`` gives the same whatever their order was.

    Args:
        recipe: A recipe's file or name.
        arguments: ``key=value`` each, as given.
        seeds: What ``--seeds`` was, None for nothing.

    Raises:
        RecipeError: two of them set the same thing, or a key is a misspelt short one.
    """
    keys = {argument: argument.partition("=")[0] for argument in arguments}
    for key in keys.values():
        _refuse_misspelt(key)
    rank = {key: index for index, key in enumerate(_APPLIED_LAST, start=1)}
    ordered = sorted(arguments, key=lambda argument: rank.get(keys[argument], 0))
    given = {"seeds": f"--seeds {seeds}"} if seeds is not None else {}
    for index, argument in enumerate(ordered):
        for path in _paths(recipe, ordered, index):
            if path in given:
                other = given[path]
                raise RecipeError(f"{other!r} and {argument!r} both set {path}; give one of them")
            given[path] = argument
    return ordered


def _paths(recipe: str | Path, ordered: Sequence[str], index: int) -> list[str]:
    """What an argument sets, as full paths with dots."""
    key = ordered[index].partition("=")[0]
    if key not in _APPLIED_LAST:
        return [_dotted(path) for path in (expand({}, key, 1) if key in SHORT else [key])]
    before = [argument for argument in ordered[:index] if argument.partition("=")[0] not in _APPLIED_LAST]
    # Only another one of that name can be the same, and reading the recipe takes its time.
    if not any(re.search(rf"\b{key}$", argument.partition("=")[0]) for argument in before):
        return [key]
    try:
        return [_dotted(path) for path in expand(to_plain(load_recipe(recipe, before)), key, 0.5)]
    except ValueError:
        return [key]  # for load_recipe to refuse, with its own words


def _dotted(path: str) -> str:
    return re.sub(r"\[([^\]]*)\]", r".\1", path)


def _refuse_misspelt(key: str) -> None:
    known = {*typing.get_type_hints(Recipe), "vars", "extends"}
    if not key.isidentifier() or key in known or key in SHORT:
        return
    hint = did_you_mean(key, [*known, *SHORT])
    if any(repr(short) in hint for short in SHORT):
        raise RecipeError(f"unknown key {key!r}{hint} Short keys are {', '.join(SHORT)}")
