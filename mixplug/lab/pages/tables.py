"""Comparisons and sweeps as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.recipes.schema import PROBES
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.results import Comparison, Row, Sweep, judging_probe

LATENCY = "Latency: training, evaluation excluded."
COST = "Cost: forward passes of the plain encoder for each labelled training image, counted."
FROZEN = "kNN (20 neighbours unless said), linear probe: on the encoder's frozen features."
SPEEDUP = "Speedup: in cost, over the SSL+SL with the same objective."
_BUSY = 1.25
"""How many times CPU time wall time is on a machine that does something else too."""


def comparison_table(comparison: Comparison) -> Table:
    """A line for each method: accuracy, cost, time, phases, and what the recipe expects where it says so."""
    rows = comparison.rows()
    tasks = _tasks(rows)
    expected = _expected(comparison)
    return Table(
        [
            Column("Method", [row.label for row in rows], words=True),
            *_accuracies(rows, tasks),
            *_seed_counts(rows),
            _costs(rows),
            *_operations(rows),
            # At equal cost there is nothing to speed up.
            *([] if comparison.recipe.budgets else [Column("Speedup", [_speedup(row) for row in rows], note=SPEEDUP)]),
            Column("Latency (s)", [_seconds(row) for row in rows], note=LATENCY),
            # Without further columns it is part of the table whatever its width.
            Column("SSL+MIX+SL", [_phases(row) for row in rows], spare=bool(tasks or expected)),
            *expected,
        ],
        [*_busy(comparison), *_diverged(rows)],
    )


def sweep_listing(sweep: Sweep) -> Table:
    """A line for each point and method, for a terminal."""
    lines = [(point, number, row) for point in sweep.points for number, row in enumerate(point.comparison.rows())]
    rows = [row for _, _, row in lines]
    return Table(
        [
            *(
                Column(key, ["" if number else text_of(point.values[key]) for point, number, _ in lines])
                for key in sweep.keys
            ),
            Column("Method", [row.label for row in rows], words=True),
            *_accuracies(rows, _tasks(rows)),
            _costs(rows),
            Column("Latency (s)", [_seconds(row) for row in rows], note=LATENCY),
            Column("Speedup", [_speedup(row) for row in rows], spare=True, note=SPEEDUP),
        ],
        _diverged_points(sweep),
    )


def sweep_table(sweep: Sweep) -> Table:
    """A line for each point, the methods side by side, as in the tables of Li et al."""
    columns = [Column(key, [text_of(point.values[key]) for point in sweep.points]) for key in sweep.keys]
    for rows in zip(*(comparison.rows() for comparison in sweep.comparisons), strict=True):
        label = rows[0].label
        columns.append(Column(f"{label} (%)", [_accuracy(row) for row in rows]))
        columns += [Column(f"{label}, {c.title}", c.cells) for c in _accuracies(rows, _tasks(rows))[1:]]
        columns.append(Column(f"{label} (s)", [_seconds(row) for row in rows], note=LATENCY))
        if any(row.speedup is not None and not row.is_baseline for row in rows):
            columns.append(Column(f"{label}, speedup", [_speedup(row) for row in rows], note=SPEEDUP))
    return Table(columns, _diverged_points(sweep))


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


def _accuracies(rows: Sequence[Row], tasks: Sequence[str]) -> list[Column]:
    """The accuracy, and those of the tasks and of the probes."""
    probes = list(dict.fromkeys(probe for row in rows for probe in row.probes))
    untrained = judging_probe((phase for row in rows for phase in row.lengths), probes) is not None
    return [
        # Without a trained classifier it would be the first probe's once more.
        *([] if untrained else [Column("Accuracy (%)", [_accuracy(row) for row in rows])]),
        *(
            Column(f"{task} (%)", [row.tasks[task].format(2, 100) if task in row.tasks else "" for row in rows])
            for task in tasks
        ),
        *(
            Column(
                f"{PROBES[probe]} (%)",
                [row.probes[probe].format(2, 100) if probe in row.probes else "" for row in rows],
                note=FROZEN,
            )
            for probe in probes
        ),
    ]


def _expected(comparison: Comparison) -> list[Column]:
    """The column of what the recipe expects of its methods; none where it expects nothing of those that were run."""
    expect = comparison.recipe.expect
    if expect is None or not any(method in expect.accuracy for method in comparison.recipe.methods):
        return []
    found = [expect.accuracy.get(method) for method in comparison.recipe.methods]
    cells = ["" if accuracy is None else f"{accuracy:.2f}" for accuracy in found]
    return [Column("Expected (%)", cells, note=f"Expected: {expect.source}.")]


def _tasks(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _accuracy(row: Row) -> str:
    """Of the runs that did not diverge, and how many did."""
    if row.accuracy is None:
        return f"diverged at batch {next(iter(row.diverged.values()))}"
    return row.accuracy.format(2, 100) + (f", {len(row.diverged)} diverged" if row.diverged else "")


def _seed_counts(rows: Sequence[Row]) -> list[Column]:
    """How many seeds each mean is of, where they differ."""
    counts = [str(row.seeds) for row in rows]
    return [Column("Seeds", counts)] if len(set(counts)) > 1 and not any(row.diverged for row in rows) else []


def _costs(rows: Sequence[Row]) -> Column:
    return Column("Cost", ["" if row.cost is None else f"{row.cost:.0f}" for row in rows], note=COST)


def _operations(rows: Sequence[Row]) -> list[Column]:
    """Floating-point operations, in the unit that the largest number is of."""
    largest = max((row.flops or 0 for row in rows), default=0)
    if not largest:
        return []
    exponent, unit = next((e, u) for e, u in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (0, "")) if largest >= 10**e)
    return [
        Column(
            f"{unit}FLOPs", ["" if row.flops is None else f"{row.flops / 10**exponent:.3g}" for row in rows], spare=True
        )
    ]


def _busy(comparison: Comparison) -> list[str]:
    """A sentence on a machine that did something else too, if it did: latencies say little then."""
    runs = [run for run in comparison.runs.values() if run.cpu_seconds]
    wall, own = sum(run.seconds for run in runs), sum(run.cpu_seconds or 0 for run in runs)
    if not own or wall < _BUSY * own or describe_environment()["machine"]["gpu"]:
        return []
    return [f"Latencies say little: wall time is {wall / own:.1f} times CPU time ({own:.0f} s in all): machine busy."]


def _seconds(row: Row) -> str:
    return "" if row.seconds is None else row.seconds.format(1)


def _diverged(rows: Iterable[Row], where: str = "") -> list[str]:
    """A sentence on the runs that diverged, if any did; means leave them out."""
    found = [
        f"{where}{row.label}, seed {seed}, at batch {batch}" for row in rows for seed, batch in row.diverged.items()
    ]
    return [f"Diverged, and in no mean: {'; '.join(found)}."] if found else []


def _diverged_points(sweep: Sweep) -> list[str]:
    lines = []
    for point in sweep.points:
        where = ", ".join(f"{key}={text_of(value)}" for key, value in point.values.items())
        lines += _diverged(point.comparison.rows(), f"{where}: ")
    return lines


def _speedup(row: Row) -> str:
    if row.speedup is None:
        return ""
    return "baseline" if row.is_baseline else f"{row.speedup:.2f}x"


def _phases(row: Row) -> str:
    return f"{'+'.join(str(row.lengths.get(phase, 0)) for phase in ('ssl', 'mix', 'sl'))} {row.unit}"
