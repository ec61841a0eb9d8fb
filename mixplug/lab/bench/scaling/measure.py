"""Measures how the cost of a method's step grows with tokens, depth, batch size and mask ratio."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from mixplug.checks import check_choice
from mixplug.lab.bench.counting import count, countable
from mixplug.lab.bench.measure import Report
from mixplug.lab.bench.scaling.growth import Growth, Point
from mixplug.lab.bench.scaling.variants import Quantity, default_method, vary
from mixplug.lab.bench.stages import MethodOnTrainer, Stage
from mixplug.lab.bench.watches import peak_memory
from mixplug.lab.recipes.schema import Recipe, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment
from mixplug.schedules.phases import Phase

FEWEST = 3
"""Batches of an epoch: one warms up, one is timed, and the last may be smaller."""
MIDDLE = 0.5
"""Where in the phase everything is measured, so that ramps and changing image sizes stand at one place for all."""


def measure_scaling(
    recipe: Recipe, turns: int, steps: int, method: str | None = None, report: Report | None = None
) -> Growth:
    """Measure time, operations and memory of a method's MIX step (of its only phase, if it has but one).

    One quantity is varied at a time. All recipes that differ in it are built and take turns, so a machine that is
    sometimes slower is so for all of them.

    Args:
        recipe: The recipe.
        turns: How many turns.
        steps: Timed steps in a turn of each.
        method: Key of the method; None for that of :func:`mixplug.lab.bench.scaling.variants.default_method`.
        report: Called as ``report(done, total, text)``.

    Raises:
        ValueError: there is no such method, it has several phases and none is MIX, or an epoch has less than three
            batches.
    """
    report = report or (lambda done, total, text: None)
    method = default_method(recipe) if method is None else check_choice("--method", method, recipe.methods)
    as_written, stage = _build(recipe, method)
    as_written.close()
    quantities, left_out = vary(recipe, method)
    points: list[Point] = []
    for index, quantity in enumerate(quantities):
        begun = index * turns
        report(begun, len(quantities) * turns, f"{quantity.name}: building")
        contenders = _contenders(quantity, method, left_out)
        for turn in range(turns):
            report(begun + turn, len(quantities) * turns, f"{quantity.name}: turn {turn + 1} of {turns}")
            for contender in contenders if turn % 2 else reversed(contenders):
                contender.take_turn(steps)
        points += [contender.point for contender in contenders]
        for contender in contenders:
            contender.method.close()
        contenders.clear()
        gc.collect()  # Trainers hold themselves in circles; the next quantity's need their memory
    return Growth(
        recipe.description,
        to_plain(recipe),
        method,
        recipe.methods[method].label,
        stage.phase.value,
        points,
        left_out,
        describe_environment(),
    )


def _build(recipe: Recipe, method: str) -> tuple[MethodOnTrainer, Stage]:
    """The method on its Trainer, and its MIX phase or only one.

    Raises:
        TypeError: something in the recipe has the wrong type.
        ValueError: something in the recipe is out of range, or as :func:`measure_scaling`.
    """
    experiment = Experiment(recipe, method, recipe.first_seed)
    batches = len(experiment.inputs.train)
    built = MethodOnTrainer(experiment)
    mix = [stage for stage in built.stages if stage.phase is Phase.MIX]
    if batches < FEWEST:
        built.close()
        raise ValueError(
            f"an epoch has {batches} batch(es) of {recipe.data.batch_size} and must have at least {FEWEST}, of "
            f"which the last may be smaller; lower data.batch_size or raise data.fraction"
        )
    if not mix and len(built.stages) > 1:
        built.close()
        phases = " and ".join(str(stage.phase).upper() for stage in built.stages)
        raise ValueError(
            f"--method {method} has the phases {phases} and no MIX, whose step is measured; name a method with rho "
            f"above 0, or one of a single phase"
        )
    return built, (mix or built.stages)[0]


@dataclass
class _Contender:
    point: Point
    method: MethodOnTrainer
    stage: Stage

    def take_turn(self, steps: int) -> None:
        self.point.blocks.append(self.method.run(self.stage, MIDDLE, steps))


def _contenders(quantity: Quantity, method: str, left_out: list[str]) -> list[_Contender]:
    """All that can be built, their operations and memory measured; what cannot goes to ``left_out``."""
    found = []
    for value, recipe in quantity.recipes.items():
        try:
            built, stage = _build(recipe, method)
        except (ValueError, TypeError) as error:
            left_out.append(f"{quantity.name} {value:g}: left out: {error}")
            continue
        contender = _Contender(Point(quantity.name, value), built, stage)
        _count(contender, recipe, method)
        device = next(built.model.parameters()).device
        contender.point.peak = peak_memory(lambda c=contender: c.method.run(c.stage, MIDDLE, 0), device)  # type: ignore[misc]
        found.append(contender)
    return found


def _count(contender: _Contender, recipe: Recipe, name: str) -> None:
    with countable(recipe, name, contender.method) as method:
        contender.point.flops = sum(count(method, contender.stage, MIDDLE))
        contender.point.images = method.images
    if recipe.compile:
        contender.method.run(contender.stage, MIDDLE, 0)  # memory is measured once it is compiled
