"""Numbers that may change over a phase's progress. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass

from mixplug.checks import check_real


@dataclass(frozen=True)
class Ramp:
    """A value that goes linearly from ``start`` to ``stop`` over the MIX phase's progress.

    MixTraining's own idea, a smooth transition between two objectives, taken further: ``alpha`` from 1 (the
    SSL phase's weight) to 0 (the SL phase's), the mask ratio from 0.75 to 0. Li et al. keep both constant.

    Args:
        start: Value at progress 0, also in force before.
        stop: Value at progress 1, also in force after. The last batch of a phase comes one batch short of it.

    Raises:
        TypeError: an end is not a number.
        ValueError: an end is not finite.

    Example:
        >>> Ramp(1.0, 0.0)(0.25)
        0.75
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            check_real(
                f"Ramp's {name}", getattr(self, name), float("-inf"), float("inf"), low_open=True, high_open=True
            )

    def __call__(self, progress: float) -> float:
        """The value at ``progress`` in [0, 1]."""
        progress = min(max(progress, 0.0), 1.0)
        return self.start + (self.stop - self.start) * progress


Schedule = float | Ramp


def value_at(schedule: Schedule, progress: float) -> float:
    """The value of a number or a :class:`Ramp` at ``progress`` in [0, 1]."""
    return schedule(progress) if isinstance(schedule, Ramp) else schedule


def check_schedule(name: str, schedule: Schedule, low: float, high: float, *, high_open: bool = False) -> Schedule:
    """Return ``schedule`` if it is a number of the interval, or a ramp between two of them.

    Raises:
        TypeError: it is neither a number nor a :class:`Ramp`.
        ValueError: it leaves the interval.
    """
    ends = {"start": schedule.start, "stop": schedule.stop} if isinstance(schedule, Ramp) else {"": schedule}
    for end, value in ends.items():
        check_real(f"{name}'s {end}" if end else name, value, low, high, high_open=high_open)
    return schedule
