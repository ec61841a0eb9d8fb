"""The learning-rate range test: which learning rate a training bears, found in some steps with ever higher ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixplug.checks import check_int, check_real
from mixplug.data.order import random_state, set_random_state

LOW, HIGH, STEPS = 1e-5, 10.0, 100
SHARE = 3
RULE = (
    f"1/{SHARE} of the largest usable, where the smoothed loss is lowest before it first rises by a third of its fall"
)
"""How the suggestion is made; the largest usable rate is Smith's (2018)."""


@dataclass(frozen=True)
class LearningRateRange:
    """What a range test found.

    Attributes:
        rates: The learning rate of each step, in order.
        losses: The loss of each step; where it was not finite or had long left its range the test has ended.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The mean of each loss and its neighbours, a twentieth of all steps to either side."""
        reach = max(1, len(self.losses) // 20)
        windows = (self.losses[max(0, i - reach) : i + reach + 1] for i in range(len(self.losses)))
        return tuple(math.fsum(window) / len(window) for window in windows)

    @property
    def largest(self) -> float:
        """The rate at which the smoothed loss is lowest before it first rises by a third of what it has fallen.

        A training may recover from such a rise and fall further, but it was not stable. Rises of less than a tenth of
        the whole fall are noise.
        """
        smoothed = self.smoothed
        noise = 0.1 * (smoothed[0] - min(smoothed))
        best = 0
        for index, loss in enumerate(smoothed):
            if loss - smoothed[best] > max(noise, (smoothed[0] - smoothed[best]) / 3):
                break
            if loss < smoothed[best]:
                best = index
        return self.rates[best]

    @property
    def suggestion(self) -> float:
        """The maximum to train with, by ``RULE``."""
        return self.largest / SHARE

    @property
    def is_bounded(self) -> bool:
        """Whether the loss falls first and rises or breaks off in the end; else the range was too narrow."""
        return self.rates[0] < self.largest < self.rates[-1]


def learning_rate_range(
    step: Callable[[], Tensor | float],
    optimizer: Optimizer,
    modules: Iterable[nn.Module],
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
) -> LearningRateRange:
    """Make steps with learning rates from ``low`` to ``high``, and put back all that they changed.

    Weights, buffers, the optimizer's state and learning rates, and Python's, numpy's and torch's random numbers are as
    they were before; gradients are dropped. What ``step`` itself holds, such as a loader's iterator, is not.

    Args:
        step: One whole step with the optimizer, whose loss it returns.
        optimizer: Any; the rates of its groups keep their proportions, and the first has those of the test.
        modules: All that a step changes: the model, and the objective where there is one.
        low: First rate, above 0.
        high: Last rate, above ``low``; those in between are evenly apart in their logarithm.
        steps: How many, at least 2.

    Raises:
        TypeError: a number has the wrong type.
        ValueError: a number is out of range, or the first loss is not finite.

    Example:
        >>> found = learning_rate_range(train_one_step, optimizer, [model])  # doctest: +SKIP
        >>> found.suggestion  # doctest: +SKIP
        0.21
    """
    losses: list[float] = []
    rates = rates_between(low, high, steps)
    with unchanged(modules, [optimizer]):
        own = [group["lr"] for group in optimizer.param_groups]
        for rate in rates:
            set_rates(optimizer, own, rate)
            losses.append(float(step()))
            if has_ended(losses):
                break
    return found_range(rates, losses)


def rates_between(low: float, high: float, steps: int) -> list[float]:
    """``steps`` rates, evenly apart in their logarithm.

    Raises:
        TypeError: a number has the wrong type.
        ValueError: a number is out of range.
    """
    check_real("low", low, 0, math.inf, low_open=True, high_open=True)
    check_real("high", high, low, math.inf, low_open=True, high_open=True)
    check_int("steps", steps, 2)
    return [low * (high / low) ** (index / (steps - 1)) for index in range(steps)]


def set_rates(optimizer: Optimizer, own: list[float], rate: float) -> None:
    """Set the first group's learning rate to ``rate``, and the others' in proportion to their own."""
    for group, its_own in zip(optimizer.param_groups, own, strict=True):
        group["lr"] = rate * (its_own / own[0]) if own[0] else rate


def has_ended(losses: list[float]) -> bool:
    """Whether the last loss says all: it is not finite, or above the first by 3 times what was gained, and by 3."""
    gained = losses[0] - min(losses)
    return not math.isfinite(losses[-1]) or losses[-1] - losses[0] > 3 * max(gained, 1.0)


def found_range(rates: list[float], losses: list[float]) -> LearningRateRange:
    """What a test has found, without a last loss that is not finite.

    Raises:
        ValueError: there is no finite loss.
    """
    finite = losses if losses and math.isfinite(losses[-1]) else losses[:-1]
    if not finite:
        raise ValueError(
            f"the first loss of the range test is {losses}; it begins with a rate of {rates[0]:g}, lower it"
        )
    return LearningRateRange(tuple(rates[: len(finite)]), tuple(finite))


@contextmanager
def unchanged(modules: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Put back weights, buffers, optimizers and random numbers when the block is over; gradients are dropped."""
    modules, optimizers = list(modules), list(optimizers)
    changing: list[Any] = [*modules, *optimizers]
    held = [(one, copy.deepcopy(one.state_dict())) for one in changing]
    random = random_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for one, state in held:
            one.load_state_dict(state)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        set_random_state(random)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
