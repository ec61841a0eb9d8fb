"""Pictures of a sweep: accuracy against what was swept, and against training time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixplug.lab.pages.styles import Style, method_styles
from mixplug.lab.pages.trade_offs import axis_title, draw_frontier, have_costs, legend_of, of_seeds, place_of
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.runs.mean_std import MeanStd
from mixplug.lab.runs.results import Point, Row, Sweep

_COLUMNS = 4


@dataclass
class Line:
    """A method's curve: points with their standard deviations, and a name for each."""

    label: str
    style: Style
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    x_errors: list[float] = field(default_factory=list)
    y_errors: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def accuracy(sweep: Sweep) -> Figure:
    """Accuracy against the first swept key, a panel for each combination of the other ones."""
    key = sweep.keys[0]
    numeric = _numeric(sweep)
    values = list(dict.fromkeys(text_of(point.values[key]) for point in sweep.points))
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}

    def place(point: Point, row: Row) -> MeanStd:
        return MeanStd(places[text_of(point.values[key])], None)

    figure, panels = _panels(sweep, place)
    for axes, lines in panels:
        if numeric:
            ticks = sorted({x for line in lines for x in line.x})
            if ticks and _wide(ticks, key):
                axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        else:
            axes.set_xticks(list(places.values()), list(places), rotation=20, ha="right")
        axes.set_xlabel(key)
    return figure


def trade_off(sweep: Sweep) -> Figure:
    """Accuracy against cost, a curve for each method through the values of the first key, and the frontier.

    Against latency where a cost is not known.
    """
    known = all(have_costs(comparison.rows()) for comparison in sweep.comparisons)
    figure, panels = _panels(sweep, lambda _, row: place_of(row, known), with_frontier=True)
    for axes, lines in panels:
        for line in lines:
            _name(axes, line, max(x for other in lines for x in other.x))
        axes.set_xlabel(axis_title(known))
        axes.set_xlim(left=0)
    return figure


def _panels(
    sweep: Sweep, place: Callable[[Point, Row], MeanStd], with_frontier: bool = False
) -> tuple[Figure, list[tuple[Axes, list[Line]]]]:
    """Axes with the methods' curves for each combination of all swept keys but the first, on one scale."""
    others = sweep.keys[1:]
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        title = ", ".join(f"{other} = {text_of(point.values[other])}" for other in others)
        groups.setdefault(title, []).append(point)
    columns = min(_COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    size = (7.5, 4.8) if len(groups) == 1 else (4.6 * columns, 4.2 * rows)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for unused in grid[len(groups) :]:
        unused.set_visible(False)
    panels = []
    for axes, (title, points) in zip(grid, groups.items(), strict=False):
        lines = _lines(sweep, points, place)
        for line in lines:
            _draw(axes, line)
        if with_frontier:
            draw_frontier(axes, [point for line in lines for point in zip(line.x, line.y, strict=True)])
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.08)  # room for what is written at the last points
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)
        panels.append((axes, lines))
    # The panel with most: where a method's runs all diverged, a panel lacks it.
    handles, labels = max((legend_of(axes) for axes, _ in panels), key=lambda legend: len(legend[1]))
    columns = max(1, min(len(labels), 2 + int(figure.get_figwidth() // 4)))
    title = of_seeds(len(sweep.comparisons[0].seeds))
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=columns, title=title)
    return figure, panels


def _lines(sweep: Sweep, points: Sequence[Point], place: Callable[[Point, Row], MeanStd]) -> list[Line]:
    """A curve for each method through ``points``, which lie at the places that ``place`` says."""
    key = sweep.keys[0]
    first = points[0].comparison
    styles = method_styles(first.recipe, {method: first.of(method)[0] for method in first.recipe.methods})
    lines = {method: Line(config.label, styles[method]) for method, config in first.recipe.methods.items()}
    for point in sorted(points, key=lambda p: p.values[key]) if _numeric(sweep) else points:
        for row in point.comparison.rows():
            if row.accuracy is None:  # all its runs diverged
                continue
            line, at = lines[row.method], place(point, row)
            line.x.append(at.mean)
            line.x_errors.append(at.deviation or 0)
            line.y.append(100 * row.accuracy.mean)
            line.y_errors.append(100 * (row.accuracy.deviation or 0))
            line.names.append(text_of(point.values[key]))
    return [line for line in lines.values() if line.x]


def _draw(axes: Axes, line: Line) -> None:
    axes.errorbar(
        line.x,
        line.y,
        xerr=line.x_errors if any(line.x_errors) else None,
        yerr=line.y_errors,
        marker=line.style.marker,
        markersize=5,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=3,
        color=line.style.colour,
        label=line.label,
    )


def _name(axes: Axes, line: Line, last: float) -> None:
    """Write at each point what was swept, unless the points are too close for it on an axis from 0 to ``last``."""
    if max(line.x) - min(line.x) < 0.1 * last:
        return
    places = zip(line.x, line.y, strict=True)
    for (x, y), name in zip(places, line.names, strict=True):
        axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=line.style.colour)


def _wide(values: Sequence[float], key: str) -> bool:
    """Whether values want a logarithmic axis: a factor of 10 or more apart, and no weights in [0, 1]."""
    return key.rpartition(".")[2] not in ("alpha", "rho") and min(values) > 0 and max(values) >= 10 * min(values)


def _numeric(sweep: Sweep) -> bool:
    values = (point.values[sweep.keys[0]] for point in sweep.points)
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
