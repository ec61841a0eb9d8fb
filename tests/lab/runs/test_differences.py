from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mixplug.lab.runs.differences import difference_of


def test_a_fixed_number_of_seeds_has_students_interval():
    ahead, behind = [0.6, 0.62, 0.61, 0.65], [0.58, 0.61, 0.6, 0.6]
    found = difference_of(ahead, behind, 0.05)
    test = stats.ttest_rel(ahead, behind).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((test.low, test.high))
    assert found.mean == pytest.approx(0.0225)
    assert found.seeds == 4


@pytest.mark.parametrize("looking", [False, True])
def test_one_seed_decides_nothing(looking):
    found = difference_of([0.9], [0.1], 0.05, looking)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.is_decided


def test_equal_differences_by_chance_are_no_certainty():
    assert difference_of([0.51, 0.52], [0.5, 0.51], 0.05).is_decided, "their standard deviation is 0"
    assert not difference_of([0.51, 0.52], [0.5, 0.51], 0.05, resolution=1 / 100).is_decided


@pytest.mark.parametrize("level", [0.05, 0.3])
def test_a_series_of_looks_holds_the_truth_at_once(level):
    """4,000 series of 30 seeds, looked at after each: the truth is ever outside in at most ``level`` of them."""
    draws = np.random.default_rng(0).standard_normal((4000, 30))
    outside, students = np.zeros(4000, bool), np.zeros(4000, bool)
    for seeds in range(2, 31):
        # The interval is linear in the standard deviation: one of draws of deviation 1 gives all.
        unit = difference_of([*([1.0, -1.0] * seeds)][:seeds], [0.0] * seeds, level, looking=True)
        width = (unit.high - unit.low) / 2 / np.std([*([1.0, -1.0] * seeds)][:seeds], ddof=1)
        means, deviations = draws[:, :seeds].mean(1), draws[:, :seeds].std(1, ddof=1)
        outside |= np.abs(means) > width * deviations
        students |= np.abs(means) > stats.t.ppf(1 - level / 2, seeds - 1) / math.sqrt(seeds) * deviations
    assert 0.2 * level < outside.mean() < level
    assert students.mean() > 2 * level, "what looking does to an interval that is for one look"


def test_a_clear_difference_is_decided_by_few_seeds():
    rng = np.random.default_rng(1)
    draws = rng.normal(0.03, 0.01, 20)
    needed = next(n for n in range(2, 21) if difference_of(draws[:n], [0.0] * n, 0.05, looking=True).low > 0)
    assert 4 <= needed <= 8
