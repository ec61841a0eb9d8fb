"""OptimizerSettings: weight decay, betas and the like by phase, and a fresh start at a switch (Li et al., Table 7).

What it does
    Sets options of the optimizer's param groups in the phases that name them, and puts the optimizer's own back in the
    others. With ``reset`` it forgets the optimizer's state (moments, step counts) where a phase follows another.

When to use it
    It is part of MixTraining. With a PhaseSwitch alone, or another clock, it changes the optimizer and nothing else;
    without one the whole run is one MIX phase.

Hyperparameters
    ``reset=True`` with a :class:`mixplug.PhaseScheduler` gives each phase the fresh start that separate runs would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from composer.core import State
from composer.loggers import Logger

from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage, position_of
from mixplug.algorithms.trainer.optimizers import forget_state
from mixplug.checks import check_bool, check_choice, check_real
from mixplug.schedules.phases import Phase, Position

Overrides = Mapping[str | Phase, Mapping[str, Any]]


class OptimizerSettings(PhasedAlgorithm):
    """Changes the optimizer's options and forgets its state by phase.

    Args:
        overrides: ``{phase: {option: value}}``: param group options other than the learning rate that hold in a
            phase, such as ``{'ssl': {'weight_decay': 0.15, 'betas': (0.9, 0.95)}}``. Groups without weight decay
            (biases, norms) keep none.
        reset: Forget the optimizer's state (moments, step counts) at each switch.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such phase, or a value is out of range; at INIT, the optimizer has no such option.
    """

    stage = Stage.OPTIMIZER

    def __init__(self, overrides: Overrides | None = None, reset: bool = False) -> None:
        self.overrides = _check_overrides(overrides)
        self.reset = check_bool("the optimizer's reset", reset)
        self._entered: Phase | None = None
        self._own_options: list[list[dict[str, Any]]] = []

    def settings(self) -> dict[str, Any]:
        """See the base class: with neither it changes no training."""
        return {"overrides": self.overrides or None, "reset": self.reset} if self.overrides or self.reset else {}

    def init(self, state: State, logger: Logger) -> None:
        """Remember the optimizer's own options, before a checkpoint can bring those of a later phase."""
        self._entered = None
        self._own_options = [[dict(g, params=None) for g in o.param_groups] for o in state.optimizers]
        for optimizer in state.optimizers:
            for option in self._options:
                check_choice("an option of the optimizer's overrides", option, _options_of(optimizer))

    def fit_start(self, state: State, logger: Logger) -> None:
        """Set the options anew: a checkpoint may have brought others."""
        self._entered = None

    def batch_start(self, state: State, logger: Logger) -> None:
        """Enter a phase at its first batch, and after resuming."""
        position = position_of(state)
        if position.phase is self._entered:
            return
        self._entered = position.phase
        self._set_options(state, position.phase)
        if self.reset and _follows_another(position):
            for optimizer in state.optimizers:
                forget_state(optimizer)

    @property
    def _options(self) -> list[str]:
        """The options that some phase overrides."""
        return sorted({option for options in self.overrides.values() for option in options})

    def _set_options(self, state: State, phase: Phase) -> None:
        overridden = self.overrides.get(phase, {})
        for optimizer, groups in zip(state.optimizers, self._own_options, strict=True):
            # Biases and norms in a group of their own without decay keep none; an optimizer without any is told to.
            some_decay = any(own.get("weight_decay") for own in groups)
            for group, own in zip(optimizer.param_groups, groups, strict=False):
                for option in self._options:
                    exempt = option == "weight_decay" and own[option] == 0 and some_decay
                    group[option] = own[option] if exempt else overridden.get(option, own[option])

    def __repr__(self) -> str:
        overrides = {str(phase): options for phase, options in self.overrides.items()}
        return f"{type(self).__name__}(overrides={overrides!r}, reset={self.reset!r})"


def _follows_another(position: Position) -> bool:
    """Whether this is the very first batch of a phase, not a resumed run, and not the first phase."""
    return position.progress == 0 and position.span is not None and position.span.start > 0


def _check_overrides(overrides: Mapping[Any, Mapping[str, Any]] | None) -> dict[Phase, dict[str, Any]]:
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(
            f"the optimizer's overrides must map phases to options, such as {{'ssl': {{'weight_decay': 0.15}}}}; "
            f"got {overrides!r}"
        )
    checked = {}
    for phase, options in (overrides or {}).items():
        check_choice("a phase of the optimizer's overrides", phase, [p.value for p in Phase])
        if not isinstance(options, Mapping):
            raise TypeError(f"the optimizer's overrides[{str(phase)!r}] must map options to values, got {options!r}")
        if "lr" in options or "params" in options:
            raise ValueError(
                f"the optimizer's overrides[{str(phase)!r}] cannot set 'lr' or 'params', got {options!r}; "
                f"PhaseScheduler sets learning rates"
            )
        checked[Phase(phase)] = {name: _check_option(str(phase), name, value) for name, value in options.items()}
    return checked


def _check_option(phase: str, name: str, value: Any) -> Any:
    title = f"the optimizer's overrides[{phase!r}][{name!r}]"
    if name in ("weight_decay", "eps", "momentum", "dampening"):
        return check_real(title, value, 0, float("inf"), high_open=True)
    if name == "betas":
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ValueError(f"{title} must be two numbers in [0, 1), such as (0.9, 0.95); got {value!r}")
        return tuple(check_real(title, beta, 0, 1, high_open=True) for beta in value)
    return value


def _options_of(optimizer: Any) -> list[str]:
    return [option for option in optimizer.param_groups[0] if option not in ("params", "lr", "initial_lr")]
