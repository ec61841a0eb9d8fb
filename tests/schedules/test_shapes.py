from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixplug import Cosine, Points, Polynomial, Position, Ramp, Steps
from mixplug.schedules.shapes import check_schedule, time_on, value_at

ends = st.floats(min_value=-10, max_value=10)
times = st.floats(0, 1)
SLOPES = (Ramp, Cosine, Polynomial)


@pytest.mark.parametrize("shape", SLOPES)
@given(start=ends, stop=ends, time=times)
def test_a_slope_stays_between_its_ends(shape, start, stop, time):
    value = shape(start, stop).at(time)
    assert min(start, stop) - 1e-9 <= value <= max(start, stop) + 1e-9


@pytest.mark.parametrize("shape", SLOPES)
@given(start=ends, stop=ends)
def test_a_slope_begins_and_ends_where_it_says(shape, start, stop):
    slope = shape(start, stop)
    assert slope.at(0) == slope.at(-1) == pytest.approx(start, abs=1e-12)
    assert slope.at(1) == slope.at(2) == pytest.approx(stop, abs=1e-12)


def test_what_lies_between():
    assert Ramp(1.0, 0.0).at(0.25) == 0.75
    assert Cosine(1.0, 0.0).at(1 / 3) == pytest.approx(0.75)
    assert Polynomial(1.0, 0.0, 2).at(0.5) == 0.75
    assert Polynomial(1.0, 0.0, 1).at(0.3) == pytest.approx(Ramp(1.0, 0.0).at(0.3))


@given(times)
def test_polynomial_decay_stays_above_cosine(time):
    """The compression paper's alpha = 2, which Composer's own polynomial is not."""
    assert Polynomial(1.0, 0.0).at(time) >= Cosine(1.0, 0.0).at(time) - 1e-12


def test_points_are_joined_by_lines_and_may_jump():
    points = Points([(0.2, 1.0), (0.5, 0.4), (0.5, 0.8), (0.9, 0.0)])
    assert [points.at(t) for t in (0, 0.2, 0.5, 1)] == [1.0, 1.0, 0.8, 0.0]
    assert points.at(0.35) == pytest.approx(0.7)
    assert points.at(0.5 - 1e-9) == pytest.approx(0.4)
    assert points.at(0.7) == pytest.approx(0.4)


def test_steps_hold_until_the_next():
    steps = Steps({0.0: 0.75, 0.5: 0.5, 0.8: 0.0})
    assert [steps.at(t) for t in (0, 0.49, 0.5, 0.79, 0.8, 1)] == [0.75, 0.75, 0.5, 0.5, 0.0, 0.0]
    assert steps == Steps([(0.0, 0.75), (0.5, 0.5), (0.8, 0.0)])
    assert Steps([(0.3, 2.0)]).at(0) == 2.0


@given(st.sampled_from(["ssl", "mix", "sl"]), times, times, times)
def test_each_clock_shows_its_own_time(phase, progress, ssl_progress, run_progress):
    position = Position(phase, progress, ssl_progress, run_progress)
    assert time_on("phase", position) == progress
    assert time_on("ssl", position) == ssl_progress
    assert time_on("run", position) == run_progress
    assert time_on("mix", position) == {"ssl": 0, "mix": progress, "sl": 1}[phase]


def test_the_shapes_own_clock_goes_before_the_options():
    position = Position("ssl", 0.5, 0.25, 0.125)
    assert value_at(Ramp(0.0, 1.0), position, "ssl") == 0.25
    assert value_at(Ramp(0.0, 1.0, over="run"), position, "ssl") == 0.125
    assert Ramp(0.0, 1.0, over="phase")(position) == 0.5
    assert value_at(0.3, position, "mix") == 0.3
    with pytest.raises(ValueError, match=r"Ramp\(start=0.0, stop=1.0\) runs on no clock"):
        Ramp(0.0, 1.0)(position)


def test_a_repr_names_the_clock_only_where_there_is_one():
    assert repr(Ramp(1.0, 0.0)) == "Ramp(start=1.0, stop=0.0)"
    assert repr(Ramp(1.0, 0.0, over="run")) == "Ramp(start=1.0, stop=0.0, over='run')"
    for shape in (Cosine(1, 0, "ssl"), Polynomial(1, 0, 3.0), Points([(0, 1)]), Steps({0: 1.0, 0.5: 2.0}, "phase")):
        assert eval(repr(shape)) == shape


@pytest.mark.parametrize(
    ("schedule", "error"),
    [
        (-0.1, ValueError),
        (Ramp(0.5, 1.5), ValueError),
        (Cosine(-1, 0), ValueError),
        (Steps({0: 0.5, 0.5: 2}), ValueError),
        ("0.5", TypeError),
        (None, TypeError),
    ],
)
def test_a_schedule_outside_of_its_range(schedule, error):
    with pytest.raises(error, match="alpha"):
        check_schedule("alpha", schedule, 0, 1)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Ramp(math.nan, 0.0), ValueError, "a value of Ramp"),
        (lambda: Ramp(0.0, math.inf), ValueError, "a value of Ramp"),
        (lambda: Cosine("1", 0.0), TypeError, "a value of Cosine"),
        (lambda: Ramp(0.0, 1.0, over="epoch"), ValueError, "Ramp's over"),
        (lambda: Polynomial(1.0, 0.0, 0), ValueError, "Polynomial's power"),
        (lambda: Points([]), ValueError, "at least one"),
        (lambda: Points(0.5), TypeError, r"\(time, value\) pairs"),
        (lambda: Points([(0, 1, 2)]), TypeError, r"\(time, value\) pairs"),
        (lambda: Steps({0.5: 1.0, 0.2: 0.0}), ValueError, "in order"),
        (lambda: Steps({-0.1: 1.0}), ValueError, "a time of Steps"),
        (lambda: Steps({0.0: "a"}), TypeError, "a value of Steps"),
    ],
)
def test_a_bad_shape(make, error, says):
    with pytest.raises(error, match=says):
        make()
