"""Numbers that change over a training: shapes, and the clocks that they run on. Pure Python.

A schedule is a number or a :class:`Shape`. A shape is a curve over [0, 1], and ``over=`` says which stretch of the
training that is:

========  ==========================================================================================
clock     0 to 1 over
========  ==========================================================================================
'mix'     the MIX phase; 0 before, 1 after
'ssl'     all self-supervised learning, the SSL and the MIX phase together; 1 after
'phase'   the phase at hand, anew in each
'run'     the whole training
========  ==========================================================================================

Without ``over`` the option that takes the schedule decides: alpha and the mask ratio run over 'mix', the views'
magnitude and momenta over 'ssl'. What must be a multiple of something (a patch size) is rounded by who takes it.
"""

from __future__ import annotations

import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixplug.checks import check_choice, check_real
from mixplug.schedules.phases import Phase, Position

CLOCKS = ("mix", "ssl", "phase", "run")


def time_on(clock: str, position: Position) -> float:
    """What ``clock``, one of ``CLOCKS``, shows at ``position``, in [0, 1].

    Raises:
        ValueError: there is no such clock.
    """
    check_choice("the clock of a schedule, over,", clock, CLOCKS)
    if clock == "mix":
        return position.progress if position.phase is Phase.MIX else float(position.phase is Phase.SL)
    return {"ssl": position.ssl_progress, "phase": position.progress, "run": position.run_progress}[clock]


class Shape(ABC):
    """A curve over [0, 1] and, if its user says so, the clock that it runs on.

    Attributes:
        over: One of ``CLOCKS``, or None for that of the option that it is given to.
    """

    over: str | None

    @abstractmethod
    def at(self, time: float) -> float:
        """The value at ``time``, which is held in [0, 1]."""

    @property
    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """The values between which all others lie."""

    def __call__(self, position: Position, clock: str | None = None) -> float:
        """The value at ``position``, on the shape's own clock or else on ``clock``.

        Raises:
            ValueError: neither names a clock.
        """
        over = self.over or clock
        if over is None:
            raise ValueError(f"{self!r} runs on no clock: give it over=, one of {list(CLOCKS)}")
        return self.at(time_on(over, position))

    def _check(self) -> None:
        name = type(self).__name__
        for value in self.values:
            check_real(f"a value of {name}", value, -math.inf, math.inf, low_open=True, high_open=True)
        if self.over is not None:
            check_choice(f"{name}'s over", self.over, CLOCKS)

    def __repr__(self) -> str:
        # Without a clock of its own a Ramp says what it said before there were clocks: checkpoints hold it.
        own = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "over" or v is not None)
        return f"{type(self).__name__}({own})"


@dataclass(frozen=True, repr=False)
class Ramp(Shape):
    """A straight line from ``start`` to ``stop``.

    MixTraining's own idea, a smooth transition between two objectives, taken further: ``alpha`` from 1 (the
    SSL phase's weight) to 0 (the SL phase's), the mask ratio from 0.75 to 0. Li et al. keep both constant.

    Args:
        start: Value at time 0, also in force before.
        stop: Value at time 1, also in force after. The last batch of a phase comes one batch short of it.
        over: The clock; see the module.

    Raises:
        TypeError: an end is not a number.
        ValueError: an end is not finite, or there is no such clock.

    Example:
        >>> Ramp(1.0, 0.0).at(0.25)
        0.75
    """

    start: float
    stop: float
    over: str | None = None

    def __post_init__(self) -> None:
        self._check()

    @property
    def values(self) -> tuple[float, ...]:
        """See the base class."""
        return (self.start, self.stop)

    def at(self, time: float) -> float:
        """See the base class."""
        return self.start + (self.stop - self.start) * _held(time)


@dataclass(frozen=True, repr=False)
class Cosine(Ramp):
    """Half a cosine from ``start`` to ``stop``: slow at both ends (Grill et al., 2020, section 3.3)."""

    def at(self, time: float) -> float:
        """See the base class."""
        return self.stop - (self.stop - self.start) * (math.cos(math.pi * _held(time)) + 1) / 2


@dataclass(frozen=True, repr=False)
class Polynomial(Shape):
    """``stop + (start - stop) * (1 - t ** power)``: above 1 it leaves ``start`` slowly.

    This is what the compression paper calls polynomial decay, 1 - (t / T)^2, which stays above a cosine. It is not
    Composer's ``(1 - t / T) ** power``, which lies below it.

    Args:
        start: Value at time 0.
        stop: Value at time 1.
        power: Exponent, above 0; 1 is a :class:`Ramp`.
        over: The clock; see the module.

    Raises:
        TypeError: a number is none.
        ValueError: an end is not finite, ``power`` is not above 0, or there is no such clock.

    Example:
        >>> Polynomial(1.0, 0.0).at(0.5)
        0.75
    """

    start: float
    stop: float
    power: float = 2.0
    over: str | None = None

    def __post_init__(self) -> None:
        self._check()
        check_real("Polynomial's power", self.power, 0, math.inf, low_open=True, high_open=True)

    @property
    def values(self) -> tuple[float, ...]:
        """See the base class."""
        return (self.start, self.stop)

    def at(self, time: float) -> float:
        """See the base class."""
        return self.stop + (self.start - self.stop) * (1 - _held(time) ** self.power)


@dataclass(frozen=True, repr=False)
class Points(Shape):
    """Straight lines between points; two points at one time are a jump, after which the second holds.

    Args:
        points: ``(time, value)`` or ``{time: value}`` in order of time, in [0, 1]; before the first and after the last
            the value stays.
        over: The clock; see the module.

    Raises:
        TypeError: ``points`` are no pairs of numbers.
        ValueError: there are none, or their times are out of range or order.

    Example:
        >>> Points([(0.0, 0.04), (0.1, 0.07)]).at(0.05)
        0.055
    """

    points: Mapping[float, float] | Sequence[tuple[float, float]]
    over: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", pairs_of(type(self).__name__, self.points))
        self._check()

    @property
    def values(self) -> tuple[float, ...]:
        """See the base class."""
        return tuple(value for _, value in self._points)

    @property
    def _points(self) -> tuple[tuple[float, float], ...]:
        return typing.cast(tuple[tuple[float, float], ...], self.points)

    def at(self, time: float) -> float:
        """See the base class."""
        time = _held(time)
        before = [point for point in self._points if point[0] <= time]
        if not before:
            return self._points[0][1]
        begin, value = before[-1]
        if len(before) == len(self._points):
            return value
        end, following = self._points[len(before)]
        return value + (following - value) * ((time - begin) / (end - begin))


@dataclass(frozen=True, repr=False)
class Steps(Points):
    """Piecewise constant: each value holds from its time until the next.

    Args:
        points: ``(time, value)`` or ``{time: value}`` in order of time, in [0, 1]; before the first it holds already.
        over: The clock; see the module.

    Raises:
        TypeError: as of :class:`Points`.
        ValueError: as of :class:`Points`.

    Example:
        >>> Steps({0.0: 0.5, 0.8: 0.0}).at(0.9)
        0.0
    """

    def at(self, time: float) -> float:
        """See the base class."""
        before = [value for begin, value in self._points if begin <= _held(time)]
        return before[-1] if before else self._points[0][1]


Schedule = float | Shape


def value_at(schedule: Schedule, position: Position, clock: str) -> float:
    """The value of a number or a shape at ``position``; ``clock`` is that of a shape without one of its own."""
    return schedule(position, clock) if isinstance(schedule, Shape) else schedule


def check_schedule(name: str, schedule: Schedule, low: float, high: float, *, high_open: bool = False) -> Schedule:
    """Return ``schedule`` if it is a number of the interval, or a shape whose values are.

    Raises:
        TypeError: it is neither a number nor a :class:`Shape`.
        ValueError: it leaves the interval.
    """
    if not isinstance(schedule, Shape):
        return check_real(name, schedule, low, high, high_open=high_open)
    for value in schedule.values:
        check_real(f"{name}={schedule!r}: its value", value, low, high, high_open=high_open)
    return schedule


def _held(time: float) -> float:
    return min(max(time, 0.0), 1.0)


def pairs_of(name: str, points: Any, example: str = "[(0, 0.75), (0.5, 0)]") -> tuple[tuple[float, Any], ...]:
    """``{time: value}`` or ``(time, value)`` pairs as pairs, in order of time.

    Args:
        name: What they are given to, for messages.
        points: The pairs.
        example: Such as are expected, for messages.

    Raises:
        TypeError: they are no pairs, or a time is no number.
        ValueError: there are none, or their times are out of [0, 1] or out of order.
    """
    given = points.items() if isinstance(points, Mapping) else points
    pairs: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) else (None,)
    if any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in pairs):
        raise TypeError(f"{name} takes (time, value) pairs, such as {name}({example}); got {points!r}")
    if not pairs:
        raise ValueError(f"{name} needs at least one (time, value), got none")
    times = [check_real(f"a time of {name}", pair[0], 0, 1) for pair in pairs]
    if times != sorted(times):
        raise ValueError(f"the times of {name} must be in order, got {times}")
    return tuple((float(time), value) for time, value in pairs)
