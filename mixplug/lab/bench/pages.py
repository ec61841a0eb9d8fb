"""What was measured as a page, its tables and a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from mixplug.checks import counted
from mixplug.lab.bench.results import Bench, StepCost
from mixplug.lab.bench.targets import Target
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.figures import save_figure
from mixplug.lab.pages.styles import colours

MIB = 2**20
DASH = "-"


def write_bench(bench: Bench, judged: list[Target], out: Path) -> None:
    """Leave ``bench.json``, ``bench.md`` and ``parts.png`` in ``out``.

    Args:
        bench: What was measured.
        judged: Its targets.
        out: A folder, made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    bench.write(out / "bench.json")
    save_figure(parts_chart(bench), out / "parts.png")
    tables = {
        "Steps": step_table(bench),
        "Parts of a step": parts_table(bench),
        "Trainings": training_table(bench),
        "Targets": target_table(judged),
    }
    sections = [f"## {title}\n\n{table.markdown()}" for title, table in tables.items() if table.rows]
    (out / "bench.md").write_text("\n".join([f"# {bench.recipe}\n", *sections, measured_with(bench)]), encoding="utf-8")


def measured_with(bench: Bench) -> str:
    """A line on how, with what and where."""
    return describe_measurement(bench.command, bench.turns, len(bench.stages[0].blocks[0]), bench.environment)


def describe_measurement(command: str, turns: int, steps: int, environment: dict[str, Any]) -> str:
    """The command, how often it measured, on which machine, with which versions, when."""
    machine, versions = environment["machine"], environment["versions"]
    parts = [
        f"`{command}`" if command else "",
        f"{counted(turns, 'turn')} of {counted(steps, 'step')}",
        machine["gpu"] or machine["processor"],
        counted(machine["threads"], "thread"),
        f"torch {versions['torch']}",
        f"Composer {versions['mosaicml']}",
        environment["date"],
    ]
    return ", ".join(filter(None, parts)) + "\n"


def step_table(bench: Bench) -> Table:
    """A line for each phase of each method: operations, time, rate, memory, and the time over the plain loop's."""
    stages = bench.stages
    return Table(
        [
            Column("Method", [stage.label for stage in stages], words=True),
            Column("Phase", [stage.phase.upper() for stage in stages], words=True),
            Column(
                "MFLOPs/image",
                [f"{fmean(s.forward) / 1e6:.1f} + {fmean(s.backward) / 1e6:.1f}" for s in stages],
                note="MFLOPs/image: matrix products, convolutions and attention, forward + backward.",
            ),
            Column(
                "ms/step",
                [stage.seconds.format(".1f", 1e3) for stage in stages],
                note="ms/step: median (quartiles) of steps measured by turns.",
            ),
            Column("Images/s", [f"{s.images / s.seconds.median:,.0f}" for s in stages]),
            Column(
                "Over loop",
                [_over_loop(bench, stage) for stage in stages],
                note="Over loop: the step's time over that of a loop in plain PyTorch with the same arithmetic; * "
                "where that loop uses mixplug's functions.",
            ),
            Column(
                "Memory (MiB)",
                [f"{s.held / MIB:.1f} + {s.peak / MIB:.1f}" for s in stages],
                spare=True,
                note="Memory: parameters, gradients and optimizer state + what a step allocates at its peak.",
            ),
        ]
    )


def training_table(bench: Bench) -> Table:
    """A line for each method: what a whole training costs, and its speedup and the ideal one."""
    methods = bench.methods
    columns = [
        Column("Method", [bench.of(m)[0].label for m in methods], words=True),
        Column("Steps", [" + ".join(f"{s.steps} {s.phase.upper()}" for s in bench.of(m)) for m in methods], words=True),
        Column("TFLOPs", [f"{bench.work(m) / 1e12:.2f}" for m in methods], note="TFLOPs: of all training steps."),
        Column(
            "Time (s)", [f"{bench.seconds(m):.1f}" for m in methods], note="Time: median steps, times their number."
        ),
        Column(
            "Ideal",
            [_speedup(bench, m, "work") for m in methods],
            note="Ideal: what SSL+SL with the same objective computes, over what this method does.",
        ),
        Column("Measured", [_speedup(bench, m, "seconds") for m in methods], note="Measured: the same of the times."),
        Column("Of ideal", [_of_ideal(bench, m) for m in methods]),
    ]
    papers = bench.papers
    if papers is not None:
        columns.append(
            Column(
                "Over the paper's",
                [f"{bench.seconds(papers) / bench.seconds(m):.2f}x" for m in methods],
                note=f"Over the paper's: speedup over {bench.of(papers)[0].label}, the pipeline of Li et al.",
            )
        )
    return Table(columns)


def target_table(targets: list[Target]) -> Table:
    """A line for each target."""
    return Table(
        [
            Column("Target", [target.name for target in targets], words=True),
            Column("Measured", [target.measured for target in targets]),
            Column("Bound", [target.bound for target in targets]),
            Column("", ["met" if target.met else "missed" for target in targets], words=True),
        ]
    )


def parts_table(bench: Bench) -> Table:
    """A line for each phase of each method: milliseconds of each part of a step."""
    stages = bench.stages
    return Table(
        [
            Column("Method", [stage.label for stage in stages], words=True),
            Column("Phase", [stage.phase.upper() for stage in stages], words=True),
            *(Column(f"{name} (ms)", [f"{1e3 * s.parts[name]:.2f}" for s in stages]) for name in stages[0].parts),
        ]
    )


def parts_chart(bench: Bench) -> Figure:
    """Where the time of a step goes, a bar for each phase of each method."""
    stages, names = bench.stages, list(bench.stages[0].parts)
    figure = Figure(figsize=(8.5, 0.9 + 0.33 * len(stages)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(stages))
    done = [0.0] * len(stages)
    for name, colour in zip(names, colours(len(names)), strict=True):
        widths = [1e3 * stage.parts[name] for stage in stages]
        axes.barh(places, widths, left=done, label=name, color=colour, height=0.72)
        done = [left + width for left, width in zip(done, widths, strict=True)]
    axes.set_yticks(list(places), [f"{stage.label}, {stage.phase.upper()}" for stage in stages], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step (ms)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    return figure


def _over_loop(bench: Bench, stage: StepCost) -> str:
    ratio = bench.over_loop(stage)
    if ratio is None:
        return DASH
    return ratio.format(".3f") + ("" if bench.loops[stage.loop].label == "hand-written" else "*")


def _speedup(bench: Bench, method: str, what: str) -> str:
    baseline = bench.baseline_of(method)
    if baseline is None:
        return DASH
    of = getattr(bench, what)
    return f"{of(baseline) / of(method):.2f}x"


def _of_ideal(bench: Bench, method: str) -> str:
    baseline = bench.baseline_of(method)
    return DASH if baseline in (None, method) else bench.of_ideal(method, str(baseline)).format(".3f")
