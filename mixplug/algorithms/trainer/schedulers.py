"""The learning-rate schedules of a run: which Composer was given, and which of them start anew with each phase."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

from composer.core import State
from composer.optim import ComposerScheduler


class RestartingScheduler(ComposerScheduler):
    """A schedule that a clock, such as PhaseSwitch, has begin anew with each phase."""

    @abstractmethod
    def restart(self, state: State) -> None:
        """Set the learning rate for the first batch of a phase."""


def composer_schedulers(state: State) -> list[Any]:
    """The Composer schedulers of the run: of each, Composer made a LambdaLR, whose function closes over it."""
    functions = [f for schedule in state.schedulers for f in getattr(schedule, "lr_lambdas", [])]
    closed_over = (inspect.getclosurevars(f).nonlocals for f in functions if inspect.isfunction(f))
    return [names["scheduler"] for names in closed_over if "scheduler" in names]


def restarting_schedulers(state: State) -> list[RestartingScheduler]:
    """Those of the run that begin anew with each phase, in the order in which they set the learning rate."""
    return [scheduler for scheduler in composer_schedulers(state) if isinstance(scheduler, RestartingScheduler)]
