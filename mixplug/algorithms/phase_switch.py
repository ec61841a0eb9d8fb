"""PhaseSwitch: divides a training run into SSL, MIX and SL phases (Li et al., Eq. 1 and Algorithm 1).

What it does
    Knows at each moment where the run is, logs the phase, and has a :class:`mixplug.PhaseScheduler` begin anew with
    each. The phase is a function of the timestamp alone, so a resumed run needs no state of it.

On its own
    It changes nothing. The other algorithms of mixplug read the phase from it, such as
    :class:`mixplug.OptimizerSettings`; without it they take the whole run for one MIX phase.

Hyperparameters
    ``rho`` 0.5 and ``ssl_duration = sl_duration`` (Li et al., section 3.1). ``sl_duration='0ep'`` is self-supervised
    learning alone, ``ssl_duration='0ep'`` supervised learning alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from composer.core import State, Time, Timestamp, TimeUnit
from composer.loggers import Logger

from mixplug.algorithms.trainer.contract import Clock
from mixplug.algorithms.trainer.schedulers import restarting_schedulers
from mixplug.schedules.phases import RHO, Phase, PhasePlan, Position, Ratio, exact_ratio

Duration = str | int | Time
_UNITS = (TimeUnit.EPOCH, TimeUnit.BATCH)


class PhaseSwitch(Clock):
    """Divides a training run into SSL, MIX and SL phases.

    Args:
        rho: Mix ratio in [0, 1] (Li et al., Eq. 1).
        ssl_duration: Self-supervised learning in all, such as '100ep', '500ba' or 100 (epochs), MIX included; 0 for
            supervised learning alone.
        sl_duration: Supervised learning in all, in the same unit; 0 for self-supervised learning alone. With neither
            of the two the Trainer's ``max_duration`` is divided evenly; with both, ``max_duration`` must be their
            plan's total.

    Warns:
        UserWarning: the run is too short for a MIX phase, or a fit ends before the planned run does.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or only one duration is given, or their units differ, or both are 0.
    """

    def __init__(
        self,
        rho: Ratio = RHO,
        ssl_duration: Duration | None = None,
        sl_duration: Duration | None = None,
    ) -> None:
        exact_ratio(rho)  # checks it
        self.rho = rho
        self.ssl_duration = _parse("ssl_duration", ssl_duration)
        self.sl_duration = _parse("sl_duration", sl_duration)
        if (self.ssl_duration is None) != (self.sl_duration is None):
            raise ValueError(
                f"give both ssl_duration and sl_duration or neither, got {ssl_duration!r} and {sl_duration!r}"
            )
        if self.ssl_duration is not None and self.sl_duration is not None:
            if self.ssl_duration.unit != self.sl_duration.unit:
                raise ValueError(
                    f"ssl_duration and sl_duration must have one unit, got {ssl_duration!r} and {sl_duration!r}"
                )
            if not self.ssl_duration.value + self.sl_duration.value:
                raise ValueError(
                    f"ssl_duration={ssl_duration!r} and sl_duration={sl_duration!r} leave nothing to train; give one "
                    f"of them at least '1{self.ssl_duration.unit.value}'"
                )
        self._entered: Phase | None = None
        self._length: Time | None = None
        self._plan: tuple[Time, PhasePlan] | None = None
        self._known: tuple[Timestamp, Time | None, Position] | None = None

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "rho": str(exact_ratio(self.rho)),
            "ssl_duration": _written(self.ssl_duration),
            "sl_duration": _written(self.sl_duration),
        }

    def progress(self) -> dict[str, Any]:
        """See the base class."""
        return {"length": _written(self._length)}

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
        """See the base class."""
        # Asked for several times in a step: the clock is another object whenever it has moved.
        if self._known is not None and self._known[0] is state.timestamp and self._known[1] == state.dataloader_len:
            return self._known[2]
        position = self._position(state)
        self._known = (state.timestamp, state.dataloader_len, position)
        return position

    def phases(self, state: State) -> list[Phase]:
        """See the base class."""
        return [span.phase for span in self.plan(state).phases]

    def _position(self, state: State) -> Position:
        plan, unit = self.plan(state), self.length(state).unit
        time = state.timestamp
        done: float = time.get(unit).value
        span = plan.span_at(done) if done < plan.total else plan.phases[-1]
        if unit == TimeUnit.EPOCH and state.dataloader_len is not None:
            done += time.batch_in_epoch.value / max(1, state.dataloader_len.value)
        return plan.position(min(done, span.stop), span, time.batch.value)

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        self._entered = self._known = self._length = None

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
        self._warn_without_mix(self.plan(state))
        self._entered = self._known = None

    def _warn_without_mix(self, plan: PhasePlan) -> None:
        ratio, shorter = exact_ratio(self.rho), min(plan.e_ssl, plan.e_sl)
        if ratio and shorter and not plan.e_mix:
            warnings.warn(
                f"this run has no MIX phase, but SSL and then SL: rho={self.rho} of {shorter} is less than one. Train "
                f"for at least {math.ceil(1 / ratio)} of each kind, give durations in batches, or set rho=0 to mean it",
                stacklevel=3,
            )

    def batch_start(self, state: State, logger: Logger) -> None:
        """Enter a phase at its first batch, and after resuming."""
        position = self.position(state)
        if position.phase is not self._entered:
            self._entered = position.phase
            if position.progress == 0:  # the phase's very first batch, not a resumed run
                for scheduler in restarting_schedulers(state):
                    scheduler.restart(state)
        logger.log_metrics({"mixtraining/phase": list(Phase).index(position.phase)})

    def __repr__(self) -> str:
        ssl, sl = _written(self.ssl_duration), _written(self.sl_duration)
        return f"{type(self).__name__}(rho={self.rho!r}, ssl_duration={ssl!r}, sl_duration={sl!r})"


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
    if time.unit not in _UNITS or time.value != int(time.value) or time.value < 0:
        raise ValueError(f"{name} must be whole epochs ('100ep') or batches ('500ba'), at least 0; got {duration!r}")
    return Time(int(time.value), time.unit)


def _written(time: Time | None) -> str | None:
    return None if time is None else time.to_timestring()
