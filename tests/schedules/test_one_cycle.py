"""OneCycle against the paper's equations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixplug import OneCycle, PhasePlan


def fixed_one_cycle(t, warmup, length, top=1.0):
    """Eq. 8, learning rate."""
    if t < warmup:
        return top - top / 2 * (math.cos(t / warmup * math.pi) + 1)
    return top / 2 * (math.cos((t - warmup) / (length - warmup) * math.pi) + 1)


def fixed_momentum(t, warmup, length, low, high):
    """Eq. 8, momentum."""
    if t < warmup:
        return low + (high - low) / 2 * (math.cos(t / warmup * math.pi) + 1)
    return high - (high - low) / 2 * (math.cos((t - warmup) / (length - warmup) * math.pi) + 1)


def linear_warmup(t, warmup, length):
    """Eq. 6."""
    return t / warmup if t < warmup else fixed_one_cycle(t, warmup, length)


@pytest.mark.parametrize(("warmup", "length"), [(80, 400), (3, 10), (1, 2), (0, 7)])
def test_at_each_step_it_is_the_papers(warmup, length):
    share = warmup / length
    for t in range(length + 1):
        assert OneCycle(0, 1, share).at(t / length) == pytest.approx(fixed_one_cycle(t, warmup, length), abs=1e-12)
        expected = fixed_momentum(t, warmup, length, 0.85, 0.95)
        assert OneCycle(0.95, 0.85, share).at(t / length) == pytest.approx(expected, abs=1e-12)
        linear = OneCycle(0, 1, share, "linear")
        assert linear.at(t / length) == pytest.approx(linear_warmup(t, warmup, length), abs=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.sampled_from(["cosine", "linear"]))
def test_it_begins_turns_and_ends_exactly_and_stays_between(warmup, time, rise):
    shape = OneCycle(0.0, 1.0, warmup, rise)
    assert (shape.at(0), shape.at(1), shape.at(-1), shape.at(2)) == (0, 0, 0, 0)
    assert shape.at(warmup) == 1
    assert 0 <= shape.at(time) <= 1


def test_a_longer_training_has_a_longer_descent_alone():
    short, long = OneCycle(0, 1, 80 / 160), OneCycle(0, 1, 80 / 400)
    for t in range(81):
        assert short.at(t / 160) == pytest.approx(long.at(t / 400), abs=1e-12)
    assert long.at(120 / 400) > short.at(120 / 160)


def test_it_runs_on_a_clock():
    plan = PhasePlan(100, 100, 0.5)
    shape = OneCycle(0.0, 1.0, 0.5, over="phase")
    assert [shape(plan.position(t)) for t in (0, 25, 50, 75, 125)] == [0, 1, 0, 1, 1]
    assert eval(repr(shape)) == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1.5), r"warmup must be a number in \[0, 1\], got 1.5"),
        ((0, math.inf, 0.5), "a value of OneCycle"),
        ((0, 1, 0.5, "cubic"), "rise must be one of .*got 'cubic'"),
        ((0, 1, 0.5, "linear", "day"), "OneCycle's over"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        OneCycle(*arguments)
    assert OneCycle(0, 1, 1).at(1) == 1
