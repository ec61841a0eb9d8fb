"""Learning-rate schedules that know about phases (Li et al., Table 7)."""

from __future__ import annotations

import warnings
from typing import Any

from composer.core import State, Time, Timestamp, TimeUnit
from composer.optim import ComposerScheduler, CosineAnnealingScheduler
from torch import nn

from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import find
from mixplug.algorithms.trainer.schedulers import RestartingScheduler
from mixplug.checks import check_real
from mixplug.schedules.phases import Phase, PhaseSpan
from mixplug.training.one_cycle import restore_momentum


class PhaseScheduler(RestartingScheduler):
    """Gives each phase its own Composer scheduler, over the phase's own length, and a learning-rate factor.

    Inside of a phase the scheduler sees a run of its own: time 0 at the phase's start, ``max_duration`` its
    length. One schedule through all phases needs none of this: give the Trainer that schedule as it is.

    Args:
        ssl: Scheduler of the SSL phase; None for cosine to 0 without warmup.
        mix: Scheduler of the MIX phase, likewise.
        sl: Scheduler of the SL phase, likewise.
        ssl_factor: Multiplies the optimizer's learning rate in the SSL phase, above 0.
        mix_factor: The same in the MIX phase.
        sl_factor: The same in the SL phase.

    Raises:
        TypeError: a scheduler cannot be called, or a factor is not a number.
        ValueError: a factor is not above 0; when called, there is no PhaseSwitch or MixTraining in the run.

    Example:
        Li et al.'s Table 7 with AdamW(lr=1e-3), SSL at 1.5e-4 (for a base learning rate as they state it):

        >>> PhaseScheduler(  # doctest: +SKIP
        ...     ssl=CosineAnnealingWithWarmupScheduler('20ep'), sl=CosineAnnealingWithWarmupScheduler('5ep'),
        ...     ssl_factor=0.15)
    """

    def __init__(
        self,
        ssl: ComposerScheduler | None = None,
        mix: ComposerScheduler | None = None,
        sl: ComposerScheduler | None = None,
        ssl_factor: float = 1.0,
        mix_factor: float = 1.0,
        sl_factor: float = 1.0,
    ) -> None:
        self.schedulers: dict[Phase, ComposerScheduler] = {}
        self.factors: dict[Phase, float] = {}
        for phase, scheduler, factor in (
            (Phase.SSL, ssl, ssl_factor),
            (Phase.MIX, mix, mix_factor),
            (Phase.SL, sl, sl_factor),
        ):
            known = callable(scheduler) and not isinstance(scheduler, (type, nn.Module))
            if scheduler is not None and not known:
                raise TypeError(
                    f"{phase} must be a Composer scheduler (an object, not a class) or None, got {scheduler!r}"
                )
            self.schedulers[phase] = scheduler or CosineAnnealingScheduler()
            self.factors[phase] = check_real(f"{phase}_factor", factor, 0, float("inf"), low_open=True, high_open=True)
        self._seen: set[Phase] = set()

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """The learning rate's multiplier now."""
        switch = find(state, PhaseSwitch)
        if switch is None:
            raise ValueError("PhaseScheduler needs phases: add MixTraining or PhaseSwitch to the Trainer's algorithms")
        position = switch.position(state)
        assert position.span is not None
        local = _PhaseState(state, position.span)
        if position.phase not in self._seen:
            self._seen.add(position.phase)
            _warn_of_long_warmup(position.phase, self.schedulers[position.phase], local)
        return self.alone(position.phase)(local, ssr)  # type: ignore[arg-type]

    def alone(self, phase: Phase) -> ComposerScheduler:
        """The schedule of one phase for a run that is that phase alone, such as plain supervised learning."""
        return _Scaled(self.schedulers[phase], self.factors[phase])

    def restart(self, state: State) -> None:
        """Set the learning rate for the first batch of a phase; PhaseSwitch calls it.

        Composer steps its schedulers before it advances the clock, so that batch would still have the phase
        before's. Within a phase this lag of one batch is the same as in a run of its own.
        """
        for optimizer in state.optimizers:
            # A schedule that changes momentum sets it anew below; other phases have the optimizer's own.
            restore_momentum(optimizer)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self(state)


def _warn_of_long_warmup(phase: Phase, scheduler: Any, local: _PhaseState) -> None:
    """Composer would go on warming up until the phase is over, and say nothing."""
    warmup = getattr(scheduler, "t_warmup", None)
    if warmup is None:
        return
    warmup, length = Time.from_input(warmup), local.max_duration
    if warmup.unit != length.unit:
        batches = local.dataloader_len.value if length.unit == TimeUnit.EPOCH else 0
        if not batches or warmup.unit != TimeUnit.BATCH:
            return
        length = Time(length.value * batches, TimeUnit.BATCH)
    if warmup >= length:
        warnings.warn(
            f"{type(scheduler).__name__} warms up for {warmup.to_timestring()}, but the {phase} phase lasts "
            f"{length.to_timestring()}: its learning rate is never reached; give {phase} a t_warmup below that",
            stacklevel=2,
        )


class _Scaled(ComposerScheduler):
    """A scheduler times a factor."""

    def __init__(self, scheduler: Any, factor: float) -> None:
        self.scheduler = scheduler
        self.factor = factor

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        # Composer's own rule: a scheduler that takes no scale_schedule_ratio is not given one unless it matters.
        return self.factor * (self.scheduler(state) if ssr == 1.0 else self.scheduler(state, ssr))


class _PhaseState:
    """A Composer State as one phase sees it: its own clock, length and epochs."""

    def __init__(self, state: State, span: PhaseSpan) -> None:
        assert state.max_duration is not None
        self._state = state
        self._data = find(state, MixupSSLData)
        epochs, batches = self._before(span)
        now = state.timestamp
        self.timestamp = _PhaseTimestamp(
            epoch=max(0, now.epoch.value - epochs),
            batch=max(0, now.batch.value - batches),
            batch_in_epoch=now.batch_in_epoch.value,
        )
        self.max_duration = Time(span.length, state.max_duration.unit)
        if state.max_duration.unit == TimeUnit.EPOCH:
            self.dataloader_len = Time(self._known_epoch_length(span.phase), TimeUnit.BATCH)

    def _before(self, span: PhaseSpan) -> tuple[int, int]:
        """Epochs and batches before the phase."""
        assert self._state.max_duration is not None
        if self._state.max_duration.unit == TimeUnit.BATCH:
            return 0, span.start
        switch = find(self._state, PhaseSwitch)
        assert switch is not None
        batches = 0
        for earlier in switch.plan(self._state).phases:
            if earlier.stop <= span.start:
                batches += earlier.length * self._known_epoch_length(earlier.phase)
        return span.start, batches

    def _known_epoch_length(self, phase: Phase) -> int:
        length = None if self._state.dataloader_len is None else self._state.dataloader_len.value
        if self._data is not None:
            length = self._data.epoch_length(self._state, phase)
        if length is None:
            raise ValueError(
                f"PhaseScheduler needs the length of an epoch, but the data of the {phase} phase has none; give its "
                f"loader a __len__, or plan in batches ('ba')"
            )
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class _PhaseTimestamp(Timestamp):
    """A timestamp within a phase, which knows epochs and batches only."""

    def get(self, unit: str | TimeUnit) -> Time[int]:
        if TimeUnit(unit) not in (TimeUnit.EPOCH, TimeUnit.BATCH):
            raise ValueError(
                f"a scheduler inside of PhaseScheduler counts epochs or batches, not {TimeUnit(unit).value!r}"
            )
        return super().get(unit)
