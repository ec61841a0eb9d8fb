"""How cost grows as a page, a table and a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from mixplug.lab.bench.pages import DASH, MIB, describe_measurement
from mixplug.lab.bench.scaling.growth import Growth, Line
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.figures import save_figure

_MEASURED, _LINE = "#1f4e79", "#d1701f"


def write_growth(growth: Growth, out: Path) -> None:
    """Leave ``scaling.json``, ``scaling.md`` and ``scaling.png`` in ``out``.

    Args:
        growth: What was measured.
        out: A folder, made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    growth.write(out / "scaling.json")
    save_figure(growth_chart(growth), out / "scaling.png")
    sections = [f"# {growth.recipe}: how the cost of {growth.label}'s {growth.phase.upper()} step grows\n"]
    sections += [growth_table(growth).markdown(), "![Step time and memory](scaling.png)\n"]
    if lines := left_out_lines(growth):
        sections.append("\n".join(f"- {line}" for line in lines) + "\n")
    (out / "scaling.md").write_text("\n".join([*sections, growth_measured_with(growth)]), encoding="utf-8")


def growth_measured_with(growth: Growth) -> str:
    """A line on how, with what and where."""
    blocks = [point.blocks for point in growth.points]
    return describe_measurement(
        growth.command, len(blocks[0]), max(len(block[0]) for block in blocks), growth.environment
    )


def growth_table(growth: Growth) -> Table:
    """A line for each value of each quantity: operations, time, memory, rates, and how far off the lines they are."""
    points = growth.points
    return Table(
        [
            Column("Quantity", [p.quantity for p in points], words=True),
            Column("Value", [f"{p.value:g}" for p in points]),
            Column("MFLOPs/image", [f"{p.flops / 1e6:.1f}" for p in points]),
            Column(
                "ms/step",
                [p.seconds.format(".1f", 1e3) for p in points],
                note=f"ms/step: median (quartiles) of {growth.label}'s {growth.phase.upper()} step in the middle of "
                f"the phase, measured by turns.",
            ),
            Column(
                "Off line",
                _deviations([growth.time_line(name) for name in growth.quantities], growth),
                note="Off line: how far the median is from a + b * FLOPs, a and b by least squares over the quantity.",
            ),
            Column(
                "Memory (MiB)",
                [f"{p.peak / MIB:.1f}" for p in points],
                note="Memory: what a step allocates at its peak.",
            ),
            Column(
                "Off its line",
                _deviations([growth.memory_line(name) for name in growth.quantities], growth),
                note="Off its line: how far memory is from a straight line in the quantity, by least squares.",
            ),
            Column("Images/s", [f"{p.images / p.seconds.median:,.0f}" for p in points]),
            Column(
                "GFLOP/s",
                [f"{p.work / p.seconds.median / 1e9:.1f}" for p in points],
                note="GFLOP/s: achieved, of matrix products, convolutions and attention.",
            ),
        ],
        ["Tokens: patches of an image, by the size of the images."] if "tokens" in growth.quantities else [],
    )


def left_out_lines(growth: Growth) -> list[str]:
    """In words what was not measured, a line each, and which lines could not be drawn."""
    few = [
        f"{name}: no lines, since {len(points)} points say nothing of one"
        for name, points in growth.quantities.items()
        if growth.memory_line(name) is None or growth.time_line(name) is None
    ]
    return [" ".join(text.split()) for text in (*growth.left_out, *few)]


def _deviations(lines: list[Line | None], growth: Growth) -> list[str]:
    cells = []
    for line, points in zip(lines, growth.quantities.values(), strict=True):
        cells += [DASH] * len(points) if line is None else [f"{100 * d:+.1f}%" for d in line.deviation]
    return cells


def growth_chart(growth: Growth) -> Figure:
    """Step time and memory against each quantity, with the straight lines that they should follow.

    Time should be ``a + b * FLOPs``: against a quantity that is straight where the FLOPs are.
    """
    quantities = growth.quantities
    figure = Figure(figsize=(2.9 * len(quantities) + 0.6, 5.4), dpi=150, layout="constrained")
    grid = figure.subplots(2, len(quantities), squeeze=False, sharex="col")
    for (name, points), time, memory in zip(quantities.items(), *grid, strict=True):
        x = [point.value for point in points]
        seconds = [point.seconds for point in points]
        middle = [1e3 * s.median for s in seconds]
        quartiles = [[1e3 * (s.median - s.low) for s in seconds], [1e3 * (s.high - s.median) for s in seconds]]
        time.errorbar(x, middle, yerr=quartiles, fmt="o", capsize=3, color=_MEASURED, label="measured, quartiles")
        if line := growth.time_line(name):
            ideal = [1e3 * line.at(point.work) for point in points]
            time.plot(x, ideal, color=_LINE, zorder=1, label="a + b x FLOPs")
        memory.plot(x, [point.peak / MIB for point in points], "o", color=_MEASURED, label="measured")
        if line := growth.memory_line(name):
            memory.plot(x, [line.at(value) / MIB for value in x], color=_LINE, zorder=1, label="straight line")
        memory.set_xlabel(name)
        for axes in (time, memory):
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=8)
    for axes, label in zip(grid[:, 0], ("step time (ms)", "peak memory of a step (MiB)"), strict=True):
        axes.set_ylabel(label)
        axes.legend(fontsize=8, frameon=False)
    return figure
