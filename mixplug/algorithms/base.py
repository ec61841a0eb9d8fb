"""What mixplug's Composer Algorithms have in common: dispatch, order, and how they find each other."""

from __future__ import annotations

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

    @property
    def parts(self) -> tuple[PhasedAlgorithm, ...]:
        """The algorithms this one stands for: itself, unless it is a bundle."""
        return (self,)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it, as primitives."""
        return {name: value for part in self.parts if part is not self for name, value in part.settings().items()}

    def began_with(self) -> str | None:
        """The run's ``max_duration`` that its phases were planned for, None if this algorithm plans none."""
        return next((part.began_with() for part in self.parts if part is not self), None)

    def resume(self, began_with: str | None) -> None:
        """Go on with a run whose phases were planned for ``began_with``."""
        for part in self.parts:
            if part is not self:
                part.resume(began_with)

    def state_dict(self) -> dict[str, Any]:
        """The settings and the planned duration, for the checkpoint."""
        return {**super().state_dict(), "settings": self.settings(), "began_with": self.began_with()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare the checkpoint's settings with these.

        Raises:
            ValueError: they differ; a run that went on would be neither the one nor the other.
        """
        saved, now = state.get("settings", {}), self.settings()
        different = [name for name in now if name in saved and saved[name] != now[name]]
        if different:
            differences = "; ".join(f"{name} was {saved[name]} and is {now[name]}" for name in different)
            raise ValueError(
                f"the checkpoint is of a {type(self).__name__} with other settings: {differences}. Resume with the "
                f"checkpoint's settings, or load its weights alone: load_weights_only=True, and with another SSL head "
                f"load_strict_model_weights=False"
            )
        self.resume(state.get("began_with"))

    def match(self, event: Event, state: State) -> bool:
        """Whether this algorithm handles ``event``."""
        return event in (Event.INIT, Event.FIT_START) or any(_handler(part, event) for part in self.parts)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Handle ``event``."""
        if event is Event.INIT:
            _refuse_duplicates(state)
            state.algorithms = sorted(state.algorithms, key=_rank)
        if event is Event.FIT_START and state.dataloader_len is not None and state.dataloader_len.value == 0:
            raise ValueError("the train_dataloader is empty: it has no batches; give it data or turn off drop_last")
        for part in self.parts:
            handler = _handler(part, event)
            if handler is not None:
                handler(state, logger)


def find(state: State, kind: type[A]) -> A | None:
    """The algorithm of type ``kind`` that runs in ``state``, alone or inside of a bundle."""
    return find_in(state.algorithms, kind)


def find_in(algorithms: Iterable[Algorithm], kind: type[A]) -> A | None:
    """The algorithm of type ``kind`` among ``algorithms``, alone or inside of a bundle."""
    return next((part for part in _parts_of(algorithms) if isinstance(part, kind)), None)


def _parts_of(algorithms: Iterable[Algorithm]) -> list[PhasedAlgorithm]:
    ours = (a for a in algorithms if isinstance(a, PhasedAlgorithm))
    return [part for algorithm in ours for part in algorithm.parts]


def _rank(algorithm: Algorithm) -> int:
    return 1 + algorithm.rank if isinstance(algorithm, PhasedAlgorithm) else 0


def _handler(part: PhasedAlgorithm, event: Event) -> Any:
    return getattr(part, event.value, None)


def _refuse_duplicates(state: State) -> None:
    names = [type(part).__name__ for part in _parts_of(state.algorithms)]
    for name in names:
        if names.count(name) > 1:
            given = [type(a).__name__ for a in state.algorithms if isinstance(a, PhasedAlgorithm)]
            raise ValueError(
                f"algorithms={given} runs {name} {names.count(name)} times; use it once (MixTraining already holds "
                f"PhaseSwitch, MixupSSLData, FusedBackbonePass and JointLoss)"
            )
