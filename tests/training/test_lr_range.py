"""The learning-rate range test of a plain loop."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from mixplug import learning_rate_range
from mixplug.training.lr_range import LearningRateRange, has_ended, rates_between


def quadratic(momentum=0.0, groups=1):
    """Steps on 0.5 * x^2, which diverge from a learning rate of 2 on, and the parameter."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    parameter = model[0].weight
    nn.init.constant_(parameter, 1.0)
    params = [{"params": [parameter]}, {"params": model[1].parameters(), "lr": 0.03}][:groups]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=momentum)

    def step():
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        model(torch.randn(4, 1))  # moves the statistics of the batch norm
        loss = 0.5 * parameter.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step, optimizer, model


def test_it_leaves_weights_buffers_optimizer_and_random_numbers_as_they_were():
    step, optimizer, model = quadratic(momentum=0.5, groups=2)
    for _ in range(3):
        step()
    optimizer.zero_grad()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    found = learning_rate_range(step, optimizer, [model], 1e-3, 10, 50)
    assert len(set(found.losses)) > 10
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(p.grad is None for p in model.parameters())


def test_it_leaves_all_as_it_was_after_a_failure_too():
    step, optimizer, model = quadratic()
    before = copy.deepcopy(model.state_dict())

    def failing():
        if float(step()) < 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learning_rate_range(lambda: failing() or 1.0, optimizer, [model])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_rates_are_evenly_apart_and_groups_keep_their_proportion():
    step, optimizer, model = quadratic(groups=2)
    seen = []

    def recording():
        seen.append([group["lr"] for group in optimizer.param_groups])
        return step()

    found = learning_rate_range(recording, optimizer, [model], 1e-4, 1.0, 5)
    assert found.rates == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1, 1))
    assert seen == [[rate, pytest.approx(0.3 * rate)] for rate in found.rates]


def test_the_largest_rate_is_that_of_the_lowest_loss_before_it_diverges():
    torch.manual_seed(0)
    step, optimizer, model = quadratic()
    # From 1 on steps overshoot, from 2 on they diverge.
    found = learning_rate_range(step, optimizer, [model], 1e-3, 1e3, 200)
    assert len(found.losses) < 200
    assert 0.5 < found.largest < 5
    assert found.suggestion == found.largest / 3
    assert found.is_bounded


def test_a_rise_in_between_bounds_the_range_and_noise_does_not():
    rates = tuple(rates_between(1e-5, 1, 60))
    falling = [2 - index / 30 for index in range(60)]
    noisy = [loss + 0.05 * (-1) ** index for index, loss in enumerate(falling)]
    assert LearningRateRange(rates, tuple(noisy)).largest > rates[-4]
    bump = [loss + (1.5 if 30 <= index < 36 else 0) for index, loss in enumerate(noisy)]
    found = LearningRateRange(rates, tuple(bump))
    assert rates[24] <= found.largest <= rates[30]
    assert not LearningRateRange(rates, tuple(falling)).is_bounded


def test_it_ends_when_the_loss_says_all():
    assert has_ended([1.0, math.nan])
    assert has_ended([1.0, 0.5, 4.1])
    assert not has_ended([1.0, 0.5, 3.9])
    assert not has_ended([1.0, -1.0, 6.9]), "losses may be below 0"
    losses = iter([1.0, 0.5, math.inf])
    _, optimizer, model = quadratic()
    assert learning_rate_range(lambda: next(losses), optimizer, [model]).losses == (1.0, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 1, 5), "low must be"), ((1, 0.5, 5), "high must be .*got 0.5"), ((0.1, 1, 1), "steps must be")],
)
def test_bad_input(arguments, message):
    step, optimizer, model = quadratic()
    with pytest.raises(ValueError, match=message):
        learning_rate_range(step, optimizer, [model], *arguments)
    with pytest.raises(ValueError, match=r"begins with a rate of 1e-05, lower it"):
        learning_rate_range(lambda: math.nan, optimizer, [model])
