"""Tables of gradient errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.runs.measured_stages import MeasuredStages
from mixplug.training.error_estimates import Estimate
from mixplug.training.gradient_error import Strategy, StrategyError


def stage_table(measured: MeasuredStages) -> Table:
    """A line for each checkpoint: its best strategy beside the uncompressed one."""
    best = [min(error.rows, key=lambda row: row.ca_mse.value) for error in measured.stages.values()]
    plain = [
        next((row for row in error.rows if row.strategy == Strategy()), None) for error in measured.stages.values()
    ]
    return Table(
        [
            *_checkpoint_columns(measured, [1] * len(measured.stages)),
            *_strategy_columns(measured, best),
            Column("CA-MSE, best", [_text(row.ca_mse) for row in best]),
            Column("CA-MSE, uncompressed", ["" if row is None else _text(row.ca_mse) for row in plain]),
        ],
        [
            "The best strategy has the least CA-MSE, over the squared norm of the true gradient, +- standard error.",
            *_how(measured),
        ],
    )


def error_table(measured: MeasuredStages) -> Table:
    """A line for each checkpoint and strategy."""
    rows = [row for error in measured.stages.values() for row in error.rows]
    return Table(
        [
            *_checkpoint_columns(measured, [len(error.rows) for error in measured.stages.values()]),
            *_strategy_columns(measured, rows),
            Column("Squared bias", [_text(row.squared_bias) for row in rows]),
            Column("Cost-adjusted variance", [_text(row.variance) for row in rows]),
            Column("CA-MSE", [_text(row.ca_mse) for row in rows]),
        ],
        ["Errors over the squared norm of the true gradient, +- standard error.", *_how(measured)],
    )


def _checkpoint_columns(measured: MeasuredStages, repeats: Sequence[int]) -> list[Column]:
    pairs = list(zip(measured.stages.items(), repeats, strict=True))
    names = [Path(name).name for (name, _), count in pairs for _ in range(count)]
    places = [
        f"{error.position.phase.value.upper()} {100 * error.position.progress:.0f}%"
        for (_, error), count in pairs
        for _ in range(count)
    ]
    return [Column("Checkpoint", names, words=True), Column("Phase", places, words=True)]


def _strategy_columns(measured: MeasuredStages, rows: Sequence[StrategyError]) -> list[Column]:
    return [
        Column("Dropped", [f"{100 * row.strategy.rate:g}%" for row in rows]),
        Column("Patch", [str(measured.patch_of(row.strategy)) for row in rows]),
        Column("Cost", [f"{row.cost:.2f}" for row in rows]),
    ]


def _how(measured: MeasuredStages) -> list[str]:
    lines = [f"{Path(name).name}: {found}." for name, found in measured.hidden.items()]
    for error in list(measured.stages.values())[:1]:
        lines.append(
            f"{error.samples} images in sub-batches of {error.sub_batch}, budget {error.budget:.4g} forward passes "
            f"a step; cost in forward passes of an image."
        )
        if error.within_batch is not None:
            lines.append(
                f"The loss depends on the sub-batch ({error.within_batch}): all figures are those of batches of "
                f"{error.sub_batch} images."
            )
    return lines


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} +- {estimate.error:.2g}"
