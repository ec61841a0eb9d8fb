"""Pictures of a sweep: accuracy against what was swept, and against training time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from mixplug.lab.pages.papers import Beside
from mixplug.lab.pages.pictures import colours
from mixplug.lab.papers.figures import METHODS, PARAMETERS, Figure
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.runs.results import Point, Row, Spread, Sweep

_COLUMNS = 4
_AND = ", "


@dataclass
class Line:
    """A method's curve: points with their standard deviations, and a name for each."""

    label: str
    colour: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    x_errors: list[float] = field(default_factory=list)
    y_errors: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@dataclass
class Panel:
    """What one pair of axes shows: our curves, and the paper's for the same setting."""

    title: str
    ours: list[Line]
    paper: list[Line]


def accuracy(sweep: Sweep) -> Picture:
    """Accuracy against the first swept key, a panel for each combination of the other ones."""
    key = sweep.keys[0]
    numeric = _numeric(sweep)
    values = list(dict.fromkeys(text_of(point.values[key]) for point in sweep.points))
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}

    def place(point: Point, row: Row) -> Spread:
        return Spread(places[text_of(point.values[key])], None)

    def paper_place(value: float, figure: Figure) -> float | None:
        return value

    panels = _panels(sweep, place, paper_place if numeric else None)
    picture, grid = _grid(panels)
    for axes, title, ours, paper in grid:
        if numeric:
            ticks = sorted({x for line in (*ours, *paper) for x in line.x})
            if _wide(ticks, key):
                axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        else:
            axes.set_xticks(list(places.values()), list(places), rotation=20, ha="right")
        _finish(axes, title, key)
    _legend(picture)
    return picture


def trade_off(sweep: Sweep) -> Picture:
    """Accuracy against training time, a curve for each method through the values of the first swept key."""

    def place(point: Point, row: Row) -> Spread:
        return row.seconds

    def paper_place(value: float, figure: Figure) -> float | None:
        return figure.seconds

    panels = _panels(sweep, place, paper_place)
    for panel in panels:  # a single point is no trade-off
        panel.paper = [line for line in panel.paper if len(set(line.x)) > 1]
    picture, grid = _grid(panels)
    for axes, title, ours, paper in grid:
        for line in (*ours, *paper):
            _name(axes, line, max(x for other in (*ours, *paper) for x in other.x))
        _finish(axes, title, "training latency (s)")
        axes.set_xlim(left=0)
    _legend(picture)
    return picture


Place = Callable[[Point, Row], Spread]
PaperPlace = Callable[[float, Figure], "float | None"]


def _panels(sweep: Sweep, place: Place, paper_place: PaperPlace | None) -> list[Panel]:
    key, *others = sweep.keys
    parameter = key.rpartition(".")[2]  # data.fraction is the fraction
    beside = Beside(sweep.comparisons)
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        name = _AND.join(f"{other} = {text_of(point.values[other])}" for other in others)
        groups.setdefault(name, []).append(point)
    panels = []
    for title, points in groups.items():
        methods = points[0].comparison.recipe.methods
        lines = {
            method: Line(config.label, colour)
            for colour, (method, config) in zip(colours(len(methods)), methods.items(), strict=True)
        }
        for point in sorted(points, key=lambda p: p.values[key]) if _numeric(sweep) else points:
            for row in point.comparison.rows():
                line, at = lines[row.method], place(point, row)
                line.x.append(at.mean)
                line.x_errors.append(at.deviation or 0)
                line.y.append(100 * row.accuracy.mean)
                line.y_errors.append(100 * (row.accuracy.deviation or 0))
                line.names.append(text_of(point.values[key]))
        paper = (
            _paper_lines(points[-1], beside, parameter, paper_place) if paper_place and parameter in PARAMETERS else []
        )
        panels.append(Panel(title, list(lines.values()), paper))
    return panels


def _paper_lines(point: Point, beside: Beside, parameter: str, place: PaperPlace) -> list[Line]:
    """The paper's own study of ``parameter``, a line for each of its methods that a method of ours reproduces."""
    lines: dict[str, Line] = {}
    methods = point.comparison.recipe.methods
    for method, colour in zip(methods, colours(len(methods)), strict=True):
        kind = beside.kind(point.comparison, method)
        if kind is None or kind in lines:
            continue
        line = Line(f"{kind} (paper)", colour)
        for value, figure in beside.curve(point.comparison, method, parameter):
            if (x := place(value, figure)) is not None:
                line.x.append(x)
                line.y.append(figure.accuracy)
                line.names.append(f"{value:g}")
        if line.x:
            lines[kind] = line
    return [lines[kind] for kind in METHODS if kind in lines]


def _grid(panels: Sequence[Panel]) -> tuple[Picture, list[tuple[Axes, str, list[Line], list[Line]]]]:
    """Axes for each panel with its curves, the paper's in axes of their own where one scale would flatten either."""
    separate = any(panel.paper and _apart(panel) for panel in panels)
    wanted: list[tuple[str, list[Line], list[Line]]] = []
    for panel in panels:
        wanted.append((panel.title, panel.ours, [] if separate else panel.paper))
    if separate:
        for lines, titles in _different(panels):
            title = ": ".join(filter(None, ("Li et al., ViT-T", _common(titles) if len(panels) > 1 else "")))
            wanted.append((title, [], lines))
    # The paper's below ours, or beside it where there is one of each.
    columns = min(_COLUMNS, len(panels) if len(panels) > 1 else len(wanted))
    rows = -(-len(wanted) // columns)
    size = (7.5, 4.8) if len(wanted) == 1 else (4.6 * columns, 4.2 * rows)
    picture = Picture(figsize=size, dpi=150, layout="constrained")
    axes = picture.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[len(wanted) :]:
        unused.set_visible(False)
    grid = [(a, *what) for a, what in zip(axes, wanted, strict=False)]
    for at, _, ours, paper in grid:
        for line in ours:
            _draw(at, line)
        for line in paper:
            _draw_paper(at, line)
    return picture, grid


def _different(panels: Sequence[Panel]) -> list[tuple[list[Line], list[str]]]:
    """The paper's curves, once where they are the same for several panels, with the titles of those."""
    groups: list[tuple[list[Line], list[str]]] = []
    for panel in panels:
        titles = next((titles for lines, titles in groups if lines == panel.paper), None)
        if titles is not None:
            titles.append(panel.title)
        elif panel.paper:
            groups.append((panel.paper, [panel.title]))
    return groups


def _common(titles: Sequence[str]) -> str:
    """What all titles say."""
    parts = [title.split(_AND) for title in titles]
    return _AND.join(part for part in parts[0] if all(part in other for other in parts))


def _apart(panel: Panel) -> bool:
    """Whether both together would leave one of the two less than half of either axis."""
    for values in (lambda line: line.x, lambda line: line.y):
        ours, paper = ([v for line in lines for v in values(line)] for lines in (panel.ours, panel.paper))
        spans = [max(both) - min(both) for both in (ours, paper)]
        whole = max(*ours, *paper) - min(*ours, *paper)
        if any(span and whole > 2 * span for span in spans):
            return True
    return False


def _draw(axes: Axes, line: Line) -> None:
    axes.errorbar(
        line.x,
        line.y,
        xerr=line.x_errors if any(line.x_errors) else None,
        yerr=line.y_errors,
        marker="o",
        markersize=5,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=3,
        color=line.colour,
        label=line.label,
    )


def _draw_paper(axes: Axes, line: Line) -> None:
    axes.plot(line.x, line.y, linestyle="--", marker=".", color=line.colour, alpha=0.5, label=line.label)


def _name(axes: Axes, line: Line, last: float) -> None:
    """Write at each point what was swept, unless the points are too close for it on an axis from 0 to ``last``."""
    if max(line.x) - min(line.x) < 0.1 * last:
        return
    places = zip(line.x, line.y, strict=True)
    for (x, y), name in zip(places, line.names, strict=True):
        axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=line.colour)


def _finish(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.margins(x=0.08)  # room for what is written at the last points
    axes.set_xlabel(x_label)
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)


def _legend(picture: Picture) -> None:
    """One legend for all axes, below them."""
    entries = {
        label: handle for axes in picture.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # The paper's last, so that it does not depend on which axes came first.
    labels = sorted(entries, key=lambda label: label.endswith("(paper)"))
    columns = min(len(labels), 2 + int(picture.get_figwidth() // 4))
    picture.legend([entries[label] for label in labels], labels, fontsize=8, loc="outside lower center", ncols=columns)


def _wide(values: Sequence[float], key: str) -> bool:
    """Whether values want a logarithmic axis: a factor of 10 or more apart, and no weights in [0, 1]."""
    return key.rpartition(".")[2] not in ("alpha", "rho") and min(values) > 0 and max(values) >= 10 * min(values)


def _numeric(sweep: Sweep) -> bool:
    values = (point.values[sweep.keys[0]] for point in sweep.points)
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
