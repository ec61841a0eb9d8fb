"""What is measured of compressed steps' gradients at several stages of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixplug.training.gradient_error import GradientError, Strategy


@dataclass(frozen=True)
class MeasuredStages:
    """Gradient errors at checkpoints of a training.

    Attributes:
        stages: By checkpoint, in their order.
        hidden: Checkpoints at which noise hides the true gradient, and what was found there.
        native: Side of the encoder's own patches, in pixels.
    """

    stages: Mapping[str, GradientError]
    hidden: Mapping[str, str]
    native: int

    def patch_of(self, strategy: Strategy) -> int:
        """The side of a strategy's patches in pixels."""
        return self.native if strategy.patch is None else strategy.patch

    def numbers(self, checkpoint: str) -> dict[str, Any]:
        """A stage as primitives, which :meth:`mixplug.CompressionSchedule.read` takes."""
        error = self.stages[checkpoint]
        position, norm = error.position, dataclasses.asdict(error.squared_norm)
        rows = []
        for row in error.rows:
            numbers = dataclasses.asdict(row)
            strategy = numbers.pop("strategy")
            rows.append({"rate": strategy["rate"], "patch": self.patch_of(row.strategy), **numbers})
        return {
            "checkpoint": checkpoint,
            "phase": position.phase.value,
            "progress": position.progress,
            "ssl_progress": position.ssl_progress,
            "run_progress": position.run_progress,
            "budget": error.budget,
            "samples": error.samples,
            "sub_batch": error.sub_batch,
            "within_batch": error.within_batch,
            "squared_norm": norm,
            "rows": rows,
        }
