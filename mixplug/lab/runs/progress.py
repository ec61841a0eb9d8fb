"""How far a run is: a bar's numbers as it goes, and a line at the end of each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta

from composer.core import Callback, State, TimeUnit
from composer.loggers import Logger

from mixplug import PhaseSwitch
from mixplug.algorithms.trainer.contract import find, units_done

Progress = Callable[[float, float, str], None]
"""Called as ``progress(done, total, text)``, in units of average cost; what stands before a colon names the run."""

_EVERY = 0.1
"""Seconds between two calls, which is as often as anybody can read."""


class RunProgress(Callback):
    """Tells how far the run is.

    Args:
        progress: Called as the batches go, and at the end of each epoch.
        announce: Called at the end of each epoch with a line: mean losses, the accuracy where it was measured, images
            per second of training, and the time left.
        metric: Which of the model's metrics is the accuracy.
        work: How much of the run's work its first units are, of as many; bar and time left go by it.
    """

    def __init__(
        self,
        progress: Progress | None,
        announce: Callable[[str], None] | None,
        metric: str,
        work: Callable[[float], float],
    ) -> None:
        self._progress, self._announce, self._metric, self._work = progress, announce, metric, work
        self._losses: dict[str, list[float]] = {}
        self._measured: float | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin, or go on."""
        self._began, self._done_before = time.monotonic(), self._work(units_done(state))
        self._shown = 0.0
        self._phase = ""
        self._start_epoch(state)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Note the phase, which at the end of its last batch is over."""
        switch = find(state, PhaseSwitch)
        self._phase = "SL" if switch is None else switch.position(state).phase.value.upper()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Add up the losses, and move the bar."""
        for key, value in (state.total_loss_dict or {}).items():
            if math.isfinite(value):
                sum_and_count = self._losses.setdefault(key.removeprefix("loss/train/"), [0.0, 0])
                sum_and_count[0] += value
                sum_and_count[1] += 1
        now = time.monotonic()
        at_end_of_epoch = state.dataloader_len is not None and state.timestamp.batch_in_epoch == state.dataloader_len
        if self._progress is not None and (at_end_of_epoch or now >= self._shown + _EVERY):
            self._shown = now
            loss = state.total_loss_dict.get("loss/train/total", math.nan)
            total = _length(state)
            done = min(self._work(units_done(state)), total)
            self._progress(done, total, f"{self._phase}, {self._where(state)}, loss {loss:.3f}")

    def eval_end(self, state: State, logger: Logger) -> None:
        """Note the accuracy, which belongs to the epoch's line; in SSL nothing has trained the classifier yet."""
        if self._phase != "SSL":
            self._measured = float(state.eval_metric_values[self._metric])

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Say what the epoch was like; an evaluation at its end is over, but for some at the end of the run."""
        if units_done(state) < _length(state):
            self._end_epoch(state)

    def close(self, state: State, logger: Logger) -> None:
        """Say what the last epoch was like, of which a run in batches may have a part."""
        if self._losses and units_done(state) >= _length(state):
            self._end_epoch(state)

    def _start_epoch(self, state: State) -> None:
        self._losses = {}  # sums and counts of this epoch
        self._measured = None
        self._images_before, self._trained_before = state.timestamp.sample.value, _seconds(state)

    def _end_epoch(self, state: State) -> None:
        if self._announce is not None:
            self._announce(self._line(state))
        self._start_epoch(state)

    def _line(self, state: State) -> str:
        means = {name: total / count for name, (total, count) in self._losses.items()}
        terms = [f"{name} {means[name]:.3f}" for name in ("ssl", "sl") if self._phase == "MIX" and name in means]
        losses = f"loss {means.get('total', math.nan):.3f}" + (f" ({', '.join(terms)})" if terms else "")
        accuracy = [] if self._measured is None else [f"accuracy {100 * self._measured:.2f}%"]
        images = state.timestamp.sample.value - self._images_before
        rate = images / max(_seconds(state) - self._trained_before, 1e-9)
        total, done = _length(state), self._work(units_done(state))
        since = max(done - self._done_before, 1e-9)
        left = (time.monotonic() - self._began) / since * max(total - done, 0)
        parts = [losses, *accuracy, f"{rate:.0f} images/s", f"{timedelta(seconds=round(left))} left"]
        return f"{self._phase}, {self._where(state)}: {', '.join(parts)}"

    def _where(self, state: State) -> str:
        assert state.max_duration is not None
        unit, total = state.max_duration.unit, state.max_duration.value
        number = state.timestamp.get(unit).value
        if unit == TimeUnit.EPOCH and state.timestamp.batch_in_epoch.value:
            number += 1  # the one that is under way, or whose last batch is over
        return f"{unit.name.lower()} {number} of {total}"


def _length(state: State) -> float:
    assert state.max_duration is not None
    return state.max_duration.value


def _seconds(state: State) -> float:
    """Of training, evaluation excluded."""
    return state.timestamp.total_wct.total_seconds() if state.timestamp.total_wct else 0.0
