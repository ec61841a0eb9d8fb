"""Measures all phases of all methods of a recipe by turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from mixplug.bench.loops import StepLoop, loop_for
from mixplug.bench.results import Bench, Loop, StepCost
from mixplug.bench.stages import MethodOnTrainer, Stage
from mixplug.bench.watches import PARTS, FlopWatch, PartsWatch, held_memory, peak_memory
from mixplug.environment import describe_environment
from mixplug.experiment import Experiment
from mixplug.recipes import Recipe, to_plain

Report = Callable[[int, int, str], None]


@dataclass
class _Contender:
    """A phase of a method, and the loop beside it if no other has it."""

    cost: StepCost
    stage: Stage
    method: MethodOnTrainer
    loop: StepLoop | None
    timed: list[list[float]]


def measure(recipe: Recipe, turns: int, steps: int, whole: bool = True, report: Report | None = None) -> Bench:
    """Measure what each phase of each method of ``recipe`` costs.

    Everything runs in one process and by turns: in each turn every phase of every method runs for a few steps on its
    Trainer, and so does the loop in plain PyTorch with the same arithmetic, right before or after it. A machine that
    is sometimes slower is so for all of them. A phase's turns are spread evenly over the phase.

    Args:
        recipe: The recipe.
        turns: How many turns.
        steps: Timed steps in a turn of each.
        whole: Whether to measure memory and parts of steps too.
        report: Called as ``report(done, total, text)``.
    """
    report = report or (lambda done, total, text: None)
    report(0, turns, "building the methods")
    contenders, loops = _build(recipe)
    bench = Bench(
        recipe.description,
        to_plain(recipe),
        [contender.cost for contender in contenders],
        {key: Loop(loop.label) for key, loop in loops.items()},
        describe_environment(),
    )
    places = [(turn + 0.5) / turns for turn in range(turns)]
    for contender in contenders:
        report(0, turns, f"counting {contender.cost.label}, {contender.cost.phase.upper()}")
        _count(contender, places)
        if whole:
            _look_into(contender, steps)
    for turn, place in enumerate(places):
        report(turn, turns, f"turn {turn + 1} of {turns}")
        # Who begins changes, so that no one always follows the same other.
        start = turn * len(contenders) // turns
        for contender in contenders[start:] + contenders[:start]:
            _take_turn(contender, bench, place, steps, loop_first=bool(turn % 2))
    for method in {id(c.method): c.method for c in contenders}.values():
        method.close()
    return bench
