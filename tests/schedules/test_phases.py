from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mixplug import Phase, PhasePlan

lengths = st.integers(min_value=1, max_value=10_000)
# Ratios as people write them, and any float.
ratios = st.one_of(
    st.floats(min_value=0, max_value=1),
    st.decimals(min_value=0, max_value=1, places=3),
    st.fractions(min_value=0, max_value=1, max_denominator=1000),
    st.sampled_from([0, 1]),
)


def exact(rho) -> Fraction:
    return Fraction(str(rho))


@given(lengths, lengths, ratios)
def test_phases_partition_the_run(e_ssl, e_sl, rho):
    plan = PhasePlan(e_ssl, e_sl, rho)
    assert plan.phases[0].start == 0
    assert plan.phases[-1].stop == plan.total
    for before, after in zip(plan.phases, plan.phases[1:], strict=False):
        assert before.stop == after.start
    assert all(span.length > 0 for span in plan.phases)
    assert [span.phase for span in plan.phases] == sorted((s.phase for s in plan.phases), key=list(Phase).index)
    assert plan.total == e_ssl + e_sl - plan.e_mix


@given(lengths, lengths, ratios, st.data())
def test_phase_at_agrees_with_the_spans(e_ssl, e_sl, rho, data):
    plan = PhasePlan(e_ssl, e_sl, rho)
    t = data.draw(st.integers(0, plan.total - 1))
    holding = [span for span in plan.phases if span.start <= t < span.stop]
    assert [plan.span_at(t)] == holding
    assert plan.phase_at(t) is holding[0].phase
    assert plan.phase_at(t + 0.5) is holding[0].phase


@given(lengths, lengths, ratios)
def test_e_mix_is_the_exact_floor_within_bounds(e_ssl, e_sl, rho):
    plan = PhasePlan(e_ssl, e_sl, rho)
    assert plan.e_mix == math.floor(exact(rho) * min(e_ssl, e_sl))
    assert 0 <= plan.e_mix <= min(e_ssl, e_sl)
    assert plan.length(Phase.SSL) == e_ssl - plan.e_mix
    assert plan.length(Phase.MIX) == plan.e_mix
    assert plan.length(Phase.SL) == e_sl - plan.e_mix


@given(lengths, lengths, ratios, ratios)
def test_e_mix_grows_with_rho(e_ssl, e_sl, low, high):
    low, high = sorted((low, high), key=exact)
    assert PhasePlan(e_ssl, e_sl, low).e_mix <= PhasePlan(e_ssl, e_sl, high).e_mix


@given(lengths, lengths, ratios, st.integers(0, 100), st.integers(0, 100))
def test_e_mix_grows_with_each_length(e_ssl, e_sl, rho, more_ssl, more_sl):
    assert PhasePlan(e_ssl, e_sl, rho).e_mix <= PhasePlan(e_ssl + more_ssl, e_sl + more_sl, rho).e_mix


@given(lengths, lengths)
def test_the_ends_of_rho(e_ssl, e_sl):
    apart = PhasePlan(e_ssl, e_sl, 0)
    assert [s.phase for s in apart.phases] == [Phase.SSL, Phase.SL]
    assert apart.total == e_ssl + e_sl
    merged = PhasePlan(e_ssl, e_sl, 1)
    assert merged.total == max(e_ssl, e_sl)
    shorter = Phase.SSL if e_ssl <= e_sl else Phase.SL
    assert merged.length(shorter) == 0


@given(lengths, lengths, ratios, st.integers(1, 50))
def test_a_finer_unit_scales_the_plan(e_ssl, e_sl, rho, factor):
    """In batches instead of epochs the same plan is at most one epoch's worth of batches longer in MIX."""
    coarse, fine = PhasePlan(e_ssl, e_sl, rho), PhasePlan(e_ssl * factor, e_sl * factor, rho)
    assert coarse.e_mix * factor <= fine.e_mix < (coarse.e_mix + 1) * factor
    if (exact(rho) * min(e_ssl, e_sl)).denominator == 1:
        assert fine.e_mix == coarse.e_mix * factor


@given(st.integers(2, 20_000), ratios)
def test_from_total_fills_the_duration(total, rho):
    plan = PhasePlan.from_total(total, rho)
    assert plan.total == total
    assert plan.e_ssl - plan.e_sl in (0, 1)


@given(lengths, ratios)
def test_from_total_is_the_inverse_for_equal_lengths(length, rho):
    plan = PhasePlan(length, length, rho)
    assume(plan.total > 1)
    assert PhasePlan.from_total(plan.total, rho) == plan


def test_the_floor_is_exact_where_floats_are_not():
    assert math.floor(0.29 * 100) == 28
    for rho in (0.29, Decimal("0.29"), Fraction(29, 100), np.float64(0.29), np.float32(0.29)):
        assert PhasePlan(100, 100, rho).e_mix == 29


def test_the_paper_setting():
    plan = PhasePlan(100, 100, 0.5)
    assert [(s.phase, s.start, s.stop) for s in plan.phases] == [
        (Phase.SSL, 0, 50),
        (Phase.MIX, 50, 100),
        (Phase.SL, 100, 150),
    ]


@pytest.mark.parametrize("rho", [-0.1, 1.5, float("nan"), float("inf"), Decimal("NaN"), Fraction(-1, 2)])
def test_a_bad_rho_is_a_value_error_that_names_it(rho):
    with pytest.raises(ValueError, match=r"rho must be a number in \[0, 1\]"):
        PhasePlan(10, 10, rho)
    with pytest.raises(ValueError, match="rho"):
        PhasePlan.from_total(10, rho)


@pytest.mark.parametrize("rho", ["0.5", None, True, [0.5]])
def test_a_rho_that_is_no_number_is_a_type_error(rho):
    with pytest.raises(TypeError, match="rho must be a number"):
        PhasePlan(10, 10, rho)


def test_a_bad_length_is_a_value_error():
    with pytest.raises(ValueError, match="e_ssl must be a whole number of at least 0"):
        PhasePlan(-3, 10, 0.5)
    with pytest.raises(ValueError, match="e_sl must be"):
        PhasePlan(10, -3, 0.5)
    with pytest.raises(ValueError, match="both 0"):
        PhasePlan(0, 0, 0.5)
    for total in (0, -3):
        with pytest.raises(ValueError, match="total must be"):
            PhasePlan.from_total(total, 0.5)


@given(st.integers(1, 50), st.floats(0, 1))
def test_one_kind_alone_is_one_phase(length, rho):
    ssl, sl = PhasePlan(length, 0, rho), PhasePlan(0, length, rho)
    assert [(s.phase, s.length) for s in ssl.phases] == [(Phase.SSL, length)]
    assert [(s.phase, s.length) for s in sl.phases] == [(Phase.SL, length)]
    assert ssl.position(length).ssl_progress == sl.position(0).ssl_progress == 1


def test_a_position_knows_the_run_and_the_step():
    position = PhasePlan(4, 4, 0.5).position(3, step=9)
    assert (position.phase, position.progress, position.ssl_progress) == (Phase.MIX, 0.5, 0.75)
    assert (position.run_progress, position.step) == (0.5, 9)


@pytest.mark.parametrize("length", [1.0, "10", True, None])
def test_a_length_that_is_no_integer_is_a_type_error(length):
    with pytest.raises(TypeError, match="e_ssl must be a whole number"):
        PhasePlan(length, 10, 0.5)


def test_a_duration_too_short_to_divide():
    assert PhasePlan.from_total(1, 1).total == 1
    with pytest.raises(ValueError, match="no room"):
        PhasePlan.from_total(1, 0.99)


@pytest.mark.parametrize("t", [-1, 150, 1e9, float("nan")])
def test_phase_at_outside_of_the_run(t):
    with pytest.raises(ValueError, match="t must be"):
        PhasePlan(100, 100, 0.5).phase_at(t)
