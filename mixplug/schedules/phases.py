"""The phases of MixTraining: Eq. 1 and Algorithm 1 of Li et al. Pure Python.

A plan counts in whole units of any kind (epochs, batches): what a unit is, its user decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction

from mixplug.checks import check_int, check_real

Ratio = int | float | Decimal | Fraction

RHO = 0.5
"""Mix ratio unless told otherwise (Li et al., section 3.1)."""


class Phase(str, Enum):
    """A phase of the training: self-supervised, mixed, supervised, in this order."""

    SSL = "ssl"
    MIX = "mix"
    SL = "sl"

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        raise ValueError(f"a phase must be one of {[phase.value for phase in cls]}, got {value!r}")

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class PhaseSpan:
    """One phase's stretch of the training, ``[start, stop)`` in the plan's units."""

    phase: Phase
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Units from start to stop."""
        return self.stop - self.start


@dataclass(frozen=True)
class Position:
    """Where a training is: the one clock that all that changes over a training reads.

    Args:
        phase: The phase.
        progress: Progress of the phase in [0, 1].
        ssl_progress: Progress of all self-supervised learning, the SSL and the MIX phase together, in [0, 1].
        run_progress: Progress of the whole training in [0, 1].
        step: Optimizer steps that have been made.
        span: The phase's stretch, None where it is not known.
    """

    phase: Phase
    progress: float = 0.0
    ssl_progress: float = 0.0
    run_progress: float = 0.0
    step: int = 0
    span: PhaseSpan | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "phase", Phase(self.phase))
        for name in ("progress", "ssl_progress", "run_progress"):
            check_real(name, getattr(self, name), 0, 1)

    @classmethod
    def of(cls, position: Position | Phase | str) -> Position:
        """``position`` itself, or the beginning of the phase that it names."""
        return position if isinstance(position, Position) else cls(Phase(position))


@dataclass(frozen=True)
class PhasePlan:
    """When each phase begins and ends (Li et al., Eq. 1 and Algorithm 1).

    ``e_mix = floor(rho * min(e_ssl, e_sl))`` units of each kind are merged, so the training is
    ``e_ssl - e_mix`` units of SSL, ``e_mix`` of MIX and ``e_sl - e_mix`` of SL; an empty phase is left out.
    The floor is exact: ``rho=0.29`` means 29/100, so 100 epochs give 29 although ``0.29 * 100 < 29`` in
    floats.

    Args:
        e_ssl: Units of self-supervised learning, at least 0; 0 is plain supervised learning.
        e_sl: Units of supervised learning, at least 0; 0 is self-supervised learning alone.
        rho: Mix ratio in [0, 1]. 0 is SSL then SL; 1 leaves no vanilla phase of the shorter kind.

    Raises:
        TypeError: a length is not an integer or ``rho`` is not a number.
        ValueError: a length is below 0, both are 0, or ``rho`` is outside of [0, 1] or NaN.

    Example:
        >>> [(str(s.phase), s.start, s.stop) for s in PhasePlan(100, 100, 0.5).phases]
        [('ssl', 0, 50), ('mix', 50, 100), ('sl', 100, 150)]
    """

    e_ssl: int
    e_sl: int
    rho: Ratio
    e_mix: int = field(init=False)
    phases: tuple[PhaseSpan, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_int("e_ssl", self.e_ssl, 0)
        check_int("e_sl", self.e_sl, 0)
        if not self.e_ssl + self.e_sl:
            raise ValueError("e_ssl and e_sl are both 0, which leaves nothing to train; give one of them at least 1")
        e_mix = math.floor(exact_ratio(self.rho) * min(self.e_ssl, self.e_sl))
        spans = []
        start = 0
        for phase, length in ((Phase.SSL, self.e_ssl - e_mix), (Phase.MIX, e_mix), (Phase.SL, self.e_sl - e_mix)):
            if length:
                spans.append(PhaseSpan(phase, start, start + length))
                start += length
        object.__setattr__(self, "e_mix", e_mix)
        object.__setattr__(self, "phases", tuple(spans))

    @property
    def total(self) -> int:
        """Units of the whole training: ``e_ssl + e_sl - e_mix``."""
        return self.e_ssl + self.e_sl - self.e_mix

    def length(self, phase: Phase) -> int:
        """Units that ``phase`` lasts, 0 if the plan has none of it."""
        return sum(span.length for span in self.phases if span.phase is Phase(phase))

    def span_at(self, t: float) -> PhaseSpan:
        """The stretch that holds time ``t`` (whole or fractional units) of ``[0, total)``.

        Raises:
            ValueError: ``t`` is outside of ``[0, total)``.
        """
        check_real("t", t, 0, self.total, high_open=True)
        return next(span for span in self.phases if t < span.stop)

    def phase_at(self, t: float) -> Phase:
        """The phase at time ``t`` of ``[0, total)``; see :meth:`span_at`."""
        return self.span_at(t).phase

    def position(self, t: float, span: PhaseSpan | None = None, step: int = 0) -> Position:
        """Where the training is at time ``t`` of ``[0, total]``; at its end, the end of its last phase.

        Args:
            t: Whole or fractional units.
            span: The stretch that ``t`` belongs to, where it may be the stretch's very end.
            step: Optimizer steps that have been made.

        Raises:
            ValueError: ``t`` is outside of ``[0, total]``.
        """
        check_real("t", t, 0, self.total)
        if span is None:
            span = self.span_at(t) if t < self.total else self.phases[-1]
        # SSL and MIX together last e_ssl.
        ssl_progress = min(1.0, t / self.e_ssl) if self.e_ssl else 1.0
        return Position(span.phase, (t - span.start) / span.length, ssl_progress, t / self.total, step, span)

    @classmethod
    def from_total(cls, total: int, rho: Ratio) -> PhasePlan:
        """The plan that lasts exactly ``total`` units: ``e_ssl = e_sl`` if possible, else one more of SSL.

        Raises:
            TypeError: ``total`` is not an integer or ``rho`` is not a number.
            ValueError: ``total`` is too short for one unit of each kind, or ``rho`` is outside of [0, 1].
        """
        check_int("total", total, 1)
        ratio = exact_ratio(rho)
        # n units of each kind last 2n - floor(rho n), which grows by 1 or 2 with n: (n, n) reaches `total`
        # or stops one short of it, and then (n + 1, n), with the same e_mix, fills the gap.
        n = _last(lambda n: 2 * n - math.floor(ratio * n) <= total, total)
        if n == 0:
            raise ValueError(
                f"a training of {total} unit(s) has no room for self-supervised and supervised learning at "
                f"rho={rho!r}: the shortest one is 2 units (1 at rho=1); raise the duration"
            )
        missing = total - (2 * n - math.floor(ratio * n))
        return cls(n + missing, n, rho)


def exact_ratio(rho: Ratio) -> Fraction:
    """``rho`` as the number that its user wrote: 0.29 is 29/100, not the nearest binary fraction.

    Raises:
        TypeError: ``rho`` is not a number.
        ValueError: ``rho`` is NaN or outside of [0, 1].
    """
    check_real("rho", rho if not isinstance(rho, Decimal) else float(rho), 0, 1)
    # str gives the shortest decimal that reads back as the same number, of Python's and numpy's floats alike.
    return Fraction(str(rho))


def _last(holds: Callable[[int], bool], top: int) -> int:
    """The largest n of [0, top] for which the monotone predicate ``holds``, known to hold at 0."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
