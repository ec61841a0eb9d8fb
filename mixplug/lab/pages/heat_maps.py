"""Heat maps of gradient errors: a panel for each figure and stage (Fig. 4 of the compression paper)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mixplug.lab.runs.measured_stages import MeasuredStages
from mixplug.training.gradient_error import GradientError

_FIGURES = (("ca_mse", "CA-MSE"), ("squared_bias", "squared bias"), ("variance", "cost-adjusted variance"))


def error_maps(measured: MeasuredStages) -> Figure:
    """CA-MSE, squared bias and cost-adjusted variance of each strategy, a column for each stage.

    Colours are logarithmic and alike in a row; what is not above 0 within its noise has the lowest one. The least
    CA-MSE of a stage is framed.

    Args:
        measured: At least one stage.
    """
    stages, patch_of = measured.stages, measured.patch_of
    rows = next(iter(stages.values())).rows
    rates = sorted({row.strategy.rate for row in rows})
    patches = sorted({patch_of(row.strategy) for row in rows})
    size = (1.6 + len(stages) * (0.9 + 0.55 * len(rates)), 1.2 + 3 * (0.7 + 0.42 * len(patches)))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(len(_FIGURES), len(stages), squeeze=False, sharex=True, sharey=True)
    for line, (attribute, title) in zip(grid, _FIGURES, strict=True):
        maps = [_map(measured, error, attribute, rates, patches) for error in stages.values()]
        positive = np.concatenate([values[values > 0] for values in maps])
        low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
        low = max(low, high / 1e4)
        norm = LogNorm(low, max(high, 1.001 * low))
        for axes, (name, error), values in zip(line, stages.items(), maps, strict=True):
            image = axes.imshow(np.maximum(values, low), norm=norm, cmap="viridis_r", aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                dark = norm(max(value, low)) > 0.55
                axes.text(x, y, f"{value:.2g}", ha="center", va="center", fontsize=6, color="w" if dark else "k")
            if attribute == "ca_mse":
                best = patches.index(patch_of(error.best)), rates.index(error.best.rate)
                axes.add_patch(_frame(*best))
                progress = f"{error.position.phase.value.upper()} {100 * error.position.progress:.0f}%"
                axes.set_title(f"{Path(name).name}\n{progress}", fontsize=8)
            axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7)
            axes.set_yticks(range(len(patches)), [str(patch) for patch in patches], fontsize=7)
        line[0].set_ylabel(f"{title}\npatch (px)", fontsize=8)
        figure.colorbar(image, ax=line.tolist(), pad=0.01).ax.tick_params(which="both", labelsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("share of dropped tokens", fontsize=8)
    return figure


def _map(
    measured: MeasuredStages, error: GradientError, attribute: str, rates: list[float], patches: list[int]
) -> np.ndarray:
    values = np.full((len(patches), len(rates)), np.nan)
    for row in error.rows:
        values[patches.index(measured.patch_of(row.strategy)), rates.index(row.strategy.rate)] = getattr(
            row, attribute
        ).value
    return values


def _frame(y: int, x: int) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1.5, clip_on=False)
