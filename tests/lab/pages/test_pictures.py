from __future__ import annotations

import pytest
from shared.fake_runs import fake_comparison

from mixplug.lab.pages.pictures import curves


@pytest.mark.parametrize(("count", "marker"), [(1, "o"), (2, "None")])
def test_a_single_evaluation_can_be_seen(count, marker):
    run = fake_comparison().runs["mix", 0]
    run.history["accuracy"] = [[epoch, 0.5] for epoch in range(count)]
    accuracy = curves({"a": [run, run]}).axes[2]
    assert [line.get_marker() for line in accuracy.lines] == [marker] * 3
