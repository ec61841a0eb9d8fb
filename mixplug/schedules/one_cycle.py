"""OneCycle: up and down again, by half a cosine each. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass

from mixplug.checks import check_choice, check_real
from mixplug.schedules.shapes import Cosine, Ramp, Shape

RISES = {"cosine": Cosine, "linear": Ramp}
"""How the warm-up goes from one end to the other, by name."""


@dataclass(frozen=True, repr=False)
class OneCycle(Shape):
    """From ``start`` to ``turn`` during the warm-up, and back by half a cosine over the rest.

    The learning rates and momenta of Koçyiğit et al., 2022: ``OneCycle(0, 1, warmup)`` is the fixed 1-cycle where the
    warm-up is a fixed number of steps (Eq. 8) and the 1-cycle where it is a fixed share (Eq. 7); with
    ``rise='linear'`` it is cosine with linear warm-up (Eq. 6). ``OneCycle(0.95, 0.85, warmup)`` is the momentum that
    goes with it, in anti-phase.

    Args:
        start: Value at time 0 and at time 1, reached exactly.
        turn: Value at the end of the warm-up.
        warmup: The warm-up's share of the time, in [0, 1]; at 0 it begins with ``turn``.
        rise: 'cosine' or 'linear': how it goes through the warm-up.
        over: The clock; see :mod:`mixplug.schedules.shapes`.

    Raises:
        TypeError: a number is none.
        ValueError: an end is not finite, ``warmup`` is out of range, or there is no such rise or clock.

    Example:
        >>> rate = OneCycle(0.0, 1.0, warmup=0.25)
        >>> rate.at(0), rate.at(0.25), rate.at(1)
        (0.0, 1.0, 0.0)
    """

    start: float
    turn: float
    warmup: float
    rise: str = "cosine"
    over: str | None = None

    def __post_init__(self) -> None:
        self._check()
        check_real("OneCycle's warmup", self.warmup, 0, 1)
        check_choice("OneCycle's rise", self.rise, RISES)

    @property
    def values(self) -> tuple[float, ...]:
        """See the base class."""
        return (self.start, self.turn)

    def at(self, time: float) -> float:
        """See the base class."""
        if time < self.warmup:
            return RISES[self.rise](self.start, self.turn).at(time / self.warmup)
        if self.warmup == 1:
            return self.turn
        return Cosine(self.turn, self.start).at((time - self.warmup) / (1 - self.warmup))
