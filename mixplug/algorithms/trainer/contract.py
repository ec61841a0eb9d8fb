"""What mixplug's Composer Algorithms have in common: dispatch, order, the clock, and how they find each other."""

from __future__ import annotations

import functools
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from enum import IntEnum, auto
from typing import Any, TypeVar

import torch
from composer.core import Algorithm, Event, State, TimeUnit
from composer.loggers import Logger
from torch.nn.parallel import DistributedDataParallel

from mixplug.algorithms.trainer.optimizers import warn_of_fallback
from mixplug.objectives.settings import describe
from mixplug.schedules.phases import Phase, Position

A = TypeVar("A", bound="PhasedAlgorithm")


class Stage(IntEnum):
    """The place of an algorithm among mixplug's own, all of which come after everybody else's.

    At INIT ``state.algorithms`` is sorted by it, whatever order a user wrote; a bundle stands where the first of its
    parts must. Composer runs a list in its order, but at AFTER_* events in reverse. So mixplug comes first after
    something has happened: it mixes images of full size before others resize them, and reads what the model's pass
    left behind before others touch it. It comes last before something happens: the joint loss is formed at
    BEFORE_BACKWARD, when Composer's MixUp and CutMix have put their interpolated loss where the model's was.
    """

    CLOCK = auto()
    """Says where the run is, and starts each phase's learning rate: all others read it."""
    OPTIMIZER = auto()
    """Sets the optimizer for the phase, after its learning rate, from which some make their first state."""
    DATA = auto()
    """Chooses what an epoch passes over, and mixes batches."""
    VIEWS = auto()
    """Changes the images of a batch, mixed or not, before the encoder is shown any."""
    ENCODER = auto()
    """Assembles what the passes over the encoder are shown, runs the objective on them, and adds its loss."""
    LOSS = auto()
    """Weighs the losses that are there."""
    FURTHER_LOSS = auto()
    """Adds a term to the joint loss, and takes what it is made of before the objective's pass ends."""
    WEIGHTS = auto()
    """Judges the weights that all others have left."""
    RESUMPTION = auto()
    """Keeps random numbers, or puts them back, when everybody else has drawn theirs."""


class PhasedAlgorithm(Algorithm):
    """An Algorithm whose methods are named after the events they handle, as in Composer's callbacks.

    Of a bundle of several, :attr:`parts` are run in their order, at all events.
    """

    #: When it acts; see :class:`Stage`. A bundle's parts have theirs.
    stage: Stage
    #: The run it was last given to.
    _run: weakref.ref[State] | None = None

    @property
    def parts(self) -> tuple[PhasedAlgorithm, ...]:
        """The algorithms this one stands for: itself, unless it is a bundle."""
        return (self,)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it, by the constructor's arguments.

        Values are numbers, strings, collections of such, or objects that are known by their own constructor's
        arguments; see :func:`mixplug.objectives.settings.describe`. An argument that a checkpoint does not know counts
        as its default. Without settings, an algorithm changes no training.
        """
        return {}

    def progress(self) -> dict[str, Any]:
        """What a resumed run must know beyond the clock, as tensors and primitives."""
        return {}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Go on from what :meth:`progress` gave."""

    def state_dict(self) -> dict[str, Any]:
        """Settings and progress of each part, for the checkpoint, which ``trainer.checkpoints`` reads."""
        parts = {type(p).__name__: {"settings": describe(p.settings()), "progress": p.progress()} for p in self.parts}
        return {**super().state_dict(), "parts": parts}

    def match(self, event: Event, state: State) -> bool:
        """Whether this algorithm handles ``event``."""
        # Who has nothing to do is not run: for an algorithm that runs, Composer sorts, traces and logs, which takes
        # longer than most of them.
        return event in _ALWAYS or any(part.wants(event, state) for part in self._by_event[event.value])

    def wants(self, event: Event, state: State) -> bool:
        """Whether there is something to do at an ``event`` that this algorithm handles."""
        return True

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Handle ``event``."""
        if event is Event.INIT:
            _refuse_duplicates(state)
            warn_of_fallback(state.optimizers)
            self.join(state)
        if event is Event.FIT_START and (self._run is None or self._run() is not state):
            raise ValueError(
                f"this {type(self).__name__} was given to another Trainer after this one, and serves one at a "
                f"time; give each Trainer its own"
            )
        if event is Event.FIT_START and state.dataloader_len is not None and state.dataloader_len.value == 0:
            raise ValueError("the train_dataloader is empty: it has no batches; give it data or turn off drop_last")
        for part in self._by_event[event.value]:
            if part.wants(event, state):
                getattr(part, event.value)(state, logger)

    def join(self, state: State) -> None:
        """Run in ``state``, whose list of algorithms is put in order, and be added to it if need be."""
        self._run = weakref.ref(state)
        new = [] if self in state.algorithms else [self]
        state.algorithms = sorted([*state.algorithms, *new], key=_place)

    @functools.cached_property
    def _by_event(self) -> dict[str, list[PhasedAlgorithm]]:
        """The parts that handle an event, by its value; Composer asks two dozen times in a step."""
        return {event.value: [part for part in self.parts if hasattr(part, event.value)] for event in Event}

    def __str__(self) -> str:
        """The name alone: Composer makes this text anew for each algorithm at each event, to name its traces."""
        return type(self).__name__


_ALWAYS = frozenset({Event.INIT, Event.FIT_START})


class Clock(PhasedAlgorithm):
    """An algorithm that says where the run is."""

    stage = Stage.CLOCK

    @abstractmethod
    def position(self, state: State) -> Position:
        """Where the run is now; at its end, the end of its last phase."""

    @abstractmethod
    def phases(self, state: State) -> list[Phase]:
        """The phases that the run has, in their order."""


def position_of(state: State) -> Position:
    """Where the run is: its phase, and the progress in it and in the run, for an Algorithm or a Callback of one's own.

    Args:
        state: A Trainer's, during ``fit``. Without MixTraining or a PhaseSwitch the whole run is one MIX phase.

    Example:
        >>> position_of(state).phase  # doctest: +SKIP
        <Phase.SSL: 'ssl'>
    """
    clock = find(state, Clock)  # type: ignore[type-abstract]
    if clock is not None:
        return clock.position(state)
    progress = _elapsed(state)
    return Position(Phase.MIX, progress, progress, progress, state.timestamp.batch.value)


def _elapsed(state: State) -> float:
    """The share of the run that is over, to the batch: Composer counts whole epochs of a run in epochs."""
    elapsed = state.get_elapsed_duration()
    if elapsed is None or state.max_duration is None:
        return 0.0
    share = elapsed.value
    if state.max_duration.unit is TimeUnit.EPOCH and state.dataloader_len is not None:
        time = state.timestamp
        share += time.batch_in_epoch.value / max(1, state.dataloader_len.value) / state.max_duration.value
    return min(1.0, share)


def is_over(state: State) -> bool:
    """Whether all batches of the run have been trained; the end of its last epoch may be still to come."""
    assert state.max_duration is not None
    length = state.max_duration
    of_last_epoch = length.unit is TimeUnit.EPOCH and state.timestamp.epoch.value == length.value - 1
    return state.timestamp >= length or (of_last_epoch and is_last_batch(state))


def units_done(state: State) -> float:
    """What is over of the run, in its unit, to the batch."""
    assert state.max_duration is not None
    done: float = state.timestamp.get(state.max_duration.unit).value
    if state.max_duration.unit is TimeUnit.EPOCH and state.dataloader_len is not None:
        done += state.timestamp.batch_in_epoch.value / max(1, state.dataloader_len.value)
    return done


def is_last_batch(state: State) -> bool:
    """Whether the epoch's last batch is over, and the epoch is about to end."""
    return state.dataloader_len is not None and state.timestamp.batch_in_epoch == state.dataloader_len


def unwrapped_model(state: State) -> torch.nn.Module:
    """The user's model, without what synchronises it with other processes'."""
    return state.model.module if isinstance(state.model, DistributedDataParallel) else state.model


def find(state: State, kind: type[A]) -> A | None:
    """The algorithm of type ``kind`` that runs in ``state``, alone or inside of a bundle."""
    return find_in(state.algorithms, kind)


def find_in(algorithms: Iterable[Algorithm], kind: type[A]) -> A | None:
    """The algorithm of type ``kind`` among ``algorithms``, alone or inside of a bundle."""
    return next((part for part in parts_of(algorithms) if isinstance(part, kind)), None)


def parts_of(algorithms: Iterable[Algorithm]) -> list[PhasedAlgorithm]:
    """The algorithms of mixplug among ``algorithms``, each bundle as its parts."""
    ours = (a for a in algorithms if isinstance(a, PhasedAlgorithm))
    return [part for algorithm in ours for part in algorithm.parts]


def _place(algorithm: Algorithm) -> int:
    return min(part.stage for part in algorithm.parts) if isinstance(algorithm, PhasedAlgorithm) else 0


def _refuse_duplicates(state: State) -> None:
    names = [type(part).__name__ for part in parts_of(state.algorithms)]
    for name in names:
        if names.count(name) > 1:
            ours = [a for a in state.algorithms if isinstance(a, PhasedAlgorithm)]
            held = {type(a).__name__: [type(part).__name__ for part in a.parts] for a in ours if len(a.parts) > 1}
            bundles = "; ".join(f"{bundle} already holds {', '.join(parts)}" for bundle, parts in held.items())
            raise ValueError(
                f"algorithms={[type(a).__name__ for a in ours]} runs {name} {names.count(name)} times; use it once"
                f"{f' ({bundles})' if bundles else ''}"
            )
