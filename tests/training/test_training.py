"""Training: what cannot be got wrong silently in a hand-written loop."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, labels, tiny_vit
from torch.optim import SGD, AdamW

from mixplug import MAE, MoCoV3, PhasePlan, Training, random_tokens

PLAN = PhasePlan(2, 2, 0.5)


def moco():
    return MoCoV3(hidden_dim=8, out_dim=4, momentum=0.5)


def make(objective=None, plan=PLAN, **options):
    torch.manual_seed(0)
    model = tiny_vit(in_chans=3)
    training = Training(model, plan, objective or moco(), **options)
    return model, training, AdamW(training.parameters(), lr=1e-2, weight_decay=0.1)


def batch(count=6):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)), labels(count)


def one_step(model, training, optimizer, time, parts=1):
    x, y = batch()
    with training.step(time, optimizer) as step:
        optimizer.zero_grad()
        for own_x, own_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (step.loss(F.cross_entropy(model(own_x), own_y)) / parts).backward()
        optimizer.step()
    return step


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_momentum_encoders_follow(time):
    model, training, optimizer = make()
    before = copy.deepcopy(training.objective.momentum_encoder.state_dict())
    one_step(model, training, optimizer, time)
    after = training.objective.momentum_encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert training.steps == 1


def test_frozen_parameters_are_not_trained():
    _, training, _ = make()
    trained = {id(p) for p in training.parameters()}
    assert not trained & {id(p) for p in training.objective.frozen_parameters()}
    assert trained >= {id(p) for p in training.objective.projector.parameters()}


def test_the_position_counts_steps():
    model, training, optimizer = make()
    steps = [one_step(model, training, optimizer, time) for time in (0.0, 1.0, 2.0)]
    assert [step.position.step for step in steps] == [0, 1, 2]
    assert [str(step.position.phase) for step in steps] == ["ssl", "mix", "sl"]
    assert [tuple(step.weights) for step in steps] == [(1, 0), (0.5, 0.5), (0, 1)]


def test_what_a_phase_does_not_train_stays_where_it_is_with_gradients_set_to_zero():
    model, training, optimizer = make(MAE(mask="input"))
    one_step(model, training, optimizer, 1.0)  # MIX: everything has moments and gradients
    kept = {name: p.clone() for name, p in training.objective.named_parameters()}
    x, y = batch()
    with training.step(2.0, optimizer) as step:
        optimizer.zero_grad(set_to_none=False)
        step.loss(F.cross_entropy(model(x), y)).backward()
        optimizer.step()
    assert all(torch.equal(kept[name], p) for name, p in training.objective.named_parameters())


def test_gradients_may_be_accumulated_in_a_step():
    """With an objective of no randomness, two halves give the gradients of the whole."""
    grads = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = tiny_vit(in_chans=3).double()
        training = Training(model, PhasePlan(0, 2, 0))
        optimizer = SGD(training.parameters(), lr=0.0)
        x, y = batch()
        with training.step(0.0, optimizer) as step:
            for own_x, own_y in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                (step.loss(F.cross_entropy(model(own_x), own_y)) / parts).backward()
            optimizer.step()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_each_microbatch_is_watched():
    model, training, optimizer = make(MAE(mask="input"))
    seen = []
    training.encoder_pass.add(lambda request: seen.append(request.role) or request)
    one_step(model, training, optimizer, 0.0, parts=3)
    assert training.steps == 1
    assert seen == ["shared"]  # a request is assembled once for a step, and each forward pass draws anew


def test_plugins_amend_the_passes():
    def keep_half(request):
        return dataclasses.replace(request, select=random_tokens(0.5))

    model, training, optimizer = make(MAE(mask="features"), plugins=[keep_half])
    lengths = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    one_step(model, training, optimizer, 2.0)
    assert lengths == [9]
    assert model(batch()[0]).shape == (6, 10)


def test_a_step_that_was_left_out_by_a_gradient_scaler_is_none():
    model, training, optimizer = make()
    x, y = batch()
    before = [p.clone() for p in training.objective.frozen_parameters()]
    with training.step(0.0, optimizer) as step:
        (step.loss(F.cross_entropy(model(x), y)) * float("inf")).backward()
    assert training.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, training.objective.frozen_parameters(), strict=True))


def no_loss(model, step, optimizer):
    optimizer.step()


def no_optimizer(model, step, optimizer):
    x, y = batch()
    step.loss(F.cross_entropy(model(x), y)).backward()


def no_forward(model, step, optimizer):
    step.loss(torch.zeros(()))


def two_forwards(model, step, optimizer):
    x, y = batch()
    model(x)
    step.loss(F.cross_entropy(model(x), y)).backward()


def one_forward_more(model, step, optimizer):
    no_optimizer(model, step, optimizer)
    model(batch()[0])
    optimizer.step()


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (no_loss, "without a loss"),
        (no_optimizer, r"without optimizer\.step\(\)"),
        (no_forward, "ran its backbone 0 times"),
        (two_forwards, "ran its backbone 2 times"),
        (one_forward_more, "once more after the last"),
    ],
)
def test_a_block_that_is_no_step(block, says):
    model, training, optimizer = make()
    with pytest.raises(RuntimeError, match=says), training.step(0.0, optimizer) as step:
        block(model, step, optimizer)
    assert not training.encoder_pass.backbone._passes
    one_step(model, training, optimizer, 0.0)  # and the next one works


def test_a_step_within_a_step():
    _, training, optimizer = make()
    within = pytest.raises(RuntimeError, match="within another")
    with within, training.step(0.0, optimizer), training.step(0.0, optimizer):
        pass


@pytest.mark.parametrize(
    ("make_it", "error", "says"),
    [
        (lambda: Training(tiny_vit(), 4, MAE()), TypeError, "plan must be a PhasePlan"),
        (lambda: Training(tiny_vit(), PLAN), ValueError, "needs an objective"),
        (lambda: Training(tiny_vit(), PLAN, "mae"), TypeError, "objective must be"),
        (lambda: Training(tiny_vit(), PLAN, MAE(), alpha=2), ValueError, "alpha"),
        (lambda: Training(tiny_vit(), PLAN, MAE(), plugins=[3]), TypeError, "an amendment must be"),
        (lambda: Training(torch.nn.Linear(2, 2), PLAN, MAE()), TypeError, "no model of timm's"),
    ],
)
def test_bad_arguments(make_it, error, says):
    with pytest.raises(error, match=says):
        make_it()


def test_a_time_beyond_the_plan():
    _, training, optimizer = make()
    with pytest.raises(ValueError, match="t must be a number in"), training.step(3.5, optimizer):
        pass


def test_pure_runs():
    model, training, optimizer = make(plan=PhasePlan(2, 0, 0.5))
    assert one_step(model, training, optimizer, 1.5).weights == (1, 0)
    x = images(4)
    vit = tiny_vit()
    plain = Training(vit, PhasePlan(0, 2, 0.5))
    sgd = SGD(plain.parameters(), lr=0.1)
    with plain.step(0, sgd) as step:
        step.loss(F.cross_entropy(vit(x), labels(4))).backward()
        sgd.step()
    assert step.weights == (0, 1)
