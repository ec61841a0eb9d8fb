"""The sizes of a training, and what they save."""

from __future__ import annotations

import pytest

from mixplug import PhasePlan
from mixplug.schedules.resolution import ResolutionSchedule, scaled_size


@pytest.mark.parametrize(
    ("smallest", "stages", "sizes", "speedup"),
    [
        (96, 6, [224, 96, 128, 160, 192, 224], 1.598),
        (64, 7, [224, 64, 96, 128, 160, 192, 224], 1.784),
        (128, 5, [224, 128, 160, 192, 224], 1.424),
    ],
)
def test_the_papers_schedules(smallest, stages, sizes, speedup):
    """Table 6: 1.60 for 96 pixels. It prints 1.82 and 1.40 for 64 and 128, which equal stages do not give."""
    schedule = ResolutionSchedule(smallest / 224, 80 / 480, stages)
    assert schedule.sizes(224, 32) == sizes
    assert schedule.speedup(224, 32) == pytest.approx(speedup, abs=1e-3)


def test_the_speedup_is_what_the_epochs_add_up_to():
    plan, schedule = PhasePlan(480, 0, 0), ResolutionSchedule()
    sizes = [scaled_size(224, schedule.scale(plan.position(epoch + 0.5)), 32) for epoch in range(480)]
    assert [sizes.count(size) for size in (224, 96, 128, 160, 192)] == [160, 80, 80, 80, 80]
    assert sizes[:80] == [224] * 80
    assert 480 / sum((size / 224) ** 2 for size in sizes) == pytest.approx(schedule.speedup(224, 32))


def test_stages_begin_exactly():
    scale = ResolutionSchedule(0.5, 0.2, 3).scale
    assert [scale.at(t) for t in (0, 0.19, 0.2, 0.59, 0.6, 1)] == [1, 1, 0.5, 0.5, 1, 1]


def test_without_a_warm_up_it_is_progressive_learning():
    assert ResolutionSchedule(0.5, 0, 3).scale.at(0) == 0.5


@pytest.mark.parametrize(
    ("size", "scale", "step", "expected"),
    [(224, 0.43, 32, 96), (32, 0.43, 8, 16), (32, 0.01, 8, 8), (30, 1, 8, 30), (30, 0.99, 8, 30), (100, 0.5, 1, 50)],
)
def test_sizes_are_the_nearest_multiples(size, scale, step, expected):
    assert scaled_size(size, scale, step) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"min_scale": 0}, "min_scale"), ({"warmup": 1}, "warmup"), ({"stages": 2}, "stages"), ({"over": "day"}, "over")],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResolutionSchedule(**arguments)
