"""A method of a recipe on its Trainer, brought to any place of its training and run there for a few steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from composer.core import Callback, Event, State, Time, Timestamp, TimeUnit
from composer.loggers import Logger

from mixplug import MixupSSLData, PhaseSwitch
from mixplug.algorithms.trainer.contract import find_in
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.experiment import Experiment
from mixplug.schedules.phases import Phase, PhaseSpan


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

    def begun(self, progress: float) -> int:
        """Whole units of the phase that are over at ``progress`` in [0, 1)."""
        return math.floor(progress * self.span.length)


class MethodOnTrainer:
    """A method of a recipe, ready to be run for a few steps at any place of its training.

    The Trainer is the very one of ``mixplug compare``, but for evaluation, which is no part of training latency. Its
    clock is set to the place before each block of steps, so phases, ramps and schedules are what they are there, and
    set back to it where the phase would end before the block does. The weights are not: they go on from block to block,
    and what other algorithms do to the model for good as epochs end (LayerFreezing) is not there.

    Args:
        experiment: The run, which is not to be used for anything else.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.trainer = experiment.trainer
        self.state = experiment.trainer.state
        self.model = experiment.model
        self._length = experiment.max_duration
        self._batches = len(experiment.inputs.train)
        self._steps = _Steps()
        self.state.callbacks.append(self._steps)
        self.state.evaluators = []
        self.trainer.spin_dataloaders = False  # the order of images costs nothing
        self.stages = self._stages(experiment)
        switch = find_in(experiment.algorithms, PhaseSwitch)
        self.rho = None if switch is None else float(switch.rho)

    def _stages(self, experiment: Experiment) -> list[Stage]:
        found = []
        data, ssl = find_in(experiment.algorithms, MixupSSLData), experiment.inputs.ssl
        for span in experiment.plan.phases:
            # With other SSL data an epoch of SSL is a pass over it, and side by side one of MIX is.
            over_ssl_data = ssl is not None and data is not None and span.phase in data.over_ssl_data
            batches = len(ssl) if ssl is not None and over_ssl_data else self._batches
            if data is not None and data.ssl_epoch == "labelled" and span.phase is Phase.SSL:
                batches = min(batches, self._batches)
            steps = span.length * (batches if self._length.unit is TimeUnit.EPOCH else 1)
            found.append(Stage(span.phase, span, steps))
        return found

    def run(self, stage: Stage, progress: float, steps: int, watch: Callback | None = None) -> list[float]:
        """Seconds of each of ``steps`` steps, begun at ``progress`` in [0, 1) of ``stage``, after one that warms up.

        A step's time is that from the end of the one before to its own end: loading its batch is part of it. The last
        batch of an epoch counts only if it is no smaller.

        Args:
            stage: One of ``self.stages``.
            progress: How far the stage is.
            steps: How many to time; 0 for the one that warms up alone.
            watch: A callback that is there for these steps.
        """
        at, unit = stage.span.start + stage.begun(progress), self._length.unit
        place = Timestamp(epoch=at, batch=at * self._batches) if unit is TimeUnit.EPOCH else Timestamp(batch=at)
        self.state.timestamp = place
        self.state.max_duration = Time(self._length.value, unit)
        self._steps.begin(steps, place, Time(stage.span.stop, unit))
        if watch is not None:
            self.state.callbacks.append(watch)
        try:
            self.trainer.fit()
        finally:
            if watch is not None:
                self.state.callbacks.remove(watch)
        return self._steps.seconds

    @property
    def images(self) -> int:
        """Images of a step, of those run last."""
        return self._steps.images

    def close(self) -> None:
        """Let go of the Trainer."""
        close_trainer(self.trainer)


class _Steps(Callback):
    """Times steps, keeps the clock in the phase, and ends the fit after as many as were asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.images = 0
        self._wanted = 0
        self._end: float | None = None
        self._place = Timestamp()
        self._until = Time(0, TimeUnit.EPOCH)

    def begin(self, steps: int, place: Timestamp, until: Time) -> None:
        self.seconds, self._wanted, self._end = [], steps, None
        self._place, self._until = place, until

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.BATCH_END:
            assert state.previous_timestamp is not None
            self._note(state.timestamp.sample.value - state.previous_timestamp.sample.value)
            self._stay(state)
            if self._is_done:
                state.stop_training()
        elif event is Event.EPOCH_END and not self._is_done:
            self._stay(state)

    def _note(self, images: int) -> None:
        now = time.perf_counter()
        if self._end is None:
            self.images = images  # an epoch begins with a full batch
        elif images == self.images:
            self.seconds.append(now - self._end)
        self._end = now

    def _stay(self, state: State) -> None:
        if state.timestamp >= self._until:
            state.timestamp = self._place

    @property
    def _is_done(self) -> bool:
        return self._end is not None and len(self.seconds) == self._wanted
