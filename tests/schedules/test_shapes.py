from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixplug import Ramp
from mixplug.schedules.shapes import check_schedule, value_at

ends = st.floats(min_value=-10, max_value=10)


@given(ends, ends, st.floats(0, 1))
def test_a_ramp_stays_between_its_ends(start, stop, progress):
    value = Ramp(start, stop)(progress)
    assert min(start, stop) - 1e-9 <= value <= max(start, stop) + 1e-9


@given(ends, ends)
def test_a_ramp_begins_and_ends_where_it_says(start, stop):
    ramp = Ramp(start, stop)
    assert ramp(0) == ramp(-1) == start
    assert ramp(1) == ramp(2) == pytest.approx(stop, abs=1e-12)


def test_a_number_is_a_schedule_too():
    assert value_at(0.3, 0.9) == 0.3
    assert value_at(Ramp(1.0, 0.0), 0.25) == 0.75


@pytest.mark.parametrize(
    ("schedule", "error"),
    [
        (-0.1, ValueError),
        (Ramp(0.5, 1.5), ValueError),
        (Ramp(-1, 0), ValueError),
        ("0.5", TypeError),
        (None, TypeError),
    ],
)
def test_a_schedule_outside_of_its_range(schedule, error):
    with pytest.raises(error, match="alpha"):
        check_schedule("alpha", schedule, 0, 1)


@pytest.mark.parametrize(("end", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)])
def test_a_bad_end(end, error):
    with pytest.raises(error, match="Ramp's start"):
        Ramp(end, 0.0)
