"""A method is run where it is asked to be, for as long as it is asked to."""

from __future__ import annotations

import math

import pytest
import torch
from composer.core import Callback, Event
from shared.small_recipes import EVEN, mixtraining, on_trainer, stage_of, tiny

from mixplug.algorithms.joint_loss import weights_of
from mixplug.algorithms.trainer.contract import position_of
from mixplug.lab.runs.experiment import Experiment


class Watch(Callback):
    """Notes where each step begins, and every event."""

    def __init__(self):
        self.steps, self.events = [], []

    def run_event(self, event, state, logger):
        self.events.append(event)
        if event is Event.BATCH_START:
            images = len(state.batch_get_item(0))
            self.steps.append((position_of(state), state.timestamp, weights_of(state).ssl, images))


RAMP = mixtraining("{alpha: {Ramp: {start: 1, stop: 0}}}")


def test_the_trainer_is_at_the_place_asked_for():
    method = on_trainer(*EVEN, RAMP)
    assert [(s.phase.value, s.span.start, s.steps) for s in method.stages] == [
        ("ssl", 0, 10),
        ("mix", 2, 10),
        ("sl", 4, 10),
    ]
    alphas = {"ssl": {0.0: 1, 0.7: 1}, "mix": {0.0: 1, 0.7: 0.5}, "sl": {0.0: 0, 0.7: 0}}
    for stage in reversed(method.stages):  # any order will do
        for progress, epoch in ((0.7, 1), (0.0, 0)):
            watch = Watch()
            assert len(method.run(stage, progress, 3, watch)) == 3
            position, time, alpha, images = watch.steps[0]
            assert len(watch.steps) == 4, "one warms up"
            assert (position.phase, position.progress) == (stage.phase, epoch / 2)
            assert (time.epoch, time.batch) == (stage.span.start + epoch, 5 * (stage.span.start + epoch))
            assert alpha == alphas[stage.phase.value][progress]
            assert method.images == images == 9


def test_runs_in_batches():
    method = on_trainer("ssl_duration=8ba", "sl_duration=8ba", RAMP)
    assert [(stage.span.start, stage.steps) for stage in method.stages] == [(0, 4), (4, 4), (8, 4)]
    watch = Watch()
    method.run(stage_of(method, "mix"), 0.6, 0, watch)
    assert [(time.batch, alpha) for _, time, alpha, _ in watch.steps] == [(6, 0.5)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["ssl_duration=4ba", "sl_duration=4ba"],
        ["data.batch_size=512"],
        ["ssl_duration=4ba", "sl_duration=4ba", "ssl_data={dataset: digits, fraction: 0.1}"],
        ["ssl_data={dataset: digits, fraction: 0.02}"],
    ],
    ids=["batches", "one batch is an epoch", "other images, batches", "other images"],
)
def test_more_steps_than_are_left_stay_in_the_phase(overrides):
    method = on_trainer(*overrides)
    for stage in method.stages:
        watch = Watch()
        assert len(method.run(stage, 0.9, 4, watch)) == 4
        assert len(watch.steps) >= 5
        assert {position.phase for position, *_ in watch.steps} == {stage.phase}


def test_smaller_batches_are_not_timed():
    method = on_trainer("data.batch_size=32")  # of 45 images
    watch = Watch()
    assert len(method.run(method.stages[0], 0, 2, watch)) == 2
    assert [images for *_, images in watch.steps] == [32, 13, 32, 13, 32]
    assert method.images == 32


def test_it_trains_and_does_not_evaluate():
    method = on_trainer(*EVEN, "eval_interval=1ba")
    before = [p.detach().clone() for p in method.model.parameters()]
    watch = Watch()
    method.run(stage_of(method, "mix"), 0, 6, watch)
    assert all(not torch.equal(p, old) for p, old in zip(method.model.parameters(), before, strict=True))
    assert Event.EPOCH_END in watch.events
    assert Event.EVAL_START not in watch.events
    assert watch not in method.state.callbacks


def test_a_watch_is_gone_after_a_failure():
    class Failing(Callback):
        def batch_end(self, state, logger):
            raise ZeroDivisionError

    method, watch = on_trainer(method="sl"), Failing()
    with pytest.raises(ZeroDivisionError):
        method.run(method.stages[0], 0, 1, watch)
    assert watch not in method.state.callbacks


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mix", EVEN),
        ("mix", ["ssl_duration=5ba", "sl_duration=3ba"]),
        ("mix", ["ssl_data={dataset: digits, fraction: 0.1}"]),
        ("ssl_sl", []),
        ("sl", []),
        ("mix", ["methods.mix.algorithms=[FusedBackbonePass]"]),
    ],
)
def test_the_stages_steps_are_a_whole_trainings(name, overrides):
    recipe = tiny(*overrides, "pictures=0")
    experiment = Experiment(recipe, name, 0)
    watch, counted = Watch(), {}
    experiment.trainer.state.callbacks.append(watch)
    experiment.run()
    for position, *_ in watch.steps:
        counted[position.phase] = counted.get(position.phase, 0) + 1
    stages = on_trainer(*overrides, method=name).stages
    if name == "sl":  # without phases and objective it is no MIX
        assert [stage.phase for stage in stages] == ["sl"]
        assert stages[0].steps == sum(counted.values())
    else:
        assert {stage.phase: stage.steps for stage in stages} == counted


@pytest.mark.parametrize("progress", [0, 0.3, 0.999])
def test_how_much_of_a_phase_has_begun(progress):
    for stage in on_trainer("ssl_duration=7ep", "sl_duration=3ep").stages:
        begun = stage.begun(progress)
        assert begun <= progress * stage.span.length < begun + 1
        assert math.floor(begun) == begun < stage.span.length
