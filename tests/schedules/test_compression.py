"""Stages of compression: by hand, and from what was measured."""

from __future__ import annotations

import json

import pytest

from mixplug import CompressionSchedule, PhasePlan, Steps

STAGES = {0: (0.75, 8), 0.5: (0.5, 4), 0.9: (0.0, 2)}


def test_rates_and_sizes_are_steps_over_self_supervised_learning():
    schedule = CompressionSchedule(STAGES)
    assert schedule.rate == Steps({0: 0.75, 0.5: 0.5, 0.9: 0.0}, over="ssl")
    assert schedule.patch == Steps({0: 8, 0.5: 4, 0.9: 2}, over="ssl")
    plan = PhasePlan(10, 10, 0.5)
    at = [(schedule.rate(plan.position(t)), schedule.patch(plan.position(t))) for t in (0, 4.9, 5, 8.9, 9, 14)]
    assert at == [(0.75, 8), (0.75, 8), (0.5, 4), (0.5, 4), (0.0, 2), (0.0, 2)]
    assert CompressionSchedule([(0, (0.75, 8)), (0.5, (0.5, 4)), (0.9, (0.0, 2))]) == schedule
    assert CompressionSchedule(STAGES, over="run").rate(plan.position(7.5)) == 0.5
    assert eval(repr(schedule)) == schedule


def stage(progress, *rows, phase="ssl"):
    written = [{"rate": rate, "patch": patch, "ca_mse": {"value": value, "error": 0.1}} for rate, patch, value in rows]
    return {"ssl_progress": progress, "phase": phase, "rows": written}


def test_the_best_of_each_checkpoint_holds_around_it(tmp_path):
    path = tmp_path / "gradient_error.json"
    content = {
        "stages": [
            stage(0.5, (0.75, 8, 0.3), (0.5, 4, 0.2), (0.0, 2, 0.4)),
            stage(0.0, (0.75, 8, -0.1), (0.5, 4, 0.2)),
            stage(1.0, (0.75, 8, 0.3), (0.0, 2, 0.1), phase="mix"),
            stage(1.0, (0.75, 8, 0.0), phase="sl"),
        ]
    }
    path.write_text(json.dumps(content))
    assert CompressionSchedule.read(path) == CompressionSchedule({0: (0.75, 8), 0.25: (0.5, 4), 0.75: (0.0, 2)})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stages": []}', '{"stages": [{"phase": "ssl"}]}'])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other.json.*gradient-error"):
        CompressionSchedule.read(path)
    with pytest.raises(FileNotFoundError, match="gradient-error writes"):
        CompressionSchedule.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({},), ValueError, "at least one"),
        ((0.5,), TypeError, "pairs.*0.5"),
        (({0: 0.5},), TypeError, r"\(rate, patch\).*0.5"),
        (({0: (0.5, 4, 3)},), TypeError, r"\(rate, patch\)"),
        (({0: (1.0, 4)},), ValueError, r"rate.*\[0, 1\).*1.0"),
        (({0: ("0.5", 4)},), TypeError, "rate"),
        (({0: (0.5, 0)},), ValueError, "patch size.*at least 1.*0"),
        (({0: (0.5, 4.5)},), TypeError, "patch size"),
        (({2: (0.5, 4)},), ValueError, r"time.*\[0, 1\].*2"),
        (({0.5: (0.5, 4), 0.1: (0.0, 4)},), ValueError, "order"),
        ((STAGES, "epoch"), ValueError, "over.*'epoch'"),
    ],
)
def test_bad_stages_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CompressionSchedule(*arguments)
