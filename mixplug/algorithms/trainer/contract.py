"""What mixplug's Composer Algorithms have in common: dispatch, order, and how they find each other."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from composer.core import Algorithm, Event, State
from composer.loggers import Logger

A = TypeVar("A", bound="PhasedAlgorithm")


class PhasedAlgorithm(Algorithm):
    """An Algorithm whose methods are named after the events they handle, as in Composer's callbacks.

    mixplug's algorithms must come last in ``state.algorithms``, in one order among themselves: then they mix
    full-size images before others resize them, read what the pass left behind before others touch it (Composer
    runs AFTER_* events in reverse) and form the joint loss after MixUp and CutMix have had theirs. A user need
    not know: at INIT the list is put in order, whatever order it was written in.
    """

    #: Place among mixplug's own algorithms.
    rank = 0
    #: The run it was last given to.
    _run: weakref.ref[State] | None = None

    @property
    def parts(self) -> tuple[PhasedAlgorithm, ...]:
        """The algorithms this one stands for: itself, unless it is a bundle."""
        return (self,)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it, as primitives."""
        return {}

    def progress(self) -> dict[str, Any]:
        """What a resumed run must know beyond the clock, as tensors and primitives."""
        return {}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Go on from what :meth:`progress` gave."""

    def state_dict(self) -> dict[str, Any]:
        """Settings and progress of each part, for the checkpoint, which ``trainer.checkpoints`` reads."""
        parts = {type(p).__name__: {"settings": p.settings(), "progress": p.progress()} for p in self.parts}
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
        state.algorithms = sorted([*state.algorithms, *new], key=_rank)

    @functools.cached_property
    def _by_event(self) -> dict[str, list[PhasedAlgorithm]]:
        """The parts that handle an event, by its value; Composer asks two dozen times in a step."""
        return {event.value: [part for part in self.parts if hasattr(part, event.value)] for event in Event}

    def __str__(self) -> str:
        """The name alone: Composer makes this text anew for each algorithm at each event, to name its traces."""
        return type(self).__name__


_ALWAYS = frozenset({Event.INIT, Event.FIT_START})


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


def _rank(algorithm: Algorithm) -> int:
    return 1 + algorithm.rank if isinstance(algorithm, PhasedAlgorithm) else 0


def _refuse_duplicates(state: State) -> None:
    names = [type(part).__name__ for part in parts_of(state.algorithms)]
    for name in names:
        if names.count(name) > 1:
            given = [type(a).__name__ for a in state.algorithms if isinstance(a, PhasedAlgorithm)]
            raise ValueError(
                f"algorithms={given} runs {name} {names.count(name)} times; use it once (MixTraining already holds "
                f"PhaseSwitch, MixupSSLData, FusedBackbonePass, JointLoss and ExactResumption)"
            )
