"""Measures all phases of all methods of a recipe by turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mixplug.algorithms.trainer.contract import PhasedAlgorithm
from mixplug.lab.bench.counting import count, countable
from mixplug.lab.bench.loops import StepLoop, loop_for
from mixplug.lab.bench.results import Bench, Loop, StepCost
from mixplug.lab.bench.stages import MethodOnTrainer, Stage
from mixplug.lab.bench.watches import PARTS, PartsWatch, held_memory, peak_memory
from mixplug.lab.recipes.schema import Recipe, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment

Report = Callable[[int, int, str], None]


@dataclass
class Contender:
    """A phase of a method, and the loop with the same arithmetic where no contender before has it."""

    cost: StepCost
    stage: Stage
    method: MethodOnTrainer
    loop: StepLoop | None = None


def measure(recipe: Recipe, turns: int, steps: int, report: Report | None = None) -> Bench:
    """Measure what each phase of each method of ``recipe`` costs.

    Everything runs in one process and by turns: in each turn every phase of every method runs for a few steps on its
    Trainer, and so does the loop in plain PyTorch with the same arithmetic, right before or after it. A machine that
    is sometimes slower is so for all of them. A phase's turns are at even distances over the phase.

    Args:
        recipe: The recipe.
        turns: How many turns.
        steps: Timed steps in a turn of each.
        report: Called as ``report(done, total, text)``.
    """
    report = report or (lambda done, total, text: None)
    report(0, turns, "building the methods")
    contenders = _contenders(recipe)
    bench = Bench(
        recipe.description,
        to_plain(recipe),
        [contender.cost for contender in contenders],
        {c.cost.loop: Loop(c.loop.label) for c in contenders if c.loop is not None},
        describe_environment(),
    )
    report(0, turns, "counting operations")
    _count(recipe, contenders, turns)
    for contender in contenders:
        report(0, turns, f"dividing a step of {contender.cost.label}, {contender.cost.phase.upper()}")
        _divide(contender, steps)
    for turn in range(turns):
        report(turn, turns, f"turn {turn + 1} of {turns}")
        for contender in contenders:
            _take_turn(contender, bench, (turn + 0.5) / turns, steps, loop_first=bool(turn % 2))
    for method in {id(c.method): c.method for c in contenders}.values():
        method.close()
    return bench


def _contenders(recipe: Recipe) -> list[Contender]:
    found: list[Contender] = []
    loops: set[str] = set()
    for name, config in recipe.methods.items():
        experiment = Experiment(recipe, name, recipe.first_seed)
        method = MethodOnTrainer(experiment)
        objective = getattr(experiment.model, "ssl_objective", None)
        kind = None if objective is None else objective.kind
        others = [type(a).__name__ for a in experiment.algorithms if not isinstance(a, PhasedAlgorithm)]
        for stage in method.stages:
            cost = StepCost(name, config.label, kind, method.rho, stage.phase.value, stage.steps, others)
            contender = Contender(cost, stage, method)
            found_loop = loop_for(experiment, name, stage.phase)
            if found_loop is not None:
                cost.loop, make = found_loop
                if cost.loop not in loops:
                    loops.add(cost.loop)
                    contender.loop = make(experiment, name, stage.phase)
            found.append(contender)
    return found


def _count(recipe: Recipe, contenders: Sequence[Contender], turns: int) -> None:
    """Count operations at the place of each turn, or once where the first and the last turn have equally many."""
    for name, phases in itertools.groupby(contenders, lambda contender: contender.cost.method):
        own = list(phases)
        with countable(recipe, name, own[0].method) as method:
            # A twin has the same stages.
            for contender in own:
                _count_phase(contender, method, turns)


def _count_phase(contender: Contender, method: MethodOnTrainer, turns: int) -> None:
    cost, found = contender.cost, {}
    for turn in (0, turns - 1, *range(1, turns - 1)):
        found[turn] = count(method, contender.stage, (turn + 0.5) / turns)
        if turn == turns - 1 and found[0] == found[turn]:
            found = {0: found[0]}
            break
    cost.images = method.images
    cost.forward, cost.backward = ([found[t][part] for t in sorted(found)] for part in (0, 1))


def _divide(contender: Contender, steps: int) -> None:
    """Divide a step's time, and measure its memory, in the middle of the phase."""
    cost, method, stage = contender.cost, contender.method, contender.stage
    optimizers = method.state.optimizers
    device = next(method.model.parameters()).device
    watch = PartsWatch(method.model, optimizers, device)
    with watch.attached():
        method.run(stage, 0.5, max(3, steps), watch)
    cost.parts = {part: float(np.median([step[part] for step in watch.steps])) for part in PARTS}
    cost.peak = peak_memory(lambda: method.run(stage, 0.5, 0), device)
    cost.held = held_memory(method.model, optimizers)


def _take_turn(contender: Contender, bench: Bench, place: float, steps: int, loop_first: bool) -> None:
    cost, method, stage, loop = contender.cost, contender.method, contender.stage, contender.loop

    def on_trainer() -> None:
        cost.blocks.append(method.run(stage, place, steps))

    def in_loop() -> None:
        if loop is not None:
            same_place = stage.begun(place) / stage.span.length
            bench.loops[cost.loop].blocks.append(loop.run(same_place, steps))

    for run in (in_loop, on_trainer) if loop_first else (on_trainer, in_loop):
        run()
