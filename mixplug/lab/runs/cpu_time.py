"""How much CPU time a run's training takes: about its wall-clock time on a core that nobody else uses."""

from __future__ import annotations

import time
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger


class CPUTime(Callback):
    """Counts the CPU time of training, of all threads, from where to where Composer counts its wall-clock time.

    Evaluation is left out, and checkpoints hold what has been counted. Processes of a loader's workers are not counted.
    """

    def __init__(self) -> None:
        self.seconds: float | None = 0.0
        """They, up to the last batch; None of a run that goes on from a checkpoint which does not say."""
        self._since = self._before_evaluation = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Training begins, or goes on."""
        if state.timestamp.batch.value and not self.seconds:
            self.seconds = None
        self._since = time.process_time()

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """A batch is over."""
        now = time.process_time()
        if self.seconds is not None:
            self.seconds += now - self._since
        self._since = now

    def eval_before_all(self, state: State, logger: Logger) -> None:
        """The clock stops."""
        self._before_evaluation = time.process_time()

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """The clock goes on."""
        self._since += time.process_time() - self._before_evaluation

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.seconds = state["seconds"]
