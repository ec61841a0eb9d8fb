"""Pictures: of finished runs the trade-off, curves and reconstructions; of a batch of images its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from mixplug.lab.runs.results import Comparison, RunResult
from mixplug.objectives import Reconstruction
from mixplug.schedules.phases import Phase

_COLOURS = ("#4d4d4d", "#1f77b4", "#17a2c4", "#d1701f", "#e8a33d", "#2e8b57", "#8e5ea2", "#c44e52")
_SHADES = {Phase.SSL: "#dbe9f6", Phase.MIX: "#e6ddf0", Phase.SL: "#fdebd3"}


def pareto(comparison: Comparison) -> Figure:
    """Accuracy against training latency, mean and standard deviation; lines lead from SSL+SL to MixTraining."""
    figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rows = {row.method: row for row in comparison.rows()}
    for colour, row in zip(colours(len(rows)), rows.values(), strict=True):
        baseline = comparison.baseline_of(row.method)
        if baseline is not None and baseline != row.method:
            start = rows[baseline]
            axes.plot(
                [start.seconds.mean, row.seconds.mean],
                [100 * start.accuracy.mean, 100 * row.accuracy.mean],
                color="#bbbbbb",
                linewidth=1,
                zorder=1,
            )
        axes.errorbar(
            row.seconds.mean,
            100 * row.accuracy.mean,
            xerr=row.seconds.deviation or 0,
            yerr=100 * (row.accuracy.deviation or 0),
            fmt="o" if baseline in (None, row.method) else "D",
            color=colour,
            capsize=3,
            markersize=7,
            label=row.label,
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("training latency (s)")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def curves(methods: Mapping[str, Sequence[RunResult]]) -> Figure:
    """Losses and accuracy over the run, mean over seeds, a column for each method with its phases shaded."""
    figure = Figure(figsize=(3.0 * len(methods) + 1.0, 6.0), dpi=130, layout="constrained")
    grid = figure.subplots(3, len(methods), squeeze=False, sharey="row", sharex=True)
    names = (("ssl", "SSL loss"), ("sl", "SL loss"), ("accuracy", "test accuracy (%)"))
    for column, (label, runs) in enumerate(methods.items()):
        grid[0][column].set_title(label, fontsize=9)
        for row, (name, title) in enumerate(names):
            axes = grid[row][column]
            _shade(axes, runs[0], named=row == 0)
            points = np.array([run.history[name] for run in runs])
            if points.size:
                scale = 100 if name == "accuracy" else 1
                # A line through a single point is none.
                marker = "o" if points.shape[1] == 1 else None
                for one in points:
                    axes.plot(one[:, 0], scale * one[:, 1], color="#999999", linewidth=0.6, marker=marker, markersize=3)
                mean = scale * points[:, :, 1].mean(0)
                axes.plot(points[0][:, 0], mean, color="#1f4e79", linewidth=1.6, marker=marker, markersize=6)
            if column == 0:
                axes.set_ylabel(title, fontsize=9)
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=8)
        grid[-1][column].set_xlabel({"ep": "epoch", "ba": "batch"}[runs[0].unit], fontsize=9)
    return figure


def reconstructions(methods: Mapping[str, Reconstruction]) -> Figure:
    """Originals, what the models saw of them, and what each finished model makes of it (Li et al., Fig. 4)."""
    first = next(iter(methods.values()))
    rows = {
        "original": first.original,
        "masked": first.masked,
        **{label: pictures.reconstruction for label, pictures in methods.items()},
    }
    low, high = float(first.original.min()), float(first.original.max())
    count = len(first.original)
    figure = Figure(figsize=(1.1 * count + 2.2, 1.15 * len(rows)), dpi=130, layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (label, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            _show(axes, (image - low) / max(high - low, 1e-12))
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def views(columns: Mapping[str, Tensor], notes: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Images and what random views make of them: a row for each image, draws of a kind side by side.

    Args:
        columns: By heading ``(draws, images, C, H, W)``, in [0, 1]; heights and widths may differ between headings.
        notes: By heading what to write to the right of each image.
    """
    blocks = list(columns.values())
    rows, draws = blocks[0].shape[1], [len(block) for block in blocks]
    # A column of nothing between headings.
    widths = [width for count in draws for width in (*[1.0] * count, 0.2)][:-1]
    figure = Figure(figsize=(1.05 * sum(widths) + 0.1, 1.05 * rows + 0.4), dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    first = 0
    for title, block in columns.items():
        for draw, images in enumerate(block, start=first):
            for row, image in enumerate(images):
                axes = figure.add_subplot(grid[row, draw])
                _show(axes, image)
                if row == 0 and draw == first:
                    axes.set_title(title, fontsize=9, loc="left")
                if notes and title in notes:
                    axes.yaxis.set_label_position("right")
                    axes.set_ylabel(notes[title][row], rotation=0, ha="left", va="center", fontsize=7)
        first += len(block) + 1
    return figure


def _show(axes: Any, image: Tensor) -> None:
    """An image ``(C, H, W)`` in [0, 1]: colours if it has three channels, else their mean."""
    pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    if pixels.shape[-1] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _shade(axes: Any, run: RunResult, named: bool) -> None:
    start = 0
    for phase, colour in _SHADES.items():
        length = run.lengths.get(phase.value, 0)
        if length:
            axes.axvspan(start, start + length, color=colour, linewidth=0)
            if named:
                axes.text(
                    start + length / 2,
                    0.97,
                    phase.value.upper(),
                    transform=axes.get_xaxis_transform(),
                    fontsize=8,
                    ha="center",
                    va="top",
                    color="#555555",
                )
        start += length


def colours(count: int) -> list[str]:
    """A colour for each of ``count`` methods, in the order of the recipe."""
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]
