"""FixedOneCycleScheduler: a warm-up of fixed length, and momentum in anti-phase (Koçyiğit et al., 2022).

What it does
    The learning rate rises from 0 to the optimizer's own by half a cosine over ``t_warmup`` and falls to 0 by another
    over the rest; the momentum falls and rises at the same time. Longer trainings have a longer descent, not a longer
    warm-up.

When to use it
    For self-supervised learning at a higher learning rate than a cosine schedule bears: ``mixplug lr-range`` finds the
    maximum. The paper warms SimSiam up for 80 epochs, whether it trains for 160 or 400 (Table 7), and reports as good a
    network in 1.3 to 1.6 times fewer epochs.

Hyperparameters
    ``momentum`` is not stated in the paper; (0.85, 0.95) is what one-cycle schedules take. With ``t_warmup='0.3dur'``
    it is the 1-cycle (Eq. 7), with ``rise='linear', momentum=None`` cosine with linear warm-up (Eq. 6).

Interactions
    In a :class:`mixplug.PhaseScheduler` it cycles within its phase, and phases without it have the optimizer's own
    momentum. :class:`mixplug.OptimizerSettings` cannot set ``betas`` or ``momentum`` beside it. In a plain loop,
    :class:`mixplug.OneCyclePolicy` is the same.
"""

from __future__ import annotations

import warnings

from composer.core import State, Time
from composer.optim import ComposerScheduler
from composer.optim.scheduler import _convert_time

from mixplug.algorithms.optimizer_settings import OptimizerSettings
from mixplug.algorithms.trainer.contract import find
from mixplug.checks import check_choice
from mixplug.schedules.one_cycle import RISES
from mixplug.training.one_cycle import MOMENTUM, OneCyclePolicy, check_momentum


class FixedOneCycleScheduler(ComposerScheduler):
    """Up over a warm-up of fixed length, down over the rest, with momentum in anti-phase (Koçyiğit et al., Eq. 8).

    It sets the momentum of the run's optimizer whenever it is asked for the learning rate, so both have Composer's lag
    of a batch, and both are in the optimizer's state when a run is resumed.

    Args:
        t_warmup: Length of the warm-up, such as '80ep', '500ba' or '0.3dur'; ``scale_schedule_ratio`` leaves it alone.
        momentum: Lower and upper limit of SGD's momentum or Adam's beta1, in [0, 1); None leaves it as it is.
        rise: 'cosine' or 'linear' warm-up.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; when called, the optimizer has no momentum, units do not agree, or
            OptimizerSettings sets the momentum too.

    Example:
        >>> FixedOneCycleScheduler("80ep")  # doctest: +SKIP
    """

    def __init__(
        self, t_warmup: str | Time, momentum: tuple[float, float] | None = MOMENTUM, rise: str = "cosine"
    ) -> None:
        self.warmup = _check_time(t_warmup)
        self.momentum = check_momentum(momentum)
        self.rise = check_choice("rise", rise, RISES)
        self._begun = False

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """The learning rate's multiplier now; sets the momentum."""
        warmup, length = _convert_time(self.warmup, state), _convert_time("1dur", state)
        if not self._begun:
            self._begin(state, warmup, length)
        policy = OneCyclePolicy(min(1.0, warmup.value / length.value), self.momentum, self.rise)
        progress = state.timestamp.get(length.unit).value / length.value
        for optimizer in state.optimizers:
            policy.set_momentum(optimizer, progress)
        return policy.factor.at(progress)

    def _begin(self, state: State, warmup: Time, length: Time) -> None:
        """Refuse what cannot be, and warn of what cannot be meant, once."""
        if warmup.unit != length.unit:
            raise ValueError(
                f"t_warmup={self.warmup.to_timestring()!r} must be in the unit of the run's length, in batches, or a "
                f"share of it, such as '0.3dur'"
            )
        if warmup >= length:
            warnings.warn(
                f"{type(self).__name__} warms up for {warmup.to_timestring()}, and there are "
                f"{length.to_timestring()}: its learning rate is never reached; give it a t_warmup below that",
                stacklevel=3,
            )
        settings = find(state, OptimizerSettings)
        overridden = {option for options in settings.overrides.values() for option in options} if settings else set()
        if self.momentum is not None and overridden & {"betas", "momentum"}:
            raise ValueError(
                f"{type(self).__name__} and OptimizerSettings both set the optimizer's momentum "
                f"({', '.join(sorted(overridden & {'betas', 'momentum'}))}); leave that out of the overrides, or give "
                f"the scheduler momentum=None"
            )
        self._begun = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.warmup.to_timestring()!r}, {self.momentum!r}, {self.rise!r})"


def _check_time(time: str | Time) -> Time:
    if not isinstance(time, (str, Time)):
        raise TypeError(f"t_warmup must be like '80ep', '500ba' or '0.3dur', got {time!r}")
    try:
        parsed: Time = Time.from_input(time)
    except (ValueError, TypeError) as error:
        raise ValueError(f"t_warmup must be like '80ep', '500ba' or '0.3dur', got {time!r}") from error
    if parsed.value < 0:
        raise ValueError(f"t_warmup must be at least 0, got {time!r}")
    return parsed
