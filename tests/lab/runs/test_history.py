"""What steps began with, kept with a run: the learning rate, the momentum, and what schedules say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from shared.fake_runs import TINY

from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.history import _corners

ONE_CYCLE = "scheduler={FixedOneCycleScheduler: {t_warmup: 0.25dur}}"
DROPOUT = "methods.sl.algorithms=[{TokenDropout: {rate: {Ramp: {start: 0.75, stop: 0.25}}}}]"


def at(points, times):
    return np.interp(times, *zip(*points, strict=True))


def test_of_each_batch_they_are_the_schedules_own():
    recipe = load_recipe(TINY, ["ssl_duration=8ba", "sl_duration=8ba", "pictures=0", ONE_CYCLE, DROPOUT])
    found = Experiment(recipe, "sl", 0).run().settings
    batches = np.arange(1, 9)
    done = (batches - 1) / 8
    lagging = [max(0, t - 1 / 8) for t in done]  # Composer sets a rate after the batch for which it was asked
    angles = [t / 0.25 - 1 if t < 0.25 else (t - 0.25) / 0.75 for t in lagging]  # of a turn's halves, 0 at the top
    factor = [(1 + math.cos(math.pi * angle)) / 2 for angle in angles]
    assert at(found["learning_rate"], batches) == pytest.approx([1e-3 * f for f in factor])
    assert at(found["optimizer_momentum"], batches) == pytest.approx([0.95 - 0.1 * f for f in factor])
    assert at(found["token_dropout"], batches) == pytest.approx(0.75 - 0.5 * done)


def test_of_epochs_they_are_means_over_batches_with_microbatches_too():
    overrides = ["pictures=0", "data.batch_size=16", DROPOUT, "sl_duration=2ep"]
    recipe = load_recipe(TINY, overrides)
    experiment = Experiment(recipe, "sl", 0)
    batches = len(experiment.inputs.train)
    assert batches > 1
    experiment.trainer.state.device_train_microbatch_size = 8
    found = experiment.run().settings["token_dropout"]
    done = np.arange(2 * batches) / (2 * batches)
    expected = (0.75 - 0.5 * done).reshape(2, batches).mean(1)
    assert [value for _, value in found] == pytest.approx(expected)
    assert [time for time, _ in found] == [1, 2]


def test_phases_have_the_settings_of_their_steps():
    recipe = load_recipe(TINY, ["pictures=0"])
    found = Experiment(recipe, "mix", 0).run().settings
    assert found["w_ssl"] == [[1, 1], [2, 0.5], [3, 0]]
    assert at(found["learning_rate"], [1, 2, 3]) == pytest.approx([1e-3, 1e-3, 5e-4])
    assert found["mask_ratio"] == [[1, 0.75], [2, 0.75]]  # there is no mask in SL
    assert "phase" not in found


@pytest.mark.parametrize(
    ("values", "kept"),
    [([], []), ([1], [1]), ([1, 1], [1, 2]), ([1, 1, 1], [1, 3]), ([1, 2, 2, 2, 2, 3], [1, 2, 5, 6])],
)
def test_stretches_of_equal_values_are_their_ends(values, kept):
    assert [time for time, _ in _corners([[n, v] for n, v in enumerate(values, start=1)])] == kept
