"""How methods look in pictures: a colour belongs to a method, whatever stands beside it. Needs no torch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.results import RunResult

_FAMILIES = (
    ("#8ab8de", "#1f6fb4", "#0b3457"),
    ("#f3b27a", "#d2691e", "#6e3205"),
    ("#93cfa4", "#2c8a4f", "#10482a"),
    ("#c7b0de", "#7b4ba6", "#3d1d5f"),
    ("#eda3a5", "#c4373c", "#6f1418"),
    ("#8ad3d6", "#138a91", "#07464a"),
    ("#d6d077", "#96901c", "#4e4a06"),
    ("#efb0d8", "#c8469a", "#6e174f"),
)
"""Light for an SSL+SL; strong, dark and again for the MixTrainings that it is the baseline of."""

_NEUTRAL = ("#333333", "#8c8c8c", "#b59f7b", "#5d6d7e")
"""For supervised learning alone."""


@dataclass(frozen=True)
class Style:
    """How a method is drawn: its colour, and a marker for its points, diamonds for MixTraining."""

    colour: str
    marker: str = "o"


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` things that are no methods."""
    ordered = [_NEUTRAL[0], *(family[1] for family in _FAMILIES)]
    return [ordered[i % len(ordered)] for i in range(count)]


def method_styles(recipe: Recipe, runs: Mapping[str, RunResult]) -> dict[str, Style]:
    """A style for each method, by its key.

    An SSL+SL and the MixTrainings to be compared with it share a hue, which follows from the former's key alone (but
    that two families do not get one hue as long as there are enough), not from its place among other methods.

    Args:
        recipe: The recipe.
        runs: A run of each method.
    """
    families: dict[str, list[str]] = {}
    plain = []
    for method in recipe.methods:
        if runs[method].objective is None:
            plain.append(method)
        else:
            families.setdefault(_baseline_of(method, recipe, runs) or method, []).append(method)
    styles = {method: Style(_NEUTRAL[i % len(_NEUTRAL)], "s") for i, method in enumerate(sorted(plain))}
    free = list(range(len(_FAMILIES)))
    for family in sorted(families):
        wanted = zlib.crc32(family.encode()) % len(_FAMILIES)
        free = free or list(range(len(_FAMILIES)))
        hue = min(free, key=lambda place: (place - wanted) % len(_FAMILIES))
        free.remove(hue)
        light, *strong = _FAMILIES[hue]
        others = sorted(method for method in families[family] if runs[method].rho != 0)
        styles |= {method: Style(light) for method in families[family] if runs[method].rho == 0}
        styles |= {method: Style(strong[i % len(strong)], "D") for i, method in enumerate(others)}
    return styles


def _baseline_of(method: str, recipe: Recipe, runs: Mapping[str, RunResult]) -> str | None:
    """The SSL+SL with the same objective, rather one with the same further algorithms."""
    same = [m for m in recipe.methods if runs[m].rho == 0 and runs[m].objective == runs[method].objective]
    if method in same:
        return method
    own = _others(recipe.methods[method].algorithms)
    return next((m for m in same if _others(recipe.methods[m].algorithms) == own), same[0] if same else None)


def _others(specs: list[Any]) -> list[str]:
    """The algorithms of a method beside those that make its phases."""
    names = [spec if isinstance(spec, str) else next(iter(spec), "") for spec in specs]
    phases = ("MixTraining", "PhaseSwitch", "FusedBackbonePass", "JointLoss", "MixupSSLData")
    return sorted(json.dumps(spec) for spec, name in zip(specs, names, strict=True) if name not in phases)
