"""Each target met and missed, by made-up numbers."""

from __future__ import annotations

import pytest
from shared.hand_made import bench, cost, loop, pair

from mixplug.lab.bench.targets import targets


def judged(made, words):
    """Whether the one target with ``words`` in its name is met; None if there is no such target."""
    found = [target for target in targets(made) if words in target.name]
    assert len(found) <= 1
    return found[0].met if found else None


@pytest.mark.parametrize(
    ("seconds", "changes", "met"),
    [
        (1.0, {}, True),
        (1.005, {}, True),
        (1.02, {}, False),
        (1.02, {"forward": [1.0]}, None),
        (1.02, {"others": ["EMA"]}, None),
    ],
)
def test_the_supervised_step(seconds, changes, met):
    made = bench(cost("sl", "sl"), cost("mix", "sl", "MAE (input)", 0.5, seconds=(seconds, seconds), **changes))
    assert judged(made, "MIX: SL step over a Trainer's") is met


@pytest.mark.parametrize(
    ("supervised", "mix", "met"),
    [
        (1.0, 1.02, True),
        (1.0, 1.04, False),
        (1.1, 1.12, True),
        (1.1, 1.14, False),
        (0.9, 1.0, True),
        (0.9, 1.04, False),
    ],
)
def test_the_step_over_the_loops(supervised, mix, met):
    """Composer's own share, that of its supervised step, is no fault of mixplug's."""
    made = bench(
        cost("sl", "sl", loop="sl", seconds=(supervised, supervised)),
        cost("mix", "mix", "MAE (input)", 0.5, loop="mix", seconds=(mix, mix)),
        loops={"sl": loop(1.0, 1.0), "mix": loop(1.0, 1.0)},
    )
    assert judged(made, "MIX: MIX step over the plain loop's") is met
    assert judged(made, "SL: SL step over the plain loop's") is None


@pytest.mark.parametrize(("seconds", "met"), [(3.0, True), (3.1, True), (3.3, False)])
def test_the_ideal_speedup(seconds, met):
    made = bench(*pair(seconds=(seconds, seconds)))
    assert judged(made, "MIX: speedup over SSL+SL, of the ideal") is met
    assert judged(made, "SSL_SL: speedup") is None


@pytest.mark.parametrize(
    ("seconds", "others", "met"),
    [(400 / 230, [], True), (2.0, [], False), (400 / 310, ["ProgressiveResizing"], True), (1.5, ["Other"], False)],
)
def test_the_papers_pipeline(seconds, others, met):
    made = bench(*pair(seconds=(seconds, seconds), objective="MAE (input)", others=others))
    assert judged(made, "MIX: speedup over the paper's") is met
    assert judged(made, "SSL_SL: speedup") is None


@pytest.mark.parametrize(
    ("objective", "peak", "met"),
    [
        ("MAE (input)", 100, True),
        ("MAE (input)", 101, False),
        ("MAE (features)", 150, True),
        ("MAE (features)", 151, False),
        ("SimSiam", 101, None),
    ],
)
def test_memory(objective, peak, met):
    """With all patches the decoder comes on top: it computes half as much again."""
    made = bench(cost("sl", "sl", peak=100), cost("mix", "mix", objective, 1.0, peak=peak, backward=[7.0]))
    assert judged(made, "MIX: memory of a MIX step") is met


@pytest.mark.parametrize(("data", "met"), [(0.02, True), (0.04, False)])
def test_loading(data, met):
    def parts(seconds):
        return {"data": seconds, "forward": 1 - seconds}

    made = bench(cost("sl", "sl", parts=parts(0.01)), cost("mix", "mix", parts=parts(data)))
    assert judged(made, "loading a batch, of a step (most: MIX, MIX)") is met


def test_without_anything_to_compare_there_is_no_other_target():
    (target,) = targets(bench(cost("mix", "mix", "SimSiam", 0.5)))
    assert target.name.startswith("loading")
