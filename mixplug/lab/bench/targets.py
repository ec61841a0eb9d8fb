"""What mixplug's wall-clock cost is held to, and whether a measurement holds it: for people, on a quiet machine."""

from __future__ import annotations

from dataclasses import dataclass

from mixplug.lab.bench.results import Bench, Quartiles, StepCost, ratios


@dataclass(frozen=True)
class Target:
    """A bound and what was measured.

    Attributes:
        name: What it is about.
        measured: In words.
        bound: In words.
        met: Whether it holds.
    """

    name: str
    measured: str
    bound: str
    met: bool


SUPERVISED = 1.01
"""An SL step on a Trainer with mixplug over one without."""
LOOP = 1.03
"""A step on the Trainer over the plain loop's, times what Composer's own supervised step takes over its."""
IDEAL = 0.95
"""Measured speedup over SSL+SL as a share of the ideal."""
PAPERS = 2.2
"""Speedup of MixTraining with ``mask='input'`` over the pipeline of Li et al."""
STACKED = 3.0
"""The same with further algorithms in the list."""
DATA = 0.03
"""Share of a step that loading its batch takes."""


def targets(bench: Bench) -> list[Target]:
    """Every target that the methods of a benchmark allow to judge."""
    return [*_supervised(bench), *_loops(bench), *_ideal(bench), *_papers(bench), *_memory(bench), *_data(bench)]


def _supervised(bench: Bench) -> list[Target]:
    plain = bench.supervised
    if plain is None:
        return []
    # A phase with other arithmetic, such as smaller images, or with what other algorithms cost is no match.
    same = [
        s
        for s in bench.stages
        if s.phase == "sl" and s is not plain and (s.flops, s.others) == (plain.flops, plain.others)
    ]
    return [
        _at_most(f"{s.label}: SL step over a Trainer's without mixplug", ratios(s.blocks, plain.blocks), SUPERVISED)
        for s in same
    ]


def _loops(bench: Bench) -> list[Target]:
    plain = bench.supervised
    own = bench.over_loop(plain) if plain is not None else None
    # Composer's own share of a small step is no fault of mixplug's.
    bound = LOOP * max(1.0, own.median if own is not None else 1.0)
    found = []
    for stage in bench.stages:
        ratio = bench.over_loop(stage)
        if ratio is not None and stage.phase != "sl":
            found.append(_at_most(f"{stage.label}: {stage.phase.upper()} step over the plain loop's", ratio, bound))
    return found


def _ideal(bench: Bench) -> list[Target]:
    found = []
    for method in bench.methods:
        baseline = bench.baseline_of(method)
        if baseline is not None and baseline != method:
            share = bench.of_ideal(method, baseline)
            name = f"{bench.of(method)[0].label}: speedup over SSL+SL, of the ideal"
            found.append(Target(name, share.format(".3f"), f"at least {IDEAL:g}", share.median >= IDEAL))
    return found


def _papers(bench: Bench) -> list[Target]:
    papers = bench.papers
    if papers is None:
        return []
    found = []
    for method in bench.methods:
        first = bench.of(method)[0]
        if first.objective != "MAE (input)" or not first.rho:
            continue
        bound = STACKED if first.others else PAPERS
        speedup = bench.seconds(papers) / bench.seconds(method)
        name = f"{first.label}: speedup over the paper's SSL+SL"
        found.append(Target(name, f"{speedup:.2f}x", f"at least {bound:g}x", speedup >= bound))
    return found


def _memory(bench: Bench) -> list[Target]:
    plain = bench.supervised
    found = []
    for s in bench.stages:
        if plain is None or s.phase != "mix" or s.objective not in ("MAE (input)", "MAE (features)"):
            continue
        # With mask='features' the decoder comes on top: as much more as it computes more.
        share = max(1.0, max(s.flops) / max(plain.flops)) if s.objective == "MAE (features)" else 1.0
        ratio = s.peak / plain.peak
        name = f"{s.label}: memory of a MIX step over the SL step's"
        found.append(Target(name, f"{ratio:.3f}", f"at most {share:.3f}", ratio <= share))
    return found


def _data(bench: Bench) -> list[Target]:
    def share(stage: StepCost) -> float:
        return stage.parts["data"] / sum(stage.parts.values())

    worst = max(bench.stages, key=share)
    name = f"loading a batch, of a step (most: {worst.label}, {worst.phase.upper()})"
    return [Target(name, f"{share(worst):.1%}", f"under {DATA:.0%}", share(worst) < DATA)]


def _at_most(name: str, ratio: Quartiles, bound: float) -> Target:
    return Target(name, ratio.format(".3f"), f"at most {bound:.3f}", ratio.median <= bound)
