"""What a benchmark measured, and what follows from it. Pure Python and numpy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Blocks = list[list[float]]
"""Seconds of steps: a list for each turn."""


class Quartiles(NamedTuple):
    """The middle of some numbers, and between which values half of them lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """The quartiles of ``values``."""
        low, middle, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(middle, low, high)

    def format(self, form: str, scale: float = 1.0) -> str:
        """``median (low to high)``, each times ``scale``."""
        return f"{self.median * scale:{form}} ({self.low * scale:{form}} to {self.high * scale:{form}})"


@dataclass
class StepCost:
    """What a step costs in one phase of one method.

    Attributes:
        method: The method's key.
        label: Its name.
        objective: The objective's kind, None without one.
        rho: The mix ratio, None without phases.
        phase: The phase.
        steps: How many such steps a training has.
        others: Names of the method's algorithms that are not mixplug's.
        images: Images of a step.
        forward: Floating-point operations of the forward pass (or passes) for one image, at each turn's place in the
            phase; a single number where they are the same throughout.
        backward: Those of the backward pass.
        blocks: Seconds of steps, turn by turn.
        loop: Key of the loop in plain PyTorch with the same arithmetic; empty where there is none.
        parts: Median seconds of each part of a step (:data:`mixplug.lab.bench.watches.PARTS`).
        peak: Bytes that a step allocates at its peak.
        held: Bytes of parameters, gradients and optimizer state.
    """

    method: str
    label: str
    objective: str | None
    rho: float | None
    phase: str
    steps: int
    others: list[str] = field(default_factory=list)
    images: int = 0
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    blocks: Blocks = field(default_factory=list)
    loop: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    peak: int = 0
    held: int = 0

    @property
    def seconds(self) -> Quartiles:
        """Of a step, over all turns."""
        return Quartiles.of([seconds for block in self.blocks for seconds in block])

    @property
    def flops(self) -> list[float]:
        """Forward and backward for one image, turn by turn; one number where they are the same throughout."""
        return [f + b for f, b in zip(self.forward, self.backward, strict=True)]

    @property
    def work(self) -> float:
        """Floating-point operations of all steps of a training in this phase."""
        return self.steps * self.images * float(np.mean(self.flops))


@dataclass
class Loop:
    """A loop in plain PyTorch.

    Attributes:
        label: What it is.
        blocks: Seconds of its steps, turn by turn.
    """

    label: str
    blocks: Blocks = field(default_factory=list)


@dataclass
class Bench:
    """All that was measured.

    Attributes:
        recipe: The recipe's description.
        settings: The recipe as primitives.
        stages: Every phase of every method.
        loops: The loops in plain PyTorch, by key.
        environment: Versions and machine.
        command: What makes it again.
    """

    recipe: str
    settings: dict[str, Any]
    stages: list[StepCost]
    loops: dict[str, Loop]
    environment: dict[str, Any]
    command: str = ""

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")

    @property
    def methods(self) -> list[str]:
        """Keys of the methods, in the recipe's order."""
        return list(dict.fromkeys(stage.method for stage in self.stages))

    def of(self, method: str) -> list[StepCost]:
        """The phases of a method."""
        return [stage for stage in self.stages if stage.method == method]

    def baseline_of(self, method: str) -> str | None:
        """The SSL+SL (rho = 0) with the same objective as ``method``, which may be the method itself."""
        mine = self.of(method)[0]
        if mine.objective is None:
            return None
        return next((s.method for s in self.stages if s.rho == 0 and s.objective == mine.objective), None)

    @property
    def papers(self) -> str | None:
        """The method that is the pipeline of Li et al.: SSL, in which the encoder sees all patches, then SL."""
        return next((s.method for s in self.stages if s.rho == 0 and s.objective == "MAE (features)"), None)

    @property
    def supervised(self) -> StepCost | None:
        """The step of the method that mixplug has no part in, if the recipe has one."""
        return next((s for s in self.stages if s.objective is None and s.rho is None), None)

    def work(self, method: str) -> float:
        """Floating-point operations of a whole training."""
        return sum(stage.work for stage in self.of(method))

    def seconds(self, method: str) -> float:
        """Of a whole training: for each phase the mean over its turns of their median step, times its steps."""
        return sum(s.steps * float(np.mean([np.median(block) for block in s.blocks])) for s in self.of(method))

    def over_loop(self, stage: StepCost) -> Quartiles | None:
        """A step's time over that of the plain loop, turn by turn."""
        return ratios(stage.blocks, self.loops[stage.loop].blocks) if stage.loop else None

    def of_ideal(self, method: str, baseline: str) -> Quartiles:
        """The measured speedup over ``baseline`` as a share of the ideal one, turn by turn."""
        return Quartiles.of(
            [
                self._seconds_at(baseline, t)
                / self._seconds_at(method, t)
                * self._work_at(method, t)
                / self._work_at(baseline, t)
                for t in range(self.turns)
            ]
        )

    @property
    def turns(self) -> int:
        """How often everything had its turn."""
        return len(self.stages[0].blocks)

    def _seconds_at(self, method: str, turn: int) -> float:
        return sum(s.steps * float(np.median(s.blocks[turn])) for s in self.of(method))

    def _work_at(self, method: str, turn: int) -> float:
        return sum(s.steps * s.images * s.flops[turn % len(s.flops)] for s in self.of(method))


def ratios(ours: Blocks, theirs: Blocks) -> Quartiles:
    """Of the medians of each turn."""
    return Quartiles.of([float(np.median(a) / np.median(b)) for a, b in zip(ours, theirs, strict=True)])
