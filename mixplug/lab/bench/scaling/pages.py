"""How cost grows as tables, for a terminal and for Markdown."""

from __future__ import annotations

from mixplug.lab.bench.pages import DASH, MIB
from mixplug.lab.bench.scaling.growth import Growth, Line, Processes
from mixplug.lab.pages.columns import Column, Table


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


def processes_table(processes: Processes) -> Table:
    """A line for one process and one for several."""
    one, every = processes.rates
    remarks = ["On the CPU; a batch of the same size and one thread for each process; launched in turn."]
    if processes.cores < processes.count:
        remarks.append(f"There were {processes.cores} core(s) for {processes.count} processes, so they had none each.")
    return Table(
        [
            Column("Processes", ["1", str(processes.count)]),
            Column("Images of a step", [f"{processes.images * n:g}" for n in (1, processes.count)]),
            Column("Images/s", [f"{one:,.0f}", f"{every:,.0f}"]),
            Column(
                "Efficiency per core",
                ["1", processes.efficiency.format(".3f")],
                note="Efficiency per core: images/s of all over their number times those of one, median (quartiles) of "
                f"{len(processes.alone)} rounds.",
            ),
        ],
        remarks,
    )


def _deviations(lines: list[Line | None], growth: Growth) -> list[str]:
    cells = []
    for line, points in zip(lines, growth.quantities.values(), strict=True):
        cells += [DASH] * len(points) if line is None else [f"{100 * d:+.1f}%" for d in line.deviation]
    return cells
