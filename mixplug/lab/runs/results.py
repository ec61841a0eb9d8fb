"""What runs measured, over seeds and side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.mean_std import MeanStd
from mixplug.objectives import Reconstruction


def judging_probe(phases: Iterable[str], probes: Sequence[str]) -> str | None:
    """The first of ``probes`` where none of ``phases``, by name, trains the classifier; None where that is judged."""
    return probes[0] if probes and {*phases} <= {"ssl"} else None


@dataclass
class RunResult:
    """What one run measured.

    Attributes:
        accuracy: Share of correct test images after training, in [0, 1]; with several tasks their average. The
            classifier's, but where nothing trained it the first probe's; NaN if the run diverged.
        seconds: Training wall-clock time, evaluation excluded.
        lengths: Units in each phase, by the phase's name; a method without phases has SL alone.
        unit: 'ep' or 'ba'.
        cost: Forward passes of the plain encoder for each training image, counted; None where it is not known.
        objective: The objective's :attr:`mixplug.Objective.kind`, None without one.
        rho: Mix ratio, None for a method without phases.
        history: Losses and RankMe (means since the point before) and accuracy over the run: each a list of
            [time, value] with time in ``unit``.
        reconstruction: Pictures of the finished model, None without an MAE.
        task_accuracies: By task, where there are several; ``accuracy`` is their average then.
        probes: The accuracy of each probe of the recipe on the encoder's frozen features.
        unit_costs: By phase what a unit of it costs, as ``cost``; empty where that is not known.
        diverged: The batch whose loss was NaN or infinite, from 0; None where none was.
        flops: Floating-point operations of the training, counted, by what its passes over the encoder cost; None where
            that is not known.
        cpu_seconds: CPU time of the process (all threads) in training, evaluation excluded; None where not known.
        test_images: How many images accuracy is of; None where it is of several tasks, or an older version's.
        settings: What steps began with, such as 'learning_rate' and 'resolution_scale', as ``history``; between two
            points it is on the line between them.
        kept: The ``signal`` by which the weights were chosen, its ``value``, and the time that was ``at``, in ``unit``;
            None for the last weights.
    """

    accuracy: float
    seconds: float
    lengths: dict[str, int]
    unit: str
    objective: str | None
    rho: float | None
    history: dict[str, list[list[float]]]
    reconstruction: Reconstruction | None = field(default=None, repr=False)
    task_accuracies: dict[str, float] = field(default_factory=dict)
    cost: float | None = None
    probes: dict[str, float] = field(default_factory=dict)
    unit_costs: dict[str, float] = field(default_factory=dict)
    diverged: int | None = None
    flops: float | None = None
    cpu_seconds: float | None = None
    test_images: int | None = None
    kept: dict[str, Any] | None = None
    settings: dict[str, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """JSON has no NaN."""
        if self.accuracy is None and self.diverged is not None:
            self.accuracy = math.nan

    def numbers(self) -> dict[str, Any]:
        """All but the pictures, as primitives; the accuracy of a run that diverged is None."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "reconstruction"}
        return numbers if self.diverged is None else {**numbers, "accuracy": None}


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its key in the recipe.
        label: Its name.
        accuracy: On the test images, in [0, 1], of the runs that did not diverge; None where all did.
        tasks: The accuracy of each task, where there are several.
        probes: The accuracy of each probe on frozen features.
        seconds: Training latency, evaluation excluded; None where all runs diverged.
        speedup: Cost of the SSL+SL with the same objective over this one's; None for a method that has no such
            baseline, or where the costs are not known.
        lengths: Units in each phase.
        unit: 'ep' or 'ba'.
        cost: Forward passes of the plain encoder for each training image; None where it is not known.
        flops: Floating-point operations of a training; None where they are not known.
        seeds: How many runs did not diverge.
        is_baseline: Whether this is the SSL+SL that speedups are over.
        diverged: The batch at which each run that diverged did, by its seed.
    """

    method: str
    label: str
    accuracy: MeanStd | None
    tasks: dict[str, MeanStd]
    probes: dict[str, MeanStd]
    seconds: MeanStd | None
    speedup: float | None
    lengths: dict[str, int]
    unit: str
    cost: float | None
    flops: float | None
    seeds: int
    is_baseline: bool
    diverged: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Finished runs of a recipe.

    Attributes:
        recipe: The recipe.
        runs: The result of each method and seed.
        looking: Whether seeds were added until the order was clear, which wants wider intervals.
    """

    recipe: Recipe
    runs: dict[tuple[str, int], RunResult]
    looking: bool = False

    @property
    def seeds(self) -> list[int]:
        """All seeds; a method may lack some where they were added to others until the order was decided."""
        return sorted({seed for _, seed in self.runs})

    def of(self, method: str) -> list[RunResult]:
        """The runs of a method, by seed."""
        return list(self.by_seed(method).values())

    def by_seed(self, method: str) -> dict[int, RunResult]:
        """The run of each seed that a method was trained with."""
        return {seed: run for seed in self.seeds if (run := self.runs.get((method, seed))) is not None}

    def finished(self, method: str) -> list[RunResult]:
        """The runs of a method that did not diverge, by seed."""
        return [run for run in self.of(method) if run.diverged is None]

    @property
    def has_diverged(self) -> bool:
        """Whether any run has."""
        return any(run.diverged is not None for run in self.runs.values())

    def rows(self) -> list[Row]:
        """The table, in the recipe's order."""
        return [self._row(method) for method in self.recipe.methods]

    def baseline_of(self, method: str) -> str | None:
        """The SSL+SL (rho = 0) with the same objective as ``method``, which may be the method itself."""
        objective = self.of(method)[0].objective
        if objective is None:
            return None
        return next(
            (m for m in self.recipe.methods if (r := self.of(m)[0]).rho == 0 and r.objective == objective), None
        )

    def _row(self, method: str) -> Row:
        all_runs, runs, baseline = self.of(method), self.finished(method), self.baseline_of(method)
        any_run = (runs or all_runs)[0]
        over = None if baseline is None else next((run.cost for run in self.finished(baseline)), None)
        return Row(
            method,
            self.recipe.methods[method].label,
            MeanStd.of(run.accuracy for run in runs) if runs else None,
            {task: MeanStd.of(run.task_accuracies[task] for run in runs) for task in any_run.task_accuracies},
            {probe: MeanStd.of(run.probes[probe] for run in runs) for probe in any_run.probes},
            MeanStd.of(run.seconds for run in runs) if runs else None,
            over / any_run.cost if over and any_run.cost else None,
            any_run.lengths,
            any_run.unit,
            any_run.cost,
            any_run.flops,
            len(runs),
            baseline == method,
            {seed: run.diverged for seed, run in self.by_seed(method).items() if run.diverged is not None},
        )


@dataclass(frozen=True)
class Point:
    """A comparison at one point of a sweep.

    Attributes:
        values: What was swept, by the key as it was given.
        folder: Name of its folder inside of the sweep's.
        comparison: Its finished runs.
    """

    values: dict[str, Any]
    folder: str
    comparison: Comparison


@dataclass(frozen=True)
class Sweep:
    """Finished comparisons over the values of some keys.

    Attributes:
        points: In the order of the product, the last key's values next to each other. There is at least one.
    """

    points: tuple[Point, ...]

    @property
    def keys(self) -> list[str]:
        """What was swept."""
        return list(self.points[0].values)

    @property
    def comparisons(self) -> list[Comparison]:
        """The comparison of each point."""
        return [point.comparison for point in self.points]
