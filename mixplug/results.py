"""What runs measured, over seeds and side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from mixplug.environment import describe_environment
from mixplug.objectives import Reconstruction
from mixplug.recipes import Recipe


@dataclass
class RunResult:
    """What one run measured.

    Attributes:
        accuracy: Share of correct test images after training, in [0, 1].
        seconds: Training wall-clock time, evaluation excluded.
        lengths: Units in each phase, by the phase's name; a method without phases has SL alone.
        unit: 'ep' or 'ba'.
        mask: Where the objective masks, None without one.
        rho: Mix ratio, None for a method without phases.
        history: Losses (means since the point before) and accuracy over the run: each a list of [time, value]
            with time in ``unit``.
        reconstruction: Pictures of the finished model, None without an MAE.
    """

    accuracy: float
    seconds: float
    lengths: dict[str, int]
    unit: str
    mask: str | None
    rho: float | None
    history: dict[str, list[list[float]]]
    reconstruction: Reconstruction | None = field(default=None, repr=False)

    def numbers(self) -> dict[str, Any]:
        """All but the pictures, as primitives."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "reconstruction"}


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
        return self.recipe.all_seeds()

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
