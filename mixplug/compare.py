"""A recipe's methods side by side: accuracy, training latency, speedup.

Each finished run is written at once as ``runs/METHOD-seedN.json`` (and ``.npz`` for pictures), so that an
interrupted comparison started again goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixplug.environment import describe_environment
from mixplug.experiment import Experiment, Progress, RunResult
from mixplug.objectives import Reconstruction
from mixplug.recipes import Recipe, RecipeError, to_plain

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter is None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of ``values``."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def format(self, digits: int, scale: float = 1.0) -> str:
        """``mean ± deviation`` with ``digits`` decimals, both times ``scale``."""
        if self.deviation is None:
            return f"{self.mean * scale:.{digits}f}"
        return f"{self.mean * scale:.{digits}f} ± {self.deviation * scale:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One method's line of the table.

    Attributes:
        method: Its key in the recipe.
        label: Its name.
        accuracy: On the test images, in [0, 1].
        seconds: Training latency, evaluation excluded.
        speedup: Latency of the SSL+SL with the same masking over this one's, seed by seed; None for a method
            that has no such baseline.
        lengths: Units in each phase.
        unit: 'ep' or 'ba'.
        is_baseline: Whether this is the SSL+SL that speedups are over.
    """

    method: str
    label: str
    accuracy: Spread
    seconds: Spread
    speedup: Spread | None
    lengths: dict[str, int]
    unit: str
    is_baseline: bool


@dataclass(frozen=True)
class Comparison:
    """Finished runs of a recipe.

    Attributes:
        recipe: The recipe.
        runs: The result of each method and seed.
    """

    recipe: Recipe
    runs: dict[tuple[str, int], RunResult]

    @property
    def seeds(self) -> list[int]:
        """The seeds of each method."""
        return seeds_of(self.recipe)

    def of(self, method: str) -> list[RunResult]:
        """The runs of a method, by seed."""
        return [self.runs[method, seed] for seed in self.seeds]

    def rows(self) -> list[Row]:
        """The table, in the recipe's order."""
        return [self._row(method) for method in self.recipe.methods]

    def baseline_of(self, method: str) -> str | None:
        """The SSL+SL (rho = 0) with the same masking as ``method``, which may be the method itself."""
        mask = self.of(method)[0].mask
        if mask is None:
            return None
        return next((m for m in self.recipe.methods if (r := self.of(m)[0]).rho == 0 and r.mask == mask), None)

    def _row(self, method: str) -> Row:
        runs, baseline = self.of(method), self.baseline_of(method)
        speedup = None
        if baseline is not None:
            speedup = Spread.of(b.seconds / r.seconds for b, r in zip(self.of(baseline), runs, strict=True))
        return Row(
            method,
            self.recipe.methods[method].label,
            Spread.of(run.accuracy for run in runs),
            Spread.of(run.seconds for run in runs),
            speedup,
            runs[0].lengths,
            runs[0].unit,
            baseline == method,
        )


def compare(recipe: Recipe, out: Path, announce: Announce = print, progress: Progress | None = None) -> Comparison:
    """Run every method of ``recipe`` with every seed, and leave results, table and pictures in ``out``.

    Seeds are the outer loop: on a machine whose speed drifts, the methods of a seed drift together.

    Args:
        recipe: What to compare.
        out: A folder, made if missing; runs that are finished there are not run again.
        announce: Called with a line of text at each finished or found run.
        progress: See :class:`mixplug.experiment.Experiment`.

    Raises:
        RecipeError: ``out`` holds runs of other settings.
    """
    cells = [(method, seed) for seed in seeds_of(recipe) for method in recipe.methods]
    (out / "runs").mkdir(parents=True, exist_ok=True)
    runs = {cell: _load(recipe, *cell, out) for cell in cells}
    found = sum(run is not None for run in runs.values())
    if found:
        announce(f"{out} holds {found} of {len(cells)} runs; going on with the other {len(cells) - found}")
    else:
        # The first error of a recipe should come before minutes of training, not after: build each method once.
        for method in recipe.methods:
            Experiment(recipe, method, recipe.first_seed).trainer.close()
    for number, cell in enumerate(cells, start=1):
        if runs[cell] is None:
            method, seed = cell
            result = Experiment(recipe, method, seed, progress).run()
            _save(recipe, method, seed, out, result)
            runs[cell] = result
            label = recipe.methods[method].label
            measured = f"accuracy {100 * result.accuracy:.2f}% in {result.seconds:.1f} s"
            announce(f"[{number}/{len(cells)}] {label}, seed {seed}: {measured}")
    finished = Comparison(recipe, {cell: run for cell, run in runs.items() if run is not None})
    _write_outputs(finished, out)
    return finished


def seeds_of(recipe: Recipe) -> list[int]:
    """The seeds of a recipe."""
    return list(range(recipe.first_seed, recipe.first_seed + recipe.seeds))


HEADER = ("Method", "Accuracy (%)", "Latency (s)", "Speedup", "SSL+MIX+SL")
CAPTION = "Latency: training, evaluation excluded. Speedup: over the SSL+SL with the same masking."


def cells_of(row: Row) -> tuple[str, ...]:
    """A row of the table as text, one cell for each of :data:`HEADER`."""
    phases = "+".join(str(row.lengths.get(phase, 0)) for phase in ("ssl", "mix", "sl"))
    return (
        row.label,
        row.accuracy.format(2, 100),
        row.seconds.format(1),
        "" if row.speedup is None else "baseline" if row.is_baseline else f"{row.speedup.format(2)}x",
        f"{phases} {row.unit}",
    )


def markdown_table(comparison: Comparison) -> str:
    """The table in Markdown."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *map(cells_of, comparison.rows())]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    environment = describe_environment()
    where = f"{environment['machine']['processor']}, {environment['machine']['cores']} cores"
    if environment["machine"]["gpu"]:
        where += f", {environment['machine']['gpu']}"
    count = len(comparison.seeds)
    return (
        f"{table}\n\n{CAPTION} Mean ± standard deviation over {count} seed{'s' if count > 1 else ''}. {where}; "
        f"mixplug {environment['versions']['mixplug']}, torch {environment['versions']['torch']}.\n"
    )


def _write_outputs(comparison: Comparison, out: Path) -> None:
    from mixplug import pictures

    rows = [dataclasses.asdict(row) for row in comparison.rows()]
    runs = [
        {"method": method, "seed": seed, **_plain(result)} for (method, seed), result in sorted(comparison.runs.items())
    ]
    report = {"recipe": to_plain(comparison.recipe), **describe_environment(), "table": rows, "runs": runs}
    _write(out / "results.json", json.dumps(report, indent=1))
    _write(out / "table.md", markdown_table(comparison))
    pictures.pareto(comparison).savefig(out / "pareto.png")
    pictures.curves({comparison.recipe.methods[m].label: comparison.of(m) for m in comparison.recipe.methods}).savefig(
        out / "curves.png"
    )
    first = comparison.seeds[0]
    shown = {
        comparison.recipe.methods[m].label: r
        for m in comparison.recipe.methods
        if (r := comparison.runs[m, first].reconstruction) is not None
    }
    if shown:
        pictures.reconstructions(shown).savefig(out / "reconstructions.png")


def _paths(method: str, seed: int, out: Path) -> tuple[Path, Path]:
    stem = out / "runs" / f"{method}-seed{seed}"
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")


def _settings(recipe: Recipe, method: str) -> dict[str, Any]:
    """All that a run depends on beside its seed."""
    plain = to_plain(recipe)
    for key in ("description", "seeds", "first_seed", "methods"):
        plain.pop(key)
    return {**plain, "method": {"algorithms": to_plain(recipe)["methods"][method]["algorithms"]}}


def _save(recipe: Recipe, method: str, seed: int, out: Path, result: RunResult) -> None:
    numbers, pictures = _paths(method, seed, out)
    if result.reconstruction is not None:
        part = pictures.with_name(pictures.name + ".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **{k: v.numpy() for k, v in result.reconstruction._asdict().items()})
        part.replace(pictures)
    # The numbers come last: they are what says that the run is finished.
    content = {"settings": _settings(recipe, method), "result": _plain(result), **describe_environment()}
    _write(numbers, json.dumps(content, indent=1))


def _load(recipe: Recipe, method: str, seed: int, out: Path) -> RunResult | None:
    numbers, pictures = _paths(method, seed, out)
    if not numbers.exists():
        return None
    content = json.loads(numbers.read_text())
    wanted = json.loads(json.dumps(_settings(recipe, method)))
    if content["settings"] != wanted:
        different = sorted(k for k in wanted | content["settings"] if wanted.get(k) != content["settings"].get(k))
        raise RecipeError(
            f"{out} holds a run of {method!r} with other settings: {', '.join(different)} differ; choose another --out "
            f"or remove that folder"
        )
    result = RunResult(**content["result"])
    if pictures.exists():
        with np.load(pictures) as arrays:
            result.reconstruction = Reconstruction(*(torch.from_numpy(arrays[k]) for k in Reconstruction._fields))
    return result


def _plain(result: RunResult) -> dict[str, Any]:
    return {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "reconstruction"}


def _write(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
