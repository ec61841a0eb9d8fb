"""Minutes as a cost: what all methods of a recipe can afford on this machine, found once for all of its runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from mixplug.lab.recipes.schema import Recipe, RecipeError
from mixplug.lab.runs.files import write
from mixplug.lab.runs.folders import BUDGET
from mixplug.lab.runs.progress import Progress
from mixplug.lab.studies.forecast import forecast


def with_cost_for_minutes(
    recipe: Recipe,
    out: Path | None,
    announce: Callable[[str], None] = print,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Recipe:
    """``recipe`` with a ``max_cost`` in place of ``max_minutes``; itself where it has none.

    A few steps of each phase of each method are timed. The method that is slowest for its cost sets it, so that all
    train at equal cost and none longer than that; how busy the machine was is in it. A folder that holds such a cost
    already keeps it: what is interrupted goes on with the same lengths.

    Args:
        recipe: The recipe.
        out: Where the runs go, and the cost is written down; None for nowhere.
        announce: Called with a line that says the cost.
        progress: Called as ``progress(done, total, text)`` while steps are timed.
        overwrite: Whether to find it anew whatever the folder holds.

    Raises:
        RecipeError: the folder's is for other minutes, or what a method costs cannot be counted.
    """
    minutes = recipe.max_minutes
    if minutes is None:
        return recipe
    path = None if out is None else out / BUDGET
    cost = None if path is None or overwrite else _recorded(path, minutes)
    if cost is None:
        cost = minutes * 60 / seconds_of_a_pass(dataclasses.replace(recipe, max_minutes=None), progress)
        announce(f"{minutes:g} minutes a run are a cost of {cost:.4g} on this machine as it is now")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps({"minutes": minutes, "max_cost": cost}))
    return dataclasses.replace(recipe, max_cost=cost, max_minutes=None)


def _recorded(path: Path, minutes: float) -> float | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recorded, cost = float(content["minutes"]), float(content["max_cost"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or half written: nothing was run by it
    if recorded != minutes:
        raise RecipeError(
            f"{path.parent} holds runs of {recorded:g} minutes, not of {minutes:g}; choose another --out, or start "
            f"anew with --overwrite"
        )
    return cost


def seconds_of_a_pass(recipe: Recipe, progress: Progress | None = None) -> float:
    """How long a forward pass of the plain encoder over each labelled image takes, with what belongs to it.

    Of the method that takes longest for what it costs, by a plan of its proportions.

    Args:
        recipe: The recipe, with durations or a cost.
        progress: Called as ``progress(done, total, text)`` while steps are timed.

    Raises:
        RecipeError: what a method costs cannot be counted.
    """
    phases = forecast(recipe, progress=progress).phases
    slowest = 0.0
    for label in dict.fromkeys(phase.label for phase in phases):
        own = [phase for phase in phases if phase.label == label]
        passes, seconds = [phase.passes for phase in own], [phase.seconds for phase in own]
        if None in passes or None in seconds:
            raise RecipeError(f"what {label!r} costs cannot be counted, so minutes= cannot be its budget; give epochs=")
        slowest = max(slowest, sum(filter(None, seconds)) / sum(filter(None, passes)))
    return slowest
