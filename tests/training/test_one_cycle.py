"""OneCyclePolicy in a hand-written loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mixplug import OneCycle, OneCyclePolicy
from mixplug.training.one_cycle import restore_momentum

OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda g: g["momentum"]),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.7), lambda g: g["momentum"]),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.99)), lambda g: g["betas"][0]),
    "NAdam": (lambda p: torch.optim.NAdam(p, lr=0.1), lambda g: g["betas"][0]),
}


def two_groups(model):
    return [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.02}]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_and_momentum_of_each_group(name):
    make, momentum_of = OPTIMIZERS[name]
    optimizer = make(two_groups(nn.Linear(2, 2)))
    own = momentum_of(optimizer.param_groups[0])
    policy = OneCyclePolicy(0.25, (0.8, 0.96))
    for step in range(41):
        policy.set(optimizer, step / 40)
        rates = [group["lr"] for group in optimizer.param_groups]
        factor = OneCycle(0.0, 1.0, 0.25).at(step / 40)
        assert rates == [0.1 * factor, 0.02 * factor]
        momentum = OneCycle(0.96, 0.8, 0.25).at(step / 40)
        assert [momentum_of(group) for group in optimizer.param_groups] == [momentum] * 2
        # In anti-phase: both are where they are on one line.
        assert momentum == pytest.approx(0.96 - 0.16 * factor)
    if name == "AdamW":
        assert optimizer.param_groups[0]["betas"][1] == 0.99
    restore_momentum(optimizer)
    assert [momentum_of(group) for group in optimizer.param_groups] == [own] * 2


def test_a_group_without_momentum_stays_without():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight], "momentum": 0.9}, {"params": [model.bias]}], lr=0.1)
    for progress in (0.0, 0.5):
        OneCyclePolicy(0.5, (0.0, 0.9)).set(optimizer, progress)
        assert [g["momentum"] for g in optimizer.param_groups] == [[0.9, 0], [0, 0]][progress == 0.5]
    OneCyclePolicy(0.5, (0.0, 0.9)).set(optimizer, 1.0)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)])
def test_without_momentum_it_says_what_to_do(make):
    with pytest.raises(ValueError, match=r"has no momentum to change: .*or give momentum=None"):
        OneCyclePolicy(0.5).set(make(nn.Linear(2, 2).parameters()), 0.1)
    optimizer = make(nn.Linear(2, 2).parameters())
    OneCyclePolicy(0.5, momentum=None).set(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_loop_resumes_bit_for_bit():
    def trained(model, optimizer, steps):
        for step in steps:
            OneCyclePolicy(0.3).set(optimizer, step / 10)
            optimizer.zero_grad()
            model(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()
        return model, optimizer

    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    make = OPTIMIZERS["SGD"][0]
    whole = copy.deepcopy(model)
    trained(whole, make(whole.parameters()), range(10))
    half, optimizer = trained(model, make(model.parameters()), range(5))
    fresh = make(half.parameters())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    trained(half, fresh, range(5, 10))
    assert torch.equal(half.weight, whole.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"warmup": 2}, ValueError, r"warmup must be a number in \[0, 1\], got 2"),
        ({"warmup": 0.1, "momentum": (0.9, 0.8)}, ValueError, r"got \(0.9, 0.8\); swap them"),
        ({"warmup": 0.1, "momentum": (0.9, 1.0)}, ValueError, r"a limit of momentum must be .*\[0, 1\)"),
        ({"warmup": 0.1, "momentum": 0.9}, TypeError, "lower and upper limit"),
        ({"warmup": 0.1, "rise": "log"}, ValueError, "rise"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        OneCyclePolicy(**arguments)
