"""A benchmark of made-up numbers: 10 images a step, 100 supervised steps of 1 s, 2 turns."""

from __future__ import annotations

from mixplug.lab.bench.results import Bench, Loop, StepCost

ENVIRONMENT = {
    "machine": {"gpu": "", "processor": "abacus", "threads": 1},
    "versions": {"torch": "2", "mosaicml": "0"},
    "date": "today",
}


def cost(method, phase, objective=None, rho=None, seconds=(1.0, 1.0), **changes):
    """A phase whose steps take so many seconds in each turn, a tenth more or less of them in some."""
    given = {
        "steps": 100,
        "images": 10,
        "forward": [2.0],
        "backward": [4.0],
        "parts": {"data": 0.01, "forward": 0.99},
        "peak": 100,
        "blocks": [[0.9 * s, s, 1.1 * s] for s in seconds],
        **changes,
    }
    return StepCost(method, method.upper(), objective, rho, phase, **given)


def bench(*stages, loops=None):
    return Bench("made up", {}, list(stages), loops or {}, ENVIRONMENT)


def loop(*seconds, label="hand-written"):
    return Loop(label, [[0.9 * s, s, 1.1 * s] for s in seconds])


def pair(seconds=(3.0, 3.0), objective="MAE (features)", **changes):
    """SSL+SL, 200 steps of 3 s and 1 s, and MixTraining, 100 steps of MIX."""
    return (
        cost("ssl_sl", "ssl", "MAE (features)", 0.0, seconds=(3.0, 3.0), forward=[6.0], backward=[12.0]),
        cost("ssl_sl", "sl", "MAE (features)", 0.0),
        cost("mix", "mix", objective, 1.0, seconds=seconds, **{"forward": [6.0], "backward": [12.0], **changes}),
    )
