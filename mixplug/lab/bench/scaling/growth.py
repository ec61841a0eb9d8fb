"""How cost grows, as measured, and the lines that it should follow. Pure Python and numpy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixplug.lab.bench.results import Blocks, Quartiles

ENOUGH = 3
"""Points of a line: any two lie on one."""


@dataclass
class Point:
    """What a step costs at one value of a quantity.

    Attributes:
        quantity: What is varied.
        value: Its value.
        images: Images of a step.
        flops: Floating-point operations of a step for one image, forward and backward.
        blocks: Seconds of steps, turn by turn.
        peak: Bytes that a step allocates at its peak.
    """

    quantity: str
    value: float
    images: float = 0.0
    flops: float = 0.0
    blocks: Blocks = field(default_factory=list)
    peak: int = 0

    @property
    def seconds(self) -> Quartiles:
        """Of a step, over all turns."""
        return Quartiles.of([seconds for block in self.blocks for seconds in block])

    @property
    def work(self) -> float:
        """Floating-point operations of a step."""
        return self.flops * self.images


@dataclass(frozen=True)
class Line:
    """The straight line ``base + slope * x`` that is nearest to some points (least squares).

    Attributes:
        base: What does not grow.
        slope: How the rest grows.
        deviation: For each point ``(y - line) / line``.
    """

    base: float
    slope: float
    deviation: list[float]

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line | None:
        """The line, None for fewer than three different values of ``x``."""
        if len(set(x)) < ENOUGH:
            return None
        scale = float(np.max(np.abs(x)))  # operations are some 1e9, seconds some 1e-2
        slope, base = np.polyfit(np.asarray(x) / scale, np.asarray(y), 1)
        line = base + slope * np.asarray(x) / scale
        return cls(float(base), float(slope) / scale, [float(d) for d in (np.asarray(y) - line) / line])

    def at(self, x: float) -> float:
        """The line at ``x``."""
        return self.base + self.slope * x


@dataclass
class Growth:
    """All that was measured of one phase of one method.

    Attributes:
        recipe: The recipe's description.
        settings: The recipe as primitives.
        method: The method's key.
        label: Its name.
        phase: The phase.
        points: Each value of each quantity.
        left_out: In words what was not varied or not measured, and why.
        environment: Versions and machine.
        command: What makes it again.
    """

    recipe: str
    settings: dict[str, Any]
    method: str
    label: str
    phase: str
    points: list[Point]
    left_out: list[str]
    environment: dict[str, Any]
    command: str = ""

    @property
    def quantities(self) -> dict[str, list[Point]]:
        """The points of each quantity, by its name."""
        names = dict.fromkeys(point.quantity for point in self.points)
        return {name: [point for point in self.points if point.quantity == name] for name in names}

    def time_line(self, quantity: str) -> Line | None:
        """Median seconds of a step against its floating-point operations."""
        points = self.quantities[quantity]
        return Line.through([p.work for p in points], [p.seconds.median for p in points])

    def memory_line(self, quantity: str) -> Line | None:
        """Bytes at the peak of a step against the quantity."""
        points = self.quantities[quantity]
        return Line.through([p.value for p in points], [p.peak for p in points])

    def write(self, path: Path) -> None:
        """Keep it as JSON, with the lines."""
        lines = {
            name: {
                what: None if line is None else dataclasses.asdict(line)
                for what, line in (("time", self.time_line(name)), ("memory", self.memory_line(name)))
            }
            for name in self.quantities
        }
        path.write_text(json.dumps({**dataclasses.asdict(self), "lines": lines}, indent=1), encoding="utf-8")
