"""The picture of a learning-rate range test."""

from __future__ import annotations

from matplotlib.figure import Figure

from mixplug.training.lr_range import RULE, LearningRateRange


def range_curve(found: LearningRateRange, label: str) -> Figure:
    """The loss against the learning rate of its step, with the suggestion and the rule that made it."""
    figure = Figure(figsize=(7.0, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.rates, found.losses, color="#bbbbbb", linewidth=0.8, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="#1f4e79", linewidth=1.8, label="smoothed")
    axes.axvline(found.largest, color="#8e5ea2", linestyle=":", label=f"largest usable: {found.largest:.2g}")
    axes.axvline(found.suggestion, color="#d1701f", label=f"suggestion: {found.suggestion:.2g}")
    axes.set_xscale("log")
    # What the loss does where it leaves its range tells nothing, and would hide the rest.
    low, start = min(found.losses), max(found.smoothed[: 1 + len(found.losses) // 10])
    axes.set_ylim(low - 0.1 * (start - low + 1e-9), start + 0.5 * (start - low + 1e-9))
    axes.set_xlabel(f"learning rate\nsuggestion: {RULE}", fontsize=7)
    axes.set_ylabel("training loss")
    axes.set_title(label, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
