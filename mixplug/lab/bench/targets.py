"""What mixplug's wall-clock cost is held to, and whether a measurement holds it: for people, on a quiet machine."""

from __future__ import annotations

from typing import NamedTuple

from mixplug.lab.bench.results import Bench, Quartiles, StepCost, ratios

SUPERVISED = 1.01
"""An SL step on a Trainer with mixplug over one without."""
LOOP = 1.03
"""A step on the Trainer over the plain loop's, times what Composer's own supervised step takes over its."""
IDEAL = 0.95
"""Measured speedup over SSL+SL as a share of the ideal."""
PAPERS, STACKED = 2.2, 3.0
"""Speedup of MixTraining with ``mask='input'`` over the pipeline of Li et al., alone and with other algorithms."""
DATA = 0.03
"""Share of a step that loading its batch takes."""


class Target(NamedTuple):
    """A bound and what was measured, in words; and whether it holds."""

    name: str
    measured: str
    bound: str
    met: bool


def targets(bench: Bench) -> list[Target]:
    """Every target that the methods of a benchmark allow to judge."""
    plain = bench.supervised
    found = [] if plain is None else [*_supervised(bench, plain), *_memory(bench, plain)]
    return [*_loops(bench, plain), *found, *_speedups(bench), _data(bench)]


def _supervised(bench: Bench, plain: StepCost) -> list[Target]:
    # A phase with other arithmetic, such as smaller images, or with what other algorithms cost is no match.
    same = [s for s in bench.stages if s.phase == "sl" and (s.flops, s.others) == (plain.flops, plain.others)]
    return [
        _at_most(f"{s.label}: SL step over a Trainer's without mixplug", ratios(s.blocks, plain.blocks), SUPERVISED)
        for s in same
        if s is not plain
    ]


def _loops(bench: Bench, plain: StepCost | None) -> list[Target]:
    # Composer's own share of a small step is no fault of mixplug's.
    own = None if plain is None else bench.over_loop(plain)
    bound = LOOP * max(1.0, 1.0 if own is None else own.median)
    over = [(s, ratio) for s in bench.stages if s.phase != "sl" and (ratio := bench.over_loop(s)) is not None]
    return [_at_most(f"{s.label}: {s.phase.upper()} step over the plain loop's", ratio, bound) for s, ratio in over]


def _speedups(bench: Bench) -> list[Target]:
    found, papers = [], bench.papers
    for method in bench.methods:
        first, baseline = bench.of(method)[0], bench.baseline_of(method)
        if baseline is not None and baseline != method:
            share = bench.of_ideal(method, baseline)
            name = f"{first.label}: speedup over SSL+SL, of the ideal"
            found.append(Target(name, share.format(".3f"), f"at least {IDEAL:g}", share.median >= IDEAL))
        if papers is not None and first.objective == "MAE (input)" and first.rho:
            bound = STACKED if first.others else PAPERS
            speedup = bench.seconds(papers) / bench.seconds(method)
            name = f"{first.label}: speedup over the paper's SSL+SL"
            found.append(Target(name, f"{speedup:.2f}x", f"at least {bound:g}x", speedup >= bound))
    return found


def _memory(bench: Bench, plain: StepCost) -> list[Target]:
    found = []
    for s in bench.stages:
        if s.phase == "mix" and s.objective in ("MAE (input)", "MAE (features)"):
            # With mask='features' the decoder comes on top: as much more as it computes more.
            share = max(1.0, max(s.flops) / max(plain.flops)) if s.objective == "MAE (features)" else 1.0
            ratio = s.peak / plain.peak
            name = f"{s.label}: memory of a MIX step over the SL step's"
            found.append(Target(name, f"{ratio:.3f}", f"at most {share:.3f}", ratio <= share))
    return found


def _data(bench: Bench) -> Target:
    share, worst = max(((s.parts["data"] / sum(s.parts.values()), s) for s in bench.stages), key=lambda pair: pair[0])
    name = f"loading a batch, of a step (most: {worst.label}, {worst.phase.upper()})"
    return Target(name, f"{share:.1%}", f"under {DATA:.0%}", share < DATA)


def _at_most(name: str, ratio: Quartiles, bound: float) -> Target:
    return Target(name, ratio.format(".3f"), f"at most {bound:.3f}", ratio.median <= bound)
