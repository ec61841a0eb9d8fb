"""How long a run of a recipe is: its phases, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core import Algorithm, Time, TimeUnit
from composer.models import ComposerClassifier

from mixplug import FusedBackbonePass, PhaseSwitch
from mixplug.algorithms.trainer.contract import find_in
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.costs import RunCost
from mixplug.lab.runs.inputs import Inputs
from mixplug.schedules.phases import PhasePlan


def plan_run(
    recipe: Recipe, method: str, model: ComposerClassifier, algorithms: Sequence[Algorithm], inputs: Inputs
) -> tuple[PhasePlan, Time, RunCost]:
    """The plan of a run, how long it is, and what counts its cost.

    A run without phases is one long phase: SL, or MIX where it has an objective.
    """
    switch = find_in(algorithms, PhaseSwitch)
    if switch is None:
        length = PhaseSwitch(0, recipe.ssl_duration, recipe.sl_duration).sl_duration  # checks both
        if length is None or not length.value:
            raise ValueError(
                f"methods.{method} has no phases and trains for sl_duration, which must be at least 1, got "
                f"{recipe.sl_duration!r}; set it, or leave the method out with methods.{method}=null"
            )
        fused = find_in(algorithms, FusedBackbonePass)
        plan = PhasePlan(0, length.value, 0) if fused is None else PhasePlan(length.value, length.value, 1)
        unit = length.unit
    elif switch.ssl_duration is None or switch.sl_duration is None:
        raise ValueError("ssl_duration and sl_duration must not be null: leave them out for the recipe's own")
    else:
        plan = PhasePlan(switch.ssl_duration.value, switch.sl_duration.value, switch.rho)
        unit = switch.ssl_duration.unit
    cost = RunCost(
        model.module, algorithms, inputs.shape, recipe.data.batch_size, plan, inputs.ssl_share, recipe.model.backbone
    )
    if recipe.budgets:
        if unit is not TimeUnit.EPOCH:
            raise ValueError(
                f"{recipe.budgets[0]} is for durations in epochs, got {recipe.sl_duration!r}; leave it out"
            )
        plan = cost.plan_of(_max_cost(recipe, cost, inputs.labelled_images), plan)
        if switch is not None:
            switch.ssl_duration, switch.sl_duration = Time(plan.e_ssl, unit), Time(plan.e_sl, unit)
    return plan, Time(plan.total, unit), cost


def _max_cost(recipe: Recipe, cost: RunCost, images: int) -> float:
    if recipe.max_flops is not None:
        return recipe.max_flops / (cost.encoder_flops * images)
    if recipe.max_cost is None:
        raise ValueError(
            f"max_minutes={recipe.max_minutes:g} becomes a cost by timed steps in compare, sweep, train and show "
            f"alone; give max_cost here"
        )
    return recipe.max_cost
