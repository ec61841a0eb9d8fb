"""Losses, RankMe and accuracy over a run, which checkpoints hold: a resumed run has an uninterrupted one's history."""

from __future__ import annotations

import math
from typing import Any

from composer.core import State, TimeUnit
from composer.loggers import Logger, LoggerDestination

_MEANS = {f"loss/train/{name}": name for name in ("total", "ssl", "sl")} | {"mixtraining/rank_me": "rank_me"}
"""What is kept as its mean over every unit: what it is called, by what it is logged as."""


class RunHistory(LoggerDestination):
    """Keeps each logged loss, and the rank of features, as its mean over every unit, and each evaluation.

    Args:
        unit: The run's: epochs, or batches for runs in batches.
        batches: Of an epoch.
    """

    def __init__(self, unit: TimeUnit, batches: int) -> None:
        self._unit, self._batches = unit, batches
        self._losses: dict[str, dict[int, list[float]]] = {name: {} for name in _MEANS.values()}
        self._metrics: dict[str, list[list[float]]] = {}

    def init(self, state: State, logger: Logger) -> None:
        """Composer gives the state once."""
        self._state = state

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep what is a loss or measured on the test images."""
        for key, value in metrics.items():
            if key in _MEANS:
                # A loss is logged before the clock moves on, a rank after it, but within the epoch.
                moved = key == "mixtraining/rank_me" and self._unit is TimeUnit.BATCH
                time = self._state.timestamp.get(self._unit).value + (not moved)
                # NaN where a phase has no such term; what diverges has no mean.
                if math.isfinite(value):
                    sum_and_count = self._losses[_MEANS[key]].setdefault(time, [0.0, 0])
                    sum_and_count[0] += float(value)
                    sum_and_count[1] += 1
            elif key.startswith("metrics/eval/"):
                self._metrics.setdefault(key.removeprefix("metrics/eval/"), []).append([self._now(), float(value)])

    def points(self, metric: str) -> dict[str, list[list[float]]]:
        """By loss, by 'rank_me', and by 'accuracy' for ``metric``: each a list of [time, value]."""
        history = {
            name: [[time, total / count] for time, (total, count) in sorted(sums.items())]
            for name, sums in self._losses.items()
        }
        if not history["sl"] and not history["ssl"]:  # a run without phases logs one loss
            history["sl"] = history["total"]
        return {**history, "accuracy": self._metrics.get(metric, [])}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"losses": self._losses, "metrics": self._metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        # What a checkpoint from before does not know begins with it.
        self._losses, self._metrics = self._losses | state["losses"], state["metrics"]

    def _now(self) -> float:
        time = self._state.timestamp
        now: float = time.get(self._unit).value
        if self._unit == TimeUnit.EPOCH:  # the last evaluation comes after the last batch, before the epoch ends
            now += time.batch_in_epoch.value / self._batches
        return now
