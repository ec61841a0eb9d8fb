"""What was measured as pictures."""

from __future__ import annotations

from matplotlib.figure import Figure

from mixplug.bench.results import Bench
from mixplug.pictures import colours


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
