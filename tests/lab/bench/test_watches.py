"""What a step computes, how long its parts take, and what memory it needs."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from composer.core import Event
from shared.small_recipes import mixtraining, on_trainer, stage_of
from torch import nn

from mixplug.lab.bench import watches
from mixplug.lab.bench.watches import PARTS, FlopWatch, PartsWatch, held_memory, peak_memory

CPU = torch.device("cpu")


def count(method, phase):
    watch = FlopWatch()
    with watch.counting():
        method.run(stage_of(method, phase), 0, 0, watch)
    return watch.forward / method.images, watch.backward / method.images


def block(tokens, dim):
    attention = 2 * tokens * dim * 3 * dim + 2 * 2 * tokens * tokens * dim + 2 * tokens * dim * dim
    return attention + 2 * 2 * tokens * dim * 4 * dim


# tiny.yaml: 4 patches of 4x4 grey pixels and a class token, 16 wide, one block, 10 classes.
STEM, ENCODER, HEAD = 2 * 4 * 16 * 16, block(5, 16), 2 * 16 * 10


def test_operations_of_the_supervised_step_by_hand():
    forward, backward = count(on_trainer(method="sl"), "sl")
    assert forward == STEM + ENCODER + HEAD
    assert backward == 2 * forward - STEM, "images need no gradient"


def test_operations_of_a_joint_step_by_hand():
    # mask_ratio 0.75 leaves one patch and the class token; the decoder has 2 blocks over all 5 tokens.
    method = on_trainer(mixtraining("{objective: {MAE: {mask: input}}}"))
    decoder = 2 * 2 * 16 * 16 + 2 * block(5, 16) + 2 * 4 * 16 * 16
    forward, backward = count(method, "mix")
    assert forward == STEM + block(2, 16) + HEAD + decoder
    assert backward == 2 * forward - STEM
    assert count(method, "sl")[0] == STEM + ENCODER + HEAD
    ssl_forward, ssl_backward = count(method, "ssl")
    assert ssl_forward == forward
    assert ssl_backward == backward - 2 * HEAD, "the classifier's loss has no weight"


def test_microbatches_add_up():
    method = on_trainer(method="sl")
    whole = count(method, "sl")
    method.state.device_train_microbatch_size = 8
    assert count(method, "sl") == whole


def test_the_parts_of_a_step_by_a_clock_of_ones(monkeypatch):
    """Each look at the clock is a second after the one before."""
    monkeypatch.setattr(watches.time, "perf_counter", itertools.count().__next__)
    model = nn.Linear(2, 2)
    model.ssl_objective = nn.Identity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    watch = PartsWatch(model, [optimizer], CPU)

    def step():
        for event in (Event.BEFORE_DATALOADER, Event.AFTER_DATALOADER, Event.BATCH_START, Event.BEFORE_FORWARD):
            watch.run_event(event, None, None)
        model.ssl_objective(None)
        for event in (Event.AFTER_FORWARD, Event.BEFORE_BACKWARD, Event.AFTER_BACKWARD, Event.AFTER_TRAIN_BATCH):
            watch.run_event(event, None, None)
        optimizer.step()
        watch.run_event(Event.BATCH_END, None, None)

    with watch.attached():
        step()
        assert watch.steps == [], "nobody knows when the first step began"
        step()
    # 11 seconds: within forward's three, one is the head's.
    assert watch.steps == [{"data": 1, "forward": 2, "SSL head": 1, "backward": 1, "optimizer": 1, "trainer": 5}]
    assert sum(watch.steps[0].values()) == 11


def test_the_parts_of_steps_on_a_trainer():
    method = on_trainer()
    objective, optimizers = method.model.ssl_objective, method.state.optimizers
    forward = objective.forward

    def slow(seen):
        time.sleep(0.05)
        return forward(seen)

    objective.forward = slow
    for phase in ("mix", "sl"):
        watch = PartsWatch(method.model, optimizers, CPU)
        with watch.attached():
            assert objective._forward_hooks
            assert optimizers[0]._optimizer_step_post_hooks
            seconds = method.run(stage_of(method, phase), 0, 3, watch)
        assert not objective._forward_hooks
        assert not objective._forward_pre_hooks
        assert not optimizers[0]._optimizer_step_post_hooks
        assert len(watch.steps) >= len(seconds) == 3
        for step in watch.steps:
            assert tuple(step) == PARTS
            assert min(step[part] for part in PARTS if part != "SSL head") > 0
            assert step["SSL head"] >= 0.05 if phase == "mix" else step["SSL head"] == 0


def test_hooks_are_gone_after_a_failure():
    method = on_trainer()
    watch = PartsWatch(method.model, method.state.optimizers, CPU)
    with pytest.raises(ZeroDivisionError), watch.attached():
        raise ZeroDivisionError
    assert not method.model.ssl_objective._forward_hooks
    assert not method.state.optimizers[0]._optimizer_step_post_hooks


def test_peak_memory():
    def one_after_the_other():
        for _ in range(3):
            torch.empty(1 << 20, dtype=torch.uint8)

    def at_once():
        return [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(3)]

    assert peak_memory(one_after_the_other, CPU) == 1 << 20
    assert peak_memory(at_once, CPU) == 3 << 20


def test_hidden_patches_need_no_memory():
    peaks = {}
    for mask in ("features", "input"):
        method = on_trainer(mixtraining(f"{{objective: {{MAE: {{mask: {mask}}}}}}}"), "model.args.patch_size=2")
        stage = stage_of(method, "mix")
        method.run(stage, 0, 0)
        peaks[mask] = peak_memory(lambda method=method, stage=stage: method.run(stage, 0, 0), CPU)
    assert 0 < peaks["input"] < 0.8 * peaks["features"]


def test_held_memory():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))  # 12 parameters; buffers: 4 floats and a long
    optimizer = torch.optim.AdamW(model.parameters())
    assert held_memory(model, [optimizer]) == 12 * 4 + 4 * 4 + 8
    model(torch.ones(4, 3)).sum().backward()
    assert held_memory(model, [optimizer]) == 2 * 12 * 4 + 4 * 4 + 8
    optimizer.step()
    # Two moments, and a count of steps for each of the four tensors.
    assert held_memory(model, [optimizer]) == 4 * 12 * 4 + 4 * 4 + 4 * 4 + 8
