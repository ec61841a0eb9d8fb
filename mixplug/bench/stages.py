"""A method of a recipe on its Trainer, brought to any place of its training and run there for a few steps."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

from composer.core import Callback, Event, State, Time, Timestamp, TimeUnit
from composer.loggers import Logger

from mixplug.algorithms import PhaseSwitch
from mixplug.algorithms.base import find_in
from mixplug.experiment import Experiment
from mixplug.phases import Phase, PhaseSpan


@dataclass(frozen=True)
class Stage:
    """A stretch of a method's training in which all steps are of one kind.

    Attributes:
        phase: Its phase; a method without phases has one, MIX if it has a self-supervised objective, else SL.
        span: From when to when, in the training's own unit.
        steps: Its optimizer steps.
    """

    phase: Phase
    span: PhaseSpan
    steps: int


class MethodOnTrainer:
    """A method of a recipe, ready to be run for a few steps at any place of its training.

    The Trainer is the very one of ``mixplug compare``, but for evaluation, which is no part of training latency. Its
    clock is set to the place before each block of steps, so phases, ramps and schedules are what they are there. The
    weights are not: they go on from block to block.

    Args:
        experiment: The run, which is not to be used for anything else.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.trainer = experiment.trainer
        self.state = experiment.trainer.state
        self.model = experiment.model
        self._length = experiment.max_duration
        self._batches = len(experiment.inputs.train)
        self._stop = _Stop()
        self.state.callbacks.append(self._stop)
        self.state.evaluators = []
        self.trainer.spin_dataloaders = False  # the order of images costs nothing
        self.stages = self._stages(experiment)
        switch = find_in(experiment.algorithms, PhaseSwitch)
        self.rho = None if switch is None else float(switch.rho)

    def _stages(self, experiment: Experiment) -> list[Stage]:
        if experiment.plan is None:
            phase = Phase.SL if getattr(self.model, "ssl_objective", None) is None else Phase.MIX
            spans: tuple[PhaseSpan, ...] = (PhaseSpan(phase, 0, self._length.value),)
        else:
            spans = experiment.plan.phases
        found = []
        for span in spans:
            # With other images for self-supervised learning an epoch of it is an epoch of those.
            ssl = experiment.inputs.ssl
            batches = len(ssl) if ssl is not None and span.phase is Phase.SSL else self._batches
            steps = span.length * (batches if self._length.unit is TimeUnit.EPOCH else 1)
            found.append(Stage(span.phase, span, steps))
        return found

    def run(self, stage: Stage, progress: float, steps: int, watch: Callback | None = None) -> list[float]:
        """Seconds of each of ``steps`` steps, begun at ``progress`` in [0, 1) of ``stage``, after one that warms up.

        A step's time is that from the end of the one before to its own end: loading its batch is part of it.

        Args:
            stage: One of ``self.stages``.
            progress: How far the stage is.
            steps: How many to time; 0 for the one that warms up alone.
            watch: A callback that is there for these steps.
        """
        at = stage.span.start + math.floor(progress * stage.span.length)
        epoch = at if self._length.unit is TimeUnit.EPOCH else 0
        batch = at * self._batches if self._length.unit is TimeUnit.EPOCH else at
        self.state.timestamp = Timestamp(epoch=epoch, batch=batch)
        self.state.max_duration = Time(self._length.value, self._length.unit)
        self._stop.after(steps + 1)
        if watch is not None:
            self.state.callbacks.append(watch)
        try:
            self.trainer.fit()
        finally:
            if watch is not None:
                self.state.callbacks.remove(watch)
        ends = self._stop.ends
        return [end - begin for begin, end in itertools.pairwise(ends)]

    @property
    def most(self) -> int:
        """How many steps can be timed at once without the last batch of an epoch, which may be smaller; at least 1."""
        return max(1, self._batches - 2)

    @property
    def images(self) -> float:
        """Images of a step, of those run last."""
        return self._stop.images

    def close(self) -> None:
        """Let go of the Trainer."""
        self.trainer.close()


class _Stop(Callback):
    """Notes when steps end, and ends the fit after as many as were asked for."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.images = 0.0
        self._left = 0

    def after(self, steps: int) -> None:
        self.ends, self._left = [], steps

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.BATCH_END:
            self.ends.append(time.perf_counter())
            self.images = state.timestamp.sample.value / len(self.ends)  # the clock was set back to no images
            self._left -= 1
            if not self._left:
                state.stop_training()
