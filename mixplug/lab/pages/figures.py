"""Pictures as files: PNG to look at, PDF for papers, and the points that were drawn as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mixplug.lab.pages.curves import curve, curves, has_costs, phase_at, schedules, spent
from mixplug.lab.pages.styles import Style
from mixplug.lab.pages.trade_offs import frontier, have_costs, place_of
from mixplug.lab.runs.results import Comparison, RunResult, Sweep


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``path``, a PNG, and beside it the same as PDF, whose bytes do not depend on when."""
    figure.savefig(path)
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # letters, which journals ask for, no outlines
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def write_points(path: Path, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        writer.writerows(rows)


_OF_ROW = ("method", "label", "seeds", "seconds", "seconds_std", "accuracy", "accuracy_std", "cost", "on_frontier")


def write_pareto(comparison: Comparison, path: Path) -> None:
    """A line for each method of which a run did not diverge."""
    write_points(path, _OF_ROW, _rows(comparison, [comparison]))


def write_sweep(sweep: Sweep, path: Path) -> None:
    """A line for each point and method. The frontier is that of the point's panel: of all values of the first key."""
    panels: dict[str, list[Comparison]] = {}
    places = [repr([point.values[key] for key in sweep.keys[1:]]) for point in sweep.points]
    for place, point in zip(places, sweep.points, strict=True):
        panels.setdefault(place, []).append(point.comparison)
    rows = (
        [*point.values.values(), *row]
        for place, point in zip(places, sweep.points, strict=True)
        for row in _rows(point.comparison, panels[place])
    )
    write_points(path, [*sweep.keys, *_OF_ROW], rows)


def _rows(comparison: Comparison, panel: Sequence[Comparison]) -> Iterable[Sequence[Any]]:
    rows = [row for one in panel for row in one.rows()]
    known = have_costs(rows)
    best = frontier((place_of(row, known).mean, row.accuracy.mean) for row in rows if row.accuracy)
    for row in comparison.rows():
        if row.accuracy is None or row.seconds is None:  # all its runs diverged
            continue
        yield (
            row.method,
            row.label,
            row.seeds,
            row.seconds.mean,
            row.seconds.deviation,
            row.accuracy.mean,
            row.accuracy.deviation,
            row.cost,
            (place_of(row, known).mean, row.accuracy.mean) in best,
        )


def save_curves(
    methods: Mapping[str, Sequence[RunResult]], out: Path, styles: Mapping[str, Style] | None = None
) -> None:
    """Leave in ``out`` what happened over the runs of each method, by its label: pictures and their points."""
    save_figure(curves(methods, styles), out / "curves.png")
    changing = schedules(methods, styles)
    if changing is not None:
        save_figure(changing, out / "schedules.png")
    write_curves(methods, out / "curves.csv")


def write_curves(methods: Mapping[str, Sequence[RunResult]], path: Path) -> None:
    """A line for each point of each run: ``run`` counts a method's, as they are given. Settings come last."""
    known = has_costs(methods)
    titles = ("label", "run", "quantity", "phase", "time", "unit", "cost", "value")
    rows = (
        (label, number, name, phase_at(run, t), t, run.unit, spent(run, [t])[0] if known else None, value)
        for label, runs in methods.items()
        for number, run in enumerate(runs)
        for name, points in {
            **{name: curve(run, name) for name in ("accuracy", "sl", "ssl", "rank_me")},
            **run.settings,
        }.items()
        for t, value in points
    )
    write_points(path, titles, rows)
