"""Losses, RankMe, accuracy and settings over a run, which checkpoints hold.

A resumed run has an uninterrupted one's history.
"""

from __future__ import annotations

import math
from typing import Any

from composer.core import State, TimeUnit
from composer.loggers import Logger, LoggerDestination

_MEANS = {f"loss/train/{name}": name for name in ("total", "ssl", "sl")} | {"mixtraining/rank_me": "rank_me"}
"""What is kept as its mean over every unit: what it is called, by what it is logged as."""


class RunHistory(LoggerDestination):
    """Keeps each logged loss, the rank of features and what steps begin with as means over units, and each evaluation.

    Args:
        unit: The run's: epochs, or batches for runs in batches.
        batches: Of an epoch.
    """

    def __init__(self, unit: TimeUnit, batches: int) -> None:
        self._unit, self._batches = unit, batches
        self._losses: dict[str, dict[int, list[float]]] = {name: {} for name in _MEANS.values()}
        self._settings: dict[str, dict[int, list[float]]] = {}
        self._metrics: dict[str, list[list[float]]] = {}
        self._step_begins = False

    def init(self, state: State, logger: Logger) -> None:
        """Composer gives the state once."""
        self._state = state

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """What is logged from here to the forward pass is what schedules say of the step."""
        self._step_begins = True

    def before_forward(self, state: State, logger: Logger) -> None:
        """Note the learning rate and the momentum, too, of the first of the optimizer's groups."""
        if self._step_begins:  # once for all microbatches
            self._step_begins = False
            group = state.optimizers[0].param_groups[0]
            self._add(self._settings, "learning_rate", self._under_way(), float(group["lr"]))
            momentum = group["betas"][0] if "betas" in group else group.get("momentum")
            if momentum is not None:
                self._add(self._settings, "optimizer_momentum", self._under_way(), float(momentum))

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep what is a loss, a setting, or measured on the test images."""
        for key, value in metrics.items():
            if self._step_begins and key.startswith("mixtraining/"):
                if key != "mixtraining/phase":  # which lengths say
                    self._add(self._settings, key.removeprefix("mixtraining/"), self._under_way(), float(value))
            elif key in _MEANS:
                # A loss is logged before the clock moves on, a rank after it, but within the epoch.
                moved = key == "mixtraining/rank_me" and self._unit is TimeUnit.BATCH
                # NaN where a phase has no such term; what diverges has no mean.
                if math.isfinite(value):
                    self._add(self._losses, _MEANS[key], self._under_way() - moved, float(value))
            elif key.startswith("metrics/eval/"):
                self._metrics.setdefault(key.removeprefix("metrics/eval/"), []).append([self._now(), float(value)])

    def points(self, metric: str) -> dict[str, list[list[float]]]:
        """By loss, by 'rank_me', and by 'accuracy' for ``metric``: each a list of [time, value]."""
        history = _means(self._losses)
        if not history["sl"] and not history["ssl"]:  # a run without phases logs one loss
            history["sl"] = history["total"]
        return {**history, "accuracy": self._metrics.get(metric, [])}

    def settings(self) -> dict[str, list[list[float]]]:
        """By name, the points [time, value] between which each setting is on straight lines."""
        return {name: _corners(points) for name, points in _means(self._settings).items()}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"losses": self._losses, "metrics": self._metrics, "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        # What a checkpoint from before does not know begins with it.
        self._losses, self._metrics = self._losses | state["losses"], state["metrics"]
        self._settings = state.get("settings", {})

    @staticmethod
    def _add(sums: dict[str, dict[int, list[float]]], name: str, time: int, value: float) -> None:
        sum_and_count = sums.setdefault(name, {}).setdefault(time, [0.0, 0])
        sum_and_count[0] += value
        sum_and_count[1] += 1

    def _under_way(self) -> int:
        """The number of the unit that has begun, from 1: where it ends."""
        number: int = self._state.timestamp.get(self._unit).value + 1
        return number

    def _now(self) -> float:
        time = self._state.timestamp
        now: float = time.get(self._unit).value
        if self._unit == TimeUnit.EPOCH:  # the last evaluation comes after the last batch, before the epoch ends
            now += time.batch_in_epoch.value / self._batches
        return now


def _means(sums: dict[str, dict[int, list[float]]]) -> dict[str, list[list[float]]]:
    return {name: [[t, total / count] for t, (total, count) in sorted(of.items())] for name, of in sums.items()}


def _corners(points: list[list[float]]) -> list[list[float]]:
    """``points`` without those inside of a stretch of equal values."""
    inner = zip(points, points[1:], points[2:], strict=False)
    return [*points[:1], *(here for last, here, next in inner if not last[1] == here[1] == next[1]), *points[1:][-1:]]
