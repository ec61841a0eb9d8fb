"""Losses, accuracy and settings over the run, all methods against what they have cost by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixplug.lab.pages.styles import Style
from mixplug.lab.pages.trade_offs import axis_title, of_seeds
from mixplug.lab.runs.results import RunResult
from mixplug.schedules.phases import Phase

_SHADES = {Phase.SSL: "#c9dff2", Phase.MIX: "#d9c9ea", Phase.SL: "#fbdcb4"}
_LEARNING = (Phase.SSL, Phase.MIX)
_WEIGHED = {"ssl": _LEARNING, "rank_me": _LEARNING, "sl": (Phase.MIX, Phase.SL), "accuracy": tuple(Phase)}
"""The phases in which a loss is trained on; what it is elsewhere means nothing."""

Points = list[list[float]]
"""Each [time, value]."""


def curves(methods: Mapping[str, Sequence[RunResult]], styles: Mapping[str, Style] | None = None) -> Figure:
    """Phases, accuracy and losses of all methods, mean and standard deviation over seeds, against their cost.

    Where the cost of a run is not known, or runs are in batches, they are drawn against time in the run's unit.

    Args:
        methods: The runs of each method, one for each seed, by its label.
        styles: Of each method; by default one colour.
    """

    def of(name: str, kind: str | None = None, scale: float = 1) -> dict[str, list[Points]]:
        chosen = {label: runs for label, runs in methods.items() if kind is None or runs[0].objective == kind}
        return {
            label: [[[time, scale * value] for time, value in curve(run, name)] for run in runs]
            for label, runs in chosen.items()
        }

    kinds = list(dict.fromkeys(runs[0].objective for runs in methods.values() if curve(runs[0], "ssl")))
    panels = {"test accuracy (%)": of("accuracy", scale=100), "SL loss": of("sl")}
    # Losses of different objectives have nothing to do with each other.
    panels |= {"SSL loss" if len(kinds) < 2 else f"SSL loss\n{kind}": of("ssl", kind) for kind in kinds}
    panels["RankMe"] = of("rank_me")
    return _draw_panels(methods, styles, panels, of_seeds(len(next(iter(methods.values())))))


def schedules(methods: Mapping[str, Sequence[RunResult]], styles: Mapping[str, Style] | None = None) -> Figure | None:
    """What steps of all methods began with: learning rate, momentum, what schedules say. Every seed has the same.

    What neither changes over a run nor differs between methods is left out.

    Args:
        methods: As of :func:`curves`.
        styles: As of :func:`curves`.

    Returns:
        None where there is nothing of the kind.
    """
    names = dict.fromkeys(name for runs in methods.values() for name in runs[0].settings)
    panels = {
        name.replace("_", " "): {
            label: [runs[0].settings[name]] for label, runs in methods.items() if name in runs[0].settings
        }
        for name in names
    }
    panels = {
        title: of
        for title, of in panels.items()
        if len({value for (points,) in of.values() for _, value in points}) > 1
    }
    return _draw_panels(methods, styles, panels, "") if panels else None


def _draw_panels(
    methods: Mapping[str, Sequence[RunResult]],
    styles: Mapping[str, Style] | None,
    panels: Mapping[str, Mapping[str, Sequence[Points]]],
    title: str,
) -> Figure:
    """The phases of all methods and, by its title, each panel below with what it shows of every run of some methods."""
    styles = styles or {label: Style("#1f6fb4") for label in methods}
    known = has_costs(methods)
    panels = {name: shown for name, shown in panels.items() if any(any(runs) for runs in shown.values())}
    heights = [0.3 * len(methods) + 0.2, *(2.3 for _ in panels)]
    figure = Figure(figsize=(7.5, sum(heights) + 0.6), dpi=150, layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    _draw_phases(grid[0], methods, styles, known)
    for axes, (name, shown) in zip(grid[1:], panels.items(), strict=True):
        for label, points in shown.items():
            _draw(axes, points, methods[label][0], styles[label], known)
        axes.set_ylabel(name, fontsize=9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    unit = {"ep": "epoch", "ba": "batch"}[next(iter(methods.values()))[0].unit]
    grid[-1].set_xlabel(axis_title(True) if known else unit)
    grid[-1].set_xlim(left=0)
    grid[0].set_title(title, fontsize=8, loc="right")
    return figure


def has_costs(methods: Mapping[str, Sequence[RunResult]]) -> bool:
    """Whether all runs know what each of their phases costs, so that one axis can be theirs."""
    return all(
        run.unit == "ep" and set(run.lengths) <= set(run.unit_costs) for runs in methods.values() for run in runs
    )


def spent(run: RunResult, times: Sequence[float]) -> list[float]:
    """What ``run`` has cost at each of ``times`` in its unit."""
    phases = [phase.value for phase in Phase if run.lengths.get(phase.value)]
    ends = np.cumsum([0.0, *(run.lengths[phase] for phase in phases)])
    costs = np.cumsum([0.0, *(run.lengths[phase] * run.unit_costs[phase] for phase in phases)])
    return np.interp(times, ends, costs).tolist()


def phase_at(run: RunResult, time: float) -> Phase:
    """The phase of the unit that ends at ``time``, or in which it lies."""
    end = 0
    for phase in Phase:
        end += run.lengths.get(phase.value, 0)
        if time <= end:
            return phase
    return max((p for p in Phase if run.lengths.get(p.value)), key=list(Phase).index)


def curve(run: RunResult, name: str) -> Points:
    """The points [time, value] of a history where they mean something."""
    return [point for point in run.history.get(name, ()) if phase_at(run, point[0]) in _WEIGHED[name]]


def _draw_phases(
    axes: Axes, methods: Mapping[str, Sequence[RunResult]], styles: Mapping[str, Style], known: bool
) -> None:
    """A bar for each method, divided into its phases."""
    for row, runs in enumerate(methods.values()):
        start = 0
        for phase in Phase:
            end = start + runs[0].lengths.get(phase.value, 0)
            if end == start:
                continue
            left, right = spent(runs[0], [start, end]) if known else (start, end)
            axes.barh(row, right - left, left=left, height=0.8, color=_SHADES[phase], edgecolor="white", linewidth=0.5)
            text = axes.text((left + right) / 2, row, phase.value.upper(), fontsize=6.5, ha="center", va="center")
            text.set_clip_on(True)
            start = end
    axes.set_yticks(range(len(methods)), list(methods), fontsize=8)
    for row, style in enumerate(styles[label] for label in methods):  # beside the names: the legend of all panels
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([-0.055, -0.015], [row, row], color=style.colour, linewidth=2, **place)
        axes.plot([-0.035], [row], color=style.colour, marker=style.marker, markersize=5, **place)
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=False)
    axes.tick_params(axis="y", pad=28)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw(axes: Axes, points: Sequence[Points], run: RunResult, style: Style, known: bool) -> None:
    """Draw the mean and the standard deviation of a method's runs, of which ``run`` is one."""
    found = np.array(points)
    if not found.size:
        return
    times, values = found[0, :, 0], found[:, :, 1]
    at = np.array(spent(run, times.tolist())) if known else times
    mean = values.mean(0)
    if len(points) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(at, mean - deviation, mean + deviation, color=style.colour, alpha=0.15, linewidth=0)
    # A line through a single point is none.
    marker = style.marker if len(at) == 1 else None
    axes.plot(at, mean, color=style.colour, linewidth=1.5, marker=marker, markersize=5)
    if len(at) > 1:
        axes.plot(at[-1:], mean[-1:], color=style.colour, marker=style.marker, markersize=4)
