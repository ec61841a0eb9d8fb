"""PhaseSwitch: divides a training run into SSL, MIX and SL phases (Li et al., Eq. 1 and Algorithm 1).

What it does
    Knows at each moment which phase the run is in, logs it, and changes the optimizer's settings at a switch.
    The phase is a function of the timestamp alone, so a resumed run needs no state of it.

On its own
    The optimizer's weight decay, betas or state change by phase; the loss stays the model's own. The other
    algorithms of mixplug read the phase from it; without it they take the whole run for one MIX phase.

Hyperparameters
    ``rho`` 0.5 and ``ssl_duration = sl_duration`` (Li et al., section 3.1). ``reset_optimizer=True`` with a
    :class:`mixplug.PhaseScheduler` gives each phase the fresh start that separate runs would.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from composer.core import State, Time, Timestamp, TimeUnit
from composer.loggers import Logger

from mixplug.algorithms.trainer.contract import PhasedAlgorithm, find
from mixplug.algorithms.trainer.optimizers import forget_state
from mixplug.checks import check_choice, check_real
from mixplug.schedules.phases import Phase, PhasePlan, Position, Ratio, exact_ratio

Duration = str | int | Time
_UNITS = (TimeUnit.EPOCH, TimeUnit.BATCH)


class PhaseSwitch(PhasedAlgorithm):
    """Divides a training run into SSL, MIX and SL phases.

    Args:
        rho: Mix ratio in [0, 1] (Li et al., Eq. 1).
        ssl_duration: Self-supervised learning in all, such as '100ep', '500ba' or 100 (epochs), MIX included.
        sl_duration: Supervised learning in all, in the same unit. With neither of the two the Trainer's
            ``max_duration`` is divided evenly; with both, ``max_duration`` must be their plan's total.
        optimizer_overrides: ``{phase: {option: value}}``: param group options other than the learning rate that
            hold in a phase, such as ``{'ssl': {'weight_decay': 0.15, 'betas': (0.9, 0.95)}}``. Groups without
            weight decay (biases, norms) keep none.
        reset_optimizer: Forget the optimizer's state (moments, step counts) at each switch.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or only one duration is given, or their units differ.
    """

    rank = 1

    def __init__(
        self,
        rho: Ratio = 0.5,
        ssl_duration: Duration | None = None,
        sl_duration: Duration | None = None,
        optimizer_overrides: Mapping[str | Phase, Mapping[str, Any]] | None = None,
        reset_optimizer: bool = False,
    ) -> None:
        exact_ratio(rho)  # checks it
        self.rho = rho
        self.ssl_duration = _parse("ssl_duration", ssl_duration)
        self.sl_duration = _parse("sl_duration", sl_duration)
        if (self.ssl_duration is None) != (self.sl_duration is None):
            raise ValueError(
                f"give both ssl_duration and sl_duration or neither, got {ssl_duration!r} and {sl_duration!r}"
            )
        if self.ssl_duration and self.sl_duration and self.ssl_duration.unit != self.sl_duration.unit:
            raise ValueError(
                f"ssl_duration and sl_duration must have one unit, got {ssl_duration!r} and {sl_duration!r}"
            )
        self.optimizer_overrides = _check_overrides(optimizer_overrides)
        if not isinstance(reset_optimizer, bool):
            raise TypeError(f"reset_optimizer must be True or False, got {reset_optimizer!r}")
        self.reset_optimizer = reset_optimizer
        self.phase_schedulers: list[Any] = []
        self._entered: Phase | None = None
        self._length: Time | None = None
        self._plan: tuple[Time, PhasePlan] | None = None
        self._known: tuple[Timestamp, Time | None, Position] | None = None
        self._base_options: list[list[dict[str, Any]]] = []

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "rho": str(exact_ratio(self.rho)),
            "ssl_duration": self.ssl_duration and self.ssl_duration.to_timestring(),
            "sl_duration": self.sl_duration and self.sl_duration.to_timestring(),
            "optimizer_overrides": repr({str(p): o for p, o in self.optimizer_overrides.items()}),
            "reset_optimizer": self.reset_optimizer,
        }

    def progress(self) -> dict[str, Any]:
        """See the base class."""
        return {"length": self._length and self._length.to_timestring()}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """See the base class."""
        self._known = None
        planned = progress.get("length")
        self._length = None if planned is None else Time.from_timestring(planned)

    def length(self, state: State) -> Time:
        """What the phases divide: the ``max_duration`` that the Trainer, or its first ``fit``, was given.

        Raises:
            ValueError: there is none, or it is in another unit than epochs or batches.
        """
        length = state.max_duration if self._length is None else self._length
        if length is None:
            raise ValueError("the phases need the run's length: give the Trainer a max_duration, such as '150ep'")
        return _check_unit(length)

    def plan(self, state: State) -> PhasePlan:
        """The plan of this run, in the unit of its length.

        Raises:
            ValueError: the length is unknown, in another unit, or not what the durations add up to.
        """
        length = self.length(state)
        if self._plan is None or (self._plan[0].value, self._plan[0].unit) != (length.value, length.unit):
            self._plan = (length, self._divide(length))
        return self._plan[1]

    def _divide(self, total: Time) -> PhasePlan:
        if self.ssl_duration is None or self.sl_duration is None:
            return PhasePlan.from_total(total.value, self.rho)
        plan = PhasePlan(self.ssl_duration.value, self.sl_duration.value, self.rho)
        fits = Time(plan.total, self.ssl_duration.unit)
        if (total.value, total.unit) != (fits.value, fits.unit):
            raise ValueError(
                f"ssl_duration={self.ssl_duration.to_timestring()!r} and sl_duration="
                f"{self.sl_duration.to_timestring()!r} with rho={self.rho} last {fits.to_timestring()!r} in all, but "
                f"max_duration is {total.to_timestring()!r}; set max_duration={fits.to_timestring()!r}"
            )
        return plan

    def position(self, state: State) -> Position:
        """Where the run is now; at its end, the end of its last phase."""
        # Asked for several times in a step: the clock is another object whenever it has moved.
        if self._known is not None and self._known[0] is state.timestamp and self._known[1] == state.dataloader_len:
            return self._known[2]
        position = self._position(state)
        self._known = (state.timestamp, state.dataloader_len, position)
        return position

    def _position(self, state: State) -> Position:
        plan, unit = self.plan(state), self.length(state).unit
        time = state.timestamp
        done: float = time.get(unit).value
        span = plan.span_at(done) if done < plan.total else plan.phases[-1]
        if unit == TimeUnit.EPOCH and state.dataloader_len is not None:
            done += time.batch_in_epoch.value / max(1, state.dataloader_len.value)
        return plan.position(min(done, span.stop), span, time.batch.value)

    def init(self, state: State, logger: Logger) -> None:
        """Remember the optimizer's own options, before a checkpoint can bring those of a later phase."""
        self._entered = self._known = None
        self._length = None
        self.phase_schedulers = []
        self._base_options = [[dict(g, params=None) for g in o.param_groups] for o in state.optimizers]
        for optimizer in state.optimizers:
            for options in self.optimizer_overrides.values():
                for option in options:
                    check_choice("an option of optimizer_overrides", option, _options_of(optimizer))

    def after_load(self, state: State, logger: Logger) -> None:
        """Refuse a duration that does not fit as soon as it is known."""
        self._known = None
        given, planned = state.max_duration, self._length
        if given is None:
            return
        if planned is not None and planned.to_timestring() != given.to_timestring():
            raise ValueError(
                f"the checkpoint is of a run whose phases were planned for {planned.to_timestring()!r}; max_duration="
                f"{given.to_timestring()!r} would divide it anew in the middle. Set max_duration="
                f"{planned.to_timestring()!r}, or load its weights alone: load_weights_only=True"
            )
        self._length = given
        self.plan(state)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Refuse a run that cannot be divided, or that would be divided anew in the middle."""
        until, planned = state.max_duration, self._length
        assert until is not None
        begun = state.timestamp.batch.value
        if planned is not None and until.unit != planned.unit:
            raise ValueError(
                f"this run's phases are planned for {planned.to_timestring()!r}, so a fit() must be in the same unit; "
                f"{until.to_timestring()!r} is not"
            )
        beyond = planned is None or until > planned
        if beyond and planned is not None and begun:
            raise ValueError(
                f"this run's phases were planned for {planned.to_timestring()!r}, and it has trained for {begun} "
                f"batches of them; max_duration={until.to_timestring()!r} would divide it anew in the middle. Build "
                f"the Trainer with a max_duration of all that you will train"
            )
        if beyond or planned is None:
            self._divide(_check_unit(until))
            self._length = until
        elif until < planned:
            warnings.warn(
                f"this fit() ends at {until.to_timestring()!r}, while the phases are planned for "
                f"{planned.to_timestring()!r}: call fit() again to go on, or build the Trainer with the max_duration "
                f"that you mean. What else counts in shares of the run (schedules other than PhaseScheduler, most of "
                f"Composer's algorithms) takes each fit() for the whole",
                stacklevel=2,
            )
        self.plan(state)
        self._entered = self._known = None

    def batch_start(self, state: State, logger: Logger) -> None:
        """Enter a phase at its first batch, and after resuming."""
        position = self.position(state)
        if position.phase is not self._entered:
            self._enter(position, state)
            self._entered = position.phase
        logger.log_metrics({"mixtraining/phase": list(Phase).index(position.phase)})

    def _enter(self, position: Position, state: State) -> None:
        for optimizer, base in zip(state.optimizers, self._base_options, strict=True):
            options = self.optimizer_overrides.get(position.phase, {})
            # Biases and norms in a group of their own without decay keep none; an optimizer without any is told to.
            some_decay = any(own.get("weight_decay") for own in base)
            for group, own in zip(optimizer.param_groups, base, strict=False):
                for option in {o for phase in self.optimizer_overrides.values() for o in phase}:
                    exempt = option == "weight_decay" and own[option] == 0 and some_decay
                    group[option] = own[option] if exempt else options.get(option, own[option])
        if position.progress == 0:  # the phase's very first batch, not a resumed run
            for scheduler in self.phase_schedulers:
                scheduler.restart(state)
            # After the learning rate is set: some optimizers (Rprop) make it part of their first state.
            if self.reset_optimizer and position.span is not None and position.span.start > 0:
                for optimizer in state.optimizers:
                    forget_state(optimizer)

    def __repr__(self) -> str:
        durations = [d and d.to_timestring() for d in (self.ssl_duration, self.sl_duration)]
        overrides = {str(phase): options for phase, options in self.optimizer_overrides.items()}
        return (
            f"{type(self).__name__}(rho={self.rho!r}, ssl_duration={durations[0]!r}, sl_duration={durations[1]!r}, "
            f"optimizer_overrides={overrides!r}, reset_optimizer={self.reset_optimizer!r})"
        )


def position_of(state: State) -> Position:
    """Where the run is; without a PhaseSwitch the whole run is one MIX phase."""
    switch = find(state, PhaseSwitch)
    if switch is not None:
        return switch.position(state)
    elapsed = state.get_elapsed_duration()
    progress = 0.0 if elapsed is None else min(1.0, elapsed.value)
    return Position(Phase.MIX, progress, progress, progress, state.timestamp.batch.value)


def _check_unit(length: Time) -> Time:
    if length.unit not in _UNITS:
        raise ValueError(f"max_duration={length.to_timestring()!r} must be in epochs ('ep') or batches ('ba')")
    return length


def _parse(name: str, duration: Duration | None) -> Time | None:
    if duration is None:
        return None
    if isinstance(duration, bool) or not isinstance(duration, (str, int, Time)):
        raise TypeError(f"{name} must be like '100ep', '500ba' or 100 (epochs), got {duration!r}")
    try:
        time = Time.from_input(duration, TimeUnit.EPOCH)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be like '100ep', '500ba' or 100 (epochs), got {duration!r}") from error
    if time.unit not in _UNITS or time.value != int(time.value) or time.value < 1:
        raise ValueError(f"{name} must be at least one whole epoch ('1ep') or batch ('1ba'), got {duration!r}")
    return Time(int(time.value), time.unit)


def _check_overrides(overrides: Mapping[Any, Mapping[str, Any]] | None) -> dict[Phase, dict[str, Any]]:
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(
            f"optimizer_overrides must map phases to options, such as {{'ssl': {{'weight_decay': 0.15}}}}; "
            f"got {overrides!r}"
        )
    checked = {}
    for phase, options in (overrides or {}).items():
        check_choice("a phase of optimizer_overrides", phase, [p.value for p in Phase])
        if not isinstance(options, Mapping):
            raise TypeError(f"optimizer_overrides[{str(phase)!r}] must map options to values, got {options!r}")
        if "lr" in options or "params" in options:
            raise ValueError("optimizer_overrides cannot set 'lr' or 'params'; PhaseScheduler sets learning rates")
        checked[Phase(phase)] = {name: _check_option(str(phase), name, value) for name, value in options.items()}
    return checked


def _check_option(phase: str, name: str, value: Any) -> Any:
    where = f"optimizer_overrides[{phase!r}][{name!r}]"
    if name in ("weight_decay", "eps", "momentum", "dampening"):
        return check_real(where, value, 0, float("inf"), high_open=True)
    if name == "betas":
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ValueError(f"{where} must be two numbers in [0, 1), such as (0.9, 0.95); got {value!r}")
        return tuple(check_real(where, beta, 0, 1, high_open=True) for beta in value)
    return value


def _options_of(optimizer: Any) -> list[str]:
    return [option for option in optimizer.param_groups[0] if option not in ("params", "lr", "initial_lr")]
