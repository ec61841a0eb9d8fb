"""What a recipe will run, what that costs and about how long it takes, without training."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

from mixplug import SuperProgressiveLearning
from mixplug.algorithms.trainer.contract import find_in
from mixplug.backbones.probing import unattached_backbone
from mixplug.lab.bench.stages import MethodOnTrainer, Stage
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.durations import duration
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.costs import RunCost
from mixplug.lab.runs.experiment import Experiment, Progress

_PLACES, _STEPS = (1 / 6, 1 / 2, 5 / 6), 3
"""Where in a phase steps are timed, and how many there, after one that warms up."""


@dataclass(frozen=True)
class PhaseForecast:
    """What is known of a phase before it begins.

    Attributes:
        label: The method's.
        phase: Its name.
        start: Units of the run before it.
        length: Its units.
        unit: 'ep' or 'ba'.
        steps: Its optimizer steps.
        passes: What it costs, in forward passes of the plain encoder for each labelled training image (of an epoch; in
            batches, of the batch); None where that cannot be told.
        flops: Its floating-point operations, all images; None where that cannot be told.
        seconds: How long it takes, None where nothing was timed.
    """

    label: str
    phase: str
    start: int
    length: int
    unit: str
    steps: int
    passes: float | None
    flops: float | None
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """A recipe's.

    Attributes:
        phases: The phases of each method, in order.
        seeds: How often each method is run.
        remarks: What else is known beforehand, a sentence each.
    """

    phases: list[PhaseForecast]
    seeds: int
    remarks: list[str]

    @property
    def seconds(self) -> float | None:
        """Training time of all methods and seeds."""
        known = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return self.seeds * sum(known) if len(known) == len(self.phases) else None


def forecast(recipe: Recipe, timed: bool = True, progress: Progress | None = None) -> Forecast:
    """Build each method once, count what its steps cost, and time a few of them.

    Args:
        recipe: The recipe.
        timed: Whether to time steps; else nothing is computed.
        progress: Called as ``progress(done, total, text)``.

    Raises:
        TypeError: something in the recipe has the wrong type.
        ValueError: something in the recipe is out of range or unknown.
    """
    phases: list[PhaseForecast] = []
    remarks: list[str] = []
    for done, (method, config) in enumerate(recipe.methods.items()):
        if progress is not None:
            progress(done, len(recipe.methods), config.label)
        experiment = Experiment(recipe, method, recipe.first_seed)
        # Counted of the model as it is before a step.
        saving = _saving(experiment)
        costs = _costs(experiment)
        runner = MethodOnTrainer(experiment)
        try:
            for stage in runner.stages:
                passes, flops = costs.get(stage.phase.value, (None, None))
                span, unit = stage.span, experiment.max_duration.unit.value
                seconds = _seconds(runner, stage) if timed else None
                phases.append(
                    PhaseForecast(
                        config.label, stage.phase, span.start, span.length, unit, stage.steps, passes, flops, seconds
                    )
                )
        finally:
            runner.close()
        if saving:
            remarks.append(f"{config.label}: {saving}")
    return Forecast(phases, recipe.seeds, remarks)


def _costs(experiment: Experiment) -> dict[str, tuple[float, float]]:
    """Passes of each phase, and its operations; nothing where they cannot be told."""
    cost = experiment.run_cost
    if not cost.is_exact:
        return {}
    data = experiment.recipe.data
    epochs = experiment.max_duration.unit.value == "ep"
    images = experiment.inputs.labelled_images if epochs else data.batch_size
    return {
        span.phase.value: (
            span.length * cost.passes[span.phase],
            span.length * cost.passes[span.phase] * cost.encoder_flops * images,
        )
        for span in experiment.plan.phases
    }


def _saving(experiment: Experiment) -> str:
    """What smaller images save, by the paper's estimate and counted; empty where there are none."""
    smaller = find_in(experiment.algorithms, SuperProgressiveLearning)
    if smaller is None:
        return ""
    amendment, size = smaller.amendment, max(experiment.inputs.shape[1:])
    backbone = unattached_backbone(experiment.model, experiment.backbone_path)
    step = backbone.stride() if amendment.step is None else amendment.step
    sizes = ", ".join(map(str, amendment.schedule.sizes(size, step)))
    text = (
        f"images of {sizes} pixels, {amendment.schedule.speedup(size, step):.2f} times cheaper on that clock where a "
        f"step costs as its pixels do"
    )
    if not experiment.run_cost.is_exact:
        return f"{text}."
    others = [part for part in experiment.algorithms if part is not smaller]
    recipe, inputs = experiment.recipe, experiment.inputs
    whole = RunCost(
        experiment.model.module,
        others,
        inputs.shape,
        recipe.data.batch_size,
        experiment.plan,
        inputs.ssl_share,
        recipe.model.backbone,
    )
    counted = whole.of(experiment.plan) / experiment.run_cost.of(experiment.plan)
    return f"{text}; {counted:.2f} times over the whole run, counted."


def _seconds(runner: MethodOnTrainer, stage: Stage) -> float:
    """How long the steps of a phase take, by those at a few places of it."""
    timed = [statistics.median(runner.run(stage, place, _STEPS)) for place in _PLACES]
    return stage.steps * statistics.fmean(timed)


def forecast_table(made: Forecast) -> Table:
    """A line for each phase of each method, and one for each method of several phases."""
    lines: list[tuple[str, str, PhaseForecast]] = []
    for label in dict.fromkeys(phase.label for phase in made.phases):
        own = [phase for phase in made.phases if phase.label == label]
        for phase in own:
            first, last = phase.start + 1, phase.start + phase.length
            one, several = {"ep": ("epoch", "epochs"), "ba": ("batch", "batches")}[phase.unit]
            when = f"{one} {first}" if first == last else f"{several} {first} to {last}"
            lines.append((label if phase is own[0] else "", f"{phase.phase.upper()}, {when}", phase))
        if len(own) > 1:
            lines.append(("", "all", _sum(own)))
    rows = [line[2] for line in lines]
    timed = any(row.seconds is not None for row in rows)
    remarks = ["Cost: forward passes of the plain encoder for each labelled training image, counted."]
    if any(row.flops is None for row in rows):
        remarks.append("It cannot be told beforehand where it is empty.")
    if timed and made.seconds is not None:
        runs = f"{made.seeds} seed{'s' if made.seeds > 1 else ''}"
        remarks.append(
            f"Time: by a few timed steps of this machine as it is now, evaluation excluded; all methods with {runs} "
            f"{duration(made.seconds)}."
        )
    return Table(
        [
            Column("Method", [line[0] for line in lines], words=True),
            Column("Phase", [line[1] for line in lines], words=True),
            Column("Steps", [str(row.steps) for row in rows]),
            Column("Cost", ["" if row.passes is None else f"{row.passes:.4g}" for row in rows]),
            Column("TFLOPs", ["" if row.flops is None else f"{row.flops / 1e12:.3g}" for row in rows]),
            *([Column("Time", [duration(row.seconds) if row.seconds else "" for row in rows])] if timed else []),
        ],
        [*remarks, *made.remarks],
    )


def _sum(phases: list[PhaseForecast]) -> PhaseForecast:
    def total(name: str) -> float | None:
        values = [getattr(phase, name) for phase in phases]
        return None if None in values else sum(values)

    return dataclasses.replace(
        phases[0],
        steps=sum(phase.steps for phase in phases),
        passes=total("passes"),
        flops=total("flops"),
        seconds=total("seconds"),
    )
