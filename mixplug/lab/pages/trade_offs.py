"""Accuracy against what it takes, with the frontier of what nothing beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from mixplug.lab.pages.styles import method_styles
from mixplug.lab.runs.mean_std import MeanStd
from mixplug.lab.runs.results import Comparison, Row

FRONTIER = "frontier"


def pareto(comparison: Comparison) -> Figure:
    """Accuracy against cost (latency where one is not known), mean and standard deviation, and the frontier."""
    figure = Figure(figsize=(8.4, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    styles = method_styles(comparison.recipe, {m: comparison.of(m)[0] for m in comparison.recipe.methods})
    rows = comparison.rows()
    known = have_costs(rows)
    for row in rows:
        if row.accuracy is None:  # all its runs diverged
            continue
        place = place_of(row, known)
        axes.errorbar(
            place.mean,
            100 * row.accuracy.mean,
            xerr=place.deviation or None,
            yerr=100 * (row.accuracy.deviation or 0) or None,
            fmt=styles[row.method].marker,
            color=styles[row.method].colour,
            ecolor=styles[row.method].colour,
            elinewidth=1,
            capsize=2.5,
            markersize=7,
            label=row.label,
        )
    draw_frontier(axes, [(place_of(row, known).mean, 100 * row.accuracy.mean) for row in rows if row.accuracy])
    axes.set_xlim(left=0)
    axes.set_xlabel(axis_title(known))
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.25)
    figure.legend(
        *legend_of(axes), fontsize=8, loc="outside right upper", frameon=False, title=of_seeds(len(comparison.seeds))
    )
    return figure


def have_costs(rows: Iterable[Row]) -> bool:
    """Whether all methods know what they cost, so that one axis can be theirs."""
    return all(row.cost is not None for row in rows if row.accuracy is not None)


def place_of(row: Row, known: bool) -> MeanStd:
    """What a method takes: its cost if ``known``, else its latency."""
    if known and row.cost is not None:
        return MeanStd(row.cost, None)
    assert row.seconds is not None, "rows without a finished run have no place"
    return row.seconds


def axis_title(known: bool) -> str:
    """Of an axis of :func:`place_of`."""
    return "cost (forward passes of the plain encoder for each training image)" if known else "training latency (s)"


def legend_of(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of a legend, without error bars, the frontier last."""
    handles, labels = axes.get_legend_handles_labels()
    pairs = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] == FRONTIER)
    return [h[0] if isinstance(h, ErrorbarContainer) else h for h, _ in pairs], [label for _, label in pairs]


def of_seeds(count: int) -> str:
    """What a picture shows of several seeds."""
    return "one seed" if count == 1 else f"mean ± std, {count} seeds"


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points ``(cost, gain)`` that no other one beats or equals in both, by rising cost."""
    kept: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or gain > kept[-1][1]:
            kept.append((cost, gain))
    return kept


def draw_frontier(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw the frontier as stairs: what can be reached at most for that much."""
    if not points:
        return
    best = frontier(points)
    right = max(cost for cost, _ in points)
    xs, ys = [cost for cost, _ in best] + [right], [gain for _, gain in best] + [best[-1][1]]
    axes.plot(xs, ys, drawstyle="steps-post", color="#999999", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    axes.plot([], [], color="#999999", linewidth=1, linestyle=(0, (4, 2)), label=FRONTIER)
