"""What was measured as pictures."""

from __future__ import annotations

from matplotlib.figure import Figure

from mixplug.lab.bench.pages import MIB
from mixplug.lab.bench.results import Bench
from mixplug.lab.bench.scaling.growth import Growth
from mixplug.lab.pages.pictures import colours


def parts_chart(bench: Bench) -> Figure:
    """Where the time of a step goes, a bar for each phase of each method."""
    stages = [stage for stage in bench.stages if stage.parts]
    figure = Figure(figsize=(8.5, 0.9 + 0.33 * len(stages)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(stages))
    done = [0.0] * len(stages)
    names = list(stages[0].parts)
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


def growth_chart(growth: Growth) -> Figure:
    """Step time and memory against each quantity, with the straight lines that they should follow.

    Time should be ``a + b * FLOPs``: against a quantity that is straight where the FLOPs are.
    """
    quantities = growth.quantities
    figure = Figure(figsize=(2.9 * len(quantities) + 0.6, 5.4), dpi=150, layout="constrained")
    grid = figure.subplots(2, len(quantities), squeeze=False, sharex="col")
    for column, (name, points) in enumerate(quantities.items()):
        time, memory = grid[0][column], grid[1][column]
        x = [point.value for point in points]
        seconds = [point.seconds for point in points]
        middle = [1e3 * s.median for s in seconds]
        spread = [[1e3 * (s.median - s.low) for s in seconds], [1e3 * (s.high - s.median) for s in seconds]]
        time.errorbar(x, middle, yerr=spread, fmt="o", capsize=3, color=_MEASURED, label="measured, quartiles")
        line = growth.time_line(name)
        if line is not None:
            ideal = [1e3 * line.at(point.work) for point in points]
            time.plot(x, ideal, color=_LINE, zorder=1, label="a + b x FLOPs")
        memory.plot(x, [point.peak / MIB for point in points], "o", color=_MEASURED, label="measured")
        line = growth.memory_line(name)
        if line is not None:
            ends = [min(x), max(x)]
            memory.plot(ends, [line.at(end) / MIB for end in ends], color=_LINE, zorder=1, label="straight line")
        memory.set_xlabel(name)
        for axes in (time, memory):
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=8)
        if column == 0:
            time.set_ylabel("step time (ms)")
            memory.set_ylabel("peak memory of a step (MiB)")
            for axes in (time, memory):
                axes.legend(fontsize=8, frameon=False)
    return figure


_MEASURED, _LINE = "#1f4e79", "#d1701f"
