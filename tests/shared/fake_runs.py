"""Runs that nobody trained: what tables, pictures and reports are made of, in no time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from matplotlib.figure import Figure

import mixplug.lab.pages.figures as figures_module
import mixplug.lab.studies.compare as compare_module
import mixplug.lab.studies.sweep as sweep_module
from mixplug.lab.recipes.grid import grid_points, read_points
from mixplug.lab.recipes.schema import Recipe, load_recipe
from mixplug.lab.runs.results import Comparison, Point, RunResult, Sweep
from mixplug.schedules.phases import PhasePlan

TINY = Path(__file__).parents[1] / "shared/tiny.yaml"


def fake_run(recipe: Recipe, method: str, seed: int, tasks: tuple[str, ...] = ()) -> RunResult:
    """A result that follows from the settings: longer runs take longer and are better."""
    specs = [spec["MixTraining"] for spec in recipe.methods[method].algorithms]
    rho = specs[0]["rho"] if specs else None
    ssl, sl = int(recipe.ssl_duration[:-2]), int(recipe.sl_duration[:-2])
    phases = () if rho is None else PhasePlan(ssl, sl, rho).phases
    lengths = {span.phase.value: span.length for span in phases} or {"sl": sl}
    total = sum(lengths.values())
    accuracy = 0.5 + total / 1000 + recipe.data.fraction / 10 + seed / 1000
    history = {name: [[1, 0.5], [total, 0.4]] for name in ("total", "ssl", "sl", "accuracy")}
    return RunResult(
        accuracy,
        total * recipe.data.fraction * (1 + seed / 100),
        lengths,
        recipe.sl_duration[-2:],
        None if rho is None else "features",
        rho,
        history,
        task_accuracies={task: accuracy + i / 10 - 0.05 for i, task in enumerate(tasks)},
        cost=3.0 * total,
        flops=3e9 * total,
        cpu_seconds=0.9 * total * recipe.data.fraction,
        test_images=1000,
    )


def fake_comparison(*overrides: str, tasks: tuple[str, ...] = (), recipe: Path = TINY) -> Comparison:
    return _comparison(load_recipe(recipe, overrides), tasks)


def fake_sweep(*arguments: str, tasks: tuple[str, ...] = (), recipe: Path = TINY) -> Sweep:
    grid = grid_points(arguments)
    recipes = read_points(recipe, grid)
    return Sweep(tuple(Point(p.values, p.folder, _comparison(r, tasks)) for p, r in zip(grid, recipes, strict=True)))


def _comparison(recipe: Recipe, tasks: tuple[str, ...]) -> Comparison:
    return Comparison(
        recipe, {(m, s): fake_run(recipe, m, s, tasks) for s in recipe.all_seeds() for m in recipe.methods}
    )


DATA = {"data": {"training_images": 6, "test_images": 4, "classes": 2, "shape": [3, 8, 8]}}
"""What a fake run was made of."""


class FakeExperiment:
    """Stands for an Experiment: builds at once, trains at once, and counts both."""

    built: ClassVar[list[tuple[str, int]]] = []
    trained: ClassVar[list[tuple[str, int]]] = []
    kept = resumed = ""

    def __init__(self, recipe: Recipe, method: str, seed: int, progress: object = None, **_: object) -> None:
        self.arguments = recipe, method, seed
        self.recipe = recipe
        self.trainer = SimpleNamespace(close=lambda: None)
        self.inputs = SimpleNamespace(summary=DATA)
        self.built.append((method, seed))

    def run(self) -> RunResult:
        self.trained.append(self.arguments[1:])
        return fake_run(*self.arguments)


def fake_studies(patch: pytest.MonkeyPatch) -> None:
    """Have comparisons and sweeps run and draw what costs nothing."""
    patch.setattr(compare_module, "Experiment", FakeExperiment)
    drawn = (
        (compare_module, "pareto"),
        (figures_module, "curves"),
        (sweep_module, "accuracy"),
        (sweep_module, "trade_off"),
    )
    for module, name in drawn:
        patch.setattr(module, name, lambda *_: Figure(figsize=(1, 1)))
