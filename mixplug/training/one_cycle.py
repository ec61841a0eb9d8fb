"""The one-cycle policy: learning rate and momentum of an optimizer in anti-phase, as a function of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from mixplug.checks import check_choice, check_real
from mixplug.schedules.one_cycle import RISES, OneCycle

MOMENTUM = (0.85, 0.95)
"""Limits of the momentum. The paper does not state its own; these are what one-cycle schedules usually take."""


@dataclass(frozen=True)
class OneCyclePolicy:
    """The learning rate goes up over a warm-up and down over the rest, and the momentum the other way round.

    Koçyiğit et al., 2022, Eqs. 6 to 8; see :class:`mixplug.OneCycle` for which is which. Large learning rates are borne
    by a low momentum: the noise of a step grows with rate / (1 - momentum).

    Args:
        warmup: The warm-up's share of the training, in [0, 1]; of a fixed one, its steps over all steps.
        momentum: Lower and upper limit, in [0, 1), of SGD's and RMSprop's momentum and Adam's beta1; None leaves it as
            it is.
        rise: 'cosine' or 'linear' warm-up.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range, the limits are upside down, or there is no such rise.

    Example:
        >>> policy = OneCyclePolicy(warmup=80 / 400)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        >>> for step in range(400):
        ...     policy.set(optimizer, step / 400)
        ...     train_one_step()
    """

    warmup: float
    momentum: tuple[float, float] | None = MOMENTUM
    rise: str = "cosine"

    def __post_init__(self) -> None:
        check_real("warmup", self.warmup, 0, 1)
        check_choice("rise", self.rise, RISES)
        object.__setattr__(self, "momentum", check_momentum(self.momentum))

    @property
    def factor(self) -> OneCycle:
        """By what the optimizer's own learning rate, the highest one, is multiplied, over progress."""
        return OneCycle(0.0, 1.0, self.warmup, self.rise)

    def set(self, optimizer: Optimizer, progress: float) -> None:
        """Set learning rate and momentum of each param group for the step at ``progress``.

        The highest rate is what the group had at the first call, or its ``initial_lr``.

        Args:
            optimizer: Any with a learning rate.
            progress: Of the training (or the phase), in [0, 1]; beyond, its end holds.

        Raises:
            ValueError: there is no momentum to change.
        """
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor.at(progress)
        self.set_momentum(optimizer, progress)

    def set_momentum(self, optimizer: Optimizer, progress: float) -> None:
        """Set the momentum alone, where something else sets the learning rate; see :meth:`set`."""
        if self.momentum is None:
            return
        low, high = self.momentum
        value = OneCycle(high, low, self.warmup, self.rise).at(progress)
        groups = [group for group in optimizer.param_groups if group.setdefault(_OWN, _momentum_of(group))]
        if not groups:
            raise ValueError(
                f"{type(optimizer).__name__} has no momentum to change: take an optimizer with one, such as "
                f"SGD(momentum=0.9) or AdamW, or give momentum=None"
            )
        for group in groups:
            _set_momentum(group, value)


_OWN = "initial_momentum"
"""Where a param group keeps the momentum that it was made with, as torch's schedules keep ``initial_lr``."""


def restore_momentum(optimizer: Optimizer) -> None:
    """Give each param group the momentum that it was made with, where a policy has changed it."""
    for group in optimizer.param_groups:
        if group.get(_OWN):
            _set_momentum(group, group[_OWN])


def check_momentum(limits: Any) -> tuple[float, float] | None:
    """The limits as a pair of floats.

    Raises:
        TypeError: they are no pair of numbers.
        ValueError: one is outside of [0, 1), or the first is above the second.
    """
    if limits is None:
        return None
    if not isinstance(limits, Sequence) or isinstance(limits, str) or len(limits) != 2:
        raise TypeError(f"momentum must be its lower and upper limit, such as {MOMENTUM}, or None; got {limits!r}")
    low, high = (float(check_real("a limit of momentum", limit, 0, 1, high_open=True)) for limit in limits)
    if low > high:
        raise ValueError(f"momentum must be its lower and upper limit, got {(low, high)}; swap them")
    return low, high


def _momentum_of(group: Mapping[str, Any]) -> float:
    """SGD's and RMSprop's momentum, or Adam's beta1; 0 where there is none."""
    return group["betas"][0] if "betas" in group else group.get("momentum", 0.0)


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
