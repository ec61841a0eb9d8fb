"""ResolutionSchedule: how much smaller images are shown, stage by stage. Pure Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mixplug.checks import check_choice, check_int, check_real
from mixplug.schedules.shapes import CLOCKS, Steps


@dataclass(frozen=True)
class ResolutionSchedule:
    """Full resolution in a warm-up, then from the smallest up to the full one in equal steps.

    As Kocyigit et al. (2022, section 3.2 and 4): where the learning rate is high its noise hides what small images
    lose, and the warm-up, where it is low, needs full ones.

    Args:
        min_scale: The smallest images' height over the full ones', in (0, 1].
        warmup: Share of the clock at full resolution in the beginning, in [0, 1).
        stages: Stages, the warm-up one of them, at least 3; those after it last equally long.
        over: The clock; see :mod:`mixplug.schedules.shapes`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, or there is no such clock.

    Example:
        >>> schedule = ResolutionSchedule()
        >>> schedule.sizes(224, 32)
        [224, 96, 128, 160, 192, 224]
        >>> round(schedule.speedup(224, 32), 3)
        1.598
    """

    min_scale: float = 96 / 224
    warmup: float = 80 / 480
    stages: int = 6
    over: str = "ssl"

    def __post_init__(self) -> None:
        check_real("min_scale", self.min_scale, 0, 1, low_open=True)
        check_real("warmup", self.warmup, 0, 1, high_open=True)
        check_int("stages", self.stages, 3)
        check_choice("over", self.over, CLOCKS)

    @property
    def times(self) -> list[float]:
        """When each stage begins, in [0, 1)."""
        rising = self.stages - 1
        begins = (self.warmup + (1 - self.warmup) * stage / rising for stage in range(rising))
        # A step that stands at the boundary to the bit must not come before it by a sum's last digit.
        return [0.0, *(math.floor(begin * 1e9) / 1e9 for begin in begins)]

    @property
    def scale(self) -> Steps:
        """Each stage's height of images over the full one."""
        last = self.stages - 2
        rising = (1 - (1 - self.min_scale) * (1 - stage / last) for stage in range(last + 1))
        return Steps(list(zip(self.times, [1.0, *rising], strict=True)), self.over)

    def sizes(self, size: int, step: int = 1) -> list[int]:
        """Each stage's pixels of a side of ``size``, multiples of ``step``; see :func:`scaled_size`."""
        return [scaled_size(size, scale, step) for scale in self.scale.values]

    def speedup(self, size: int, step: int = 1) -> float:
        """How many times cheaper a training is, ``L / sum((r_t / r_max)^2)``, if a step costs as its pixels do.

        The paper prints the mean of ``(r_max / r_t)^2`` (Eq. 9), which gives 2.30 for its own schedule; this gives the
        1.60 of its Table 6.

        Args:
            size: The full images' side in pixels.
            step: What sizes are multiples of.
        """
        lengths = [end - begin for begin, end in zip(self.times, [*self.times[1:], 1.0], strict=True)]
        cost = sum(length * (r / size) ** 2 for length, r in zip(lengths, self.sizes(size, step), strict=True))
        return 1 / cost


def scaled_size(size: int, scale: float, step: int) -> int:
    """The multiple of ``step`` nearest to ``scale`` times ``size``, at least one and at most ``size``.

    At scale 1 it is ``size`` itself, a multiple or not.
    """
    if scale == 1:
        return size
    return min(size, step * max(1, math.floor(scale * size / step + 0.5)))
