"""Comparisons and sweeps as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.papers import Beside, data_remark, is_assumed
from mixplug.lab.papers.figures import METHODS, Figure, caption
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.results import Comparison, Row, Sweep

LATENCY = "Latency: training, evaluation excluded."
SPEEDUP = "Speedup: over the SSL+SL with the same objective."


def comparison_table(comparison: Comparison) -> Table:
    """A line for each method: accuracy, latency, speedup, phases, and the paper's figures where there are some."""
    rows = comparison.rows()
    tasks = _tasks(rows)
    paper, remarks = _paper_columns([(comparison, row.method) for row in rows], Beside([comparison]), tasks)
    columns = [
        Column("Method", [row.label for row in rows], words=True),
        *_accuracies(rows, tasks),
        Column("Latency (s)", [row.seconds.format(1) for row in rows], note=LATENCY),
        Column("Speedup", [_speedup(row) for row in rows], note=SPEEDUP),
        # Without further columns it is part of the table whatever its width.
        Column("SSL+MIX+SL", [_phases(row) for row in rows], spare=bool(tasks or paper)),
        *paper,
    ]
    return Table(columns, remarks)


def sweep_listing(sweep: Sweep) -> Table:
    """A line for each point and method, for a terminal."""
    lines = [(point, number, row) for point in sweep.points for number, row in enumerate(point.comparison.rows())]
    rows = [row for _, _, row in lines]
    tasks = _tasks(rows)
    paper, remarks = _paper_columns(
        [(point.comparison, row.method) for point, _, row in lines], Beside(sweep.comparisons), tasks, numbered=True
    )
    columns = [
        *(
            Column(key, ["" if number else text_of(point.values[key]) for point, number, _ in lines])
            for key in sweep.keys
        ),
        Column("Method", [row.label for row in rows], words=True),
        *_accuracies(rows, tasks),
        Column("Latency (s)", [row.seconds.format(1) for row in rows], note=LATENCY),
        Column("Speedup", [_speedup(row) for row in rows], spare=True, note=SPEEDUP),
        *paper,
    ]
    return Table(columns, remarks)


def sweep_table(sweep: Sweep) -> Table:
    """The layout of the paper's tables: a line for each point, the methods side by side."""
    comparisons, beside = sweep.comparisons, Beside(sweep.comparisons)
    columns = [Column(key, [text_of(point.values[key]) for point in sweep.points]) for key in sweep.keys]
    at_points = [comparison.rows() for comparison in comparisons]
    for rows in zip(*at_points, strict=True):
        label = rows[0].label
        columns.append(Column(f"{label} (%)", [row.accuracy.format(2, 100) for row in rows]))
        columns += [Column(f"{label}, {c.title}", c.cells) for c in _accuracies(rows, _tasks(rows))[1:]]
        columns.append(Column(f"{label} (s)", [row.seconds.format(1) for row in rows], note=LATENCY))
        if any(row.speedup is not None and not row.is_baseline for row in rows):
            columns.append(Column(f"{label}, speedup", [_speedup(row) for row in rows], note=SPEEDUP))
    tasks = _tasks(row for rows in at_points for row in rows)
    used: list[list[Figure]] = [[] for _ in comparisons]
    for kind in METHODS:
        for task in ("", *tasks):
            found = [_first_of(kind, comparison, beside, task) for comparison in comparisons]
            for at_point, figure in zip(used, found, strict=True):
                at_point += [figure] if figure else []
            name = f"Paper: {kind}, {task}" if task else f"Paper: {kind}"
            columns += _figures(found, f"{name} (%)", "" if task else f"{name} (s)")
    shown = [figure for at_point in used for figure in at_point]
    if shown:
        numbers = [", ".join(map(str, sorted({figure.table for figure in at_point}))) for at_point in used]
        columns.append(Column("Paper: table", numbers))
    return Table(columns, _caption(shown, comparisons))


def measured(comparison: Comparison) -> str:
    """How many seeds, which machine, which versions."""
    environment: dict[str, Any] = describe_environment()
    machine, versions = environment["machine"], environment["versions"]
    where = f"{machine['processor']}, {machine['cores']} cores"
    if machine["gpu"]:
        where += f", {machine['gpu']}"
    count = len(comparison.seeds)
    return (
        f"Mean ± standard deviation over {count} seed{'s' if count > 1 else ''}. {where}; "
        f"mixplug {versions['mixplug']}, torch {versions['torch']}."
    )


def _first_of(kind: str, comparison: Comparison, beside: Beside, task: str) -> Figure | None:
    """The paper's figure for the first method of that kind that has one."""
    candidates = (m for m in comparison.recipe.methods if beside.kind(comparison, m) == kind)
    return next((f for m in candidates if (f := beside.figure(comparison, m, task)) is not None), None)


def _accuracies(rows: Sequence[Row], tasks: Sequence[str]) -> list[Column]:
    """The accuracy, and those of the tasks."""
    return [
        Column("Accuracy (%)", [row.accuracy.format(2, 100) for row in rows]),
        *(
            Column(f"{task} (%)", [row.tasks[task].format(2, 100) if task in row.tasks else "" for row in rows])
            for task in tasks
        ),
    ]


def _paper_columns(
    lines: Sequence[tuple[Comparison, str]], beside: Beside, tasks: Sequence[str], numbered: bool = False
) -> tuple[list[Column], list[str]]:
    """The paper's figures for each line, and the caption that they need; no columns if there are none."""
    by_task = {task: [beside.figure(comparison, method, task) for comparison, method in lines] for task in ("", *tasks)}
    shown = [figure for found in by_task.values() for figure in found if figure]
    if not shown:
        return [], _caption(shown, [comparison for comparison, _ in lines])
    main = by_task.pop("")
    columns = _figures(main, "Paper (%)", "Paper (s)")
    for task, found in by_task.items():
        columns += [Column(c.title, c.cells, spare=True) for c in _figures(found, f"Paper {task} (%)")]
    if numbered:
        columns.append(Column("Table", [str(figure.table) if figure else "" for figure in main]))
    return columns, _caption(shown, [comparison for comparison, _ in lines])


def _caption(shown: Sequence[Figure], comparisons: Sequence[Comparison]) -> list[str]:
    """What to know about the paper's figures; that there are none, where a recipe asks for some."""
    recipes = [comparison.recipe for comparison in comparisons]
    other_data = list(dict.fromkeys(remark for recipe in recipes if (remark := data_remark(recipe))))
    if shown:
        return [caption(shown, any(recipe.paper and is_assumed(recipe) for recipe in recipes)), *other_data]
    if other_data or not any(recipe.paper for recipe in recipes):
        return other_data
    return ["Paper: Li et al. report no figure for these settings."]


def _figures(found: Sequence[Figure | None], accuracy: str, seconds: str = "") -> list[Column]:
    """Columns of the paper's accuracies and, where it has them and they have a title, seconds."""
    columns = []
    if any(found):
        columns.append(Column(accuracy, [f"{figure.accuracy:.2f}" if figure else "" for figure in found]))
    if seconds and any(figure and figure.seconds for figure in found):
        cells = [f"{figure.seconds:.2f}" if figure and figure.seconds else "" for figure in found]
        columns.append(Column(seconds, cells))
    return columns


def _tasks(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _speedup(row: Row) -> str:
    if row.speedup is None:
        return ""
    return "baseline" if row.is_baseline else f"{row.speedup.format(2)}x"


def _phases(row: Row) -> str:
    return f"{'+'.join(str(row.lengths.get(phase, 0)) for phase in ('ssl', 'mix', 'sl'))} {row.unit}"
