"""Compression that measures: what is chosen, what it costs, and that training does not notice."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES

from mixplug import PhasePlan, Position, Training
from mixplug.training.auto_compression import CompressByError
from mixplug.training.gradient_error import StepGradients, Strategy

PLAN = PhasePlan(10, 0, 0)
P = 16


class Known(StepGradients):
    """Gradients of mean 1 and standard deviation ``noise`` in P places, and for each rate a bias of that."""

    def __init__(self, noise=0.5):
        self.noise = noise

    def of(self, strategy, images, labels, seed):
        drawn = torch.randn(P, generator=torch.Generator().manual_seed(seed)) * self.noise / math.sqrt(len(images))
        return 1 + strategy.rate + drawn

    def own_randomness(self):
        return torch.random.fork_rng(devices=[])


def cost(strategy):
    return 3 * (1 - strategy.rate)


def run_one(auto, step, steps, noise):
    """The strategy in force in a step of 8 images."""
    position = PLAN.position(10 * step / steps, step=step)
    auto.advance(position)
    auto.measure(torch.zeros(8, 1, 8, 8), None, position, lambda: Known(noise), cost)
    return auto.strategy


def run(auto, steps, noise=0.5):
    """The strategies in force in each of ``steps`` steps over the whole clock."""
    return [run_one(auto, step, steps, noise) for step in range(steps)]


# The true gradient's squared norm is P; CA-MSE is P * (rate^2 + (1 - rate) * noise^2 / batch).
@pytest.mark.parametrize(("noise", "best"), [(0.1, 0.0), (2.8, 0.5), (40.0, 0.9)])
def test_the_strategy_of_least_error_is_taken(noise, best):
    rates = (0.0, 0.5, 0.9)
    expected = min(rates, key=lambda rate: rate**2 + (1 - rate) * noise**2 / 8)
    assert expected == best
    taken = run(CompressByError(rates, share=1.0, stages=4, sub_batch=2), 400, noise)
    assert taken[0] == Strategy(0.0)
    assert taken[-1] == Strategy(best)
    assert sum(strategy == Strategy(best) for strategy in taken) > 300


def test_choices_follow_the_training():
    auto = CompressByError((0.9, 0.0), share=1.0, stages=5, sub_batch=2)
    # The noise ends in the middle of the third stage of five, and the fourth is the first to have none of it.
    taken = [run_one(auto, step, 400, 40.0 if step < 200 else 0.01) for step in range(400)]
    assert taken[:240] == [Strategy(0.9)] * 240
    assert taken[320:] == [Strategy(0.0)] * 80


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_measuring_costs_its_share_and_no_more(share):
    auto = CompressByError((0.0, 0.5), share=share, sub_batch=4)
    for step in range(300):
        run_one(auto, step, 300, 1.0)
        assert auto.overhead <= share
    assert auto.overhead > 0.9 * share
    assert auto.images == 2400
    assert auto.mean_cost == pytest.approx((auto.trained + auto.spent) / 2400)


def test_a_stage_that_saw_too_little_goes_on():
    auto = CompressByError((0.5, 0.0), share=0.03, sub_batch=8)
    assert run(auto, 20) == [Strategy(0.5)] * 20


def test_a_step_that_is_tried_twice_counts_once():
    auto = CompressByError((0.0, 0.5), share=1.0, sub_batch=4)
    run_one(auto, 3, 9, 1.0)
    before = auto.state_dict()["trained"], auto.state_dict()["spent"], auto.sub_batches
    run_one(auto, 3, 9, 1.0)
    assert (auto.trained, auto.spent, auto.sub_batches) == before


def test_it_goes_on_from_its_state():
    whole, parts = (CompressByError((0.0, 0.5, 0.9), share=1.0, stages=7, sub_batch=2) for _ in range(2))
    for step in range(90):
        taken = run_one(whole, step, 90, 3.0)
        state = parts.state_dict()
        parts = CompressByError((0.0, 0.5, 0.9), share=1.0, stages=7, sub_batch=2)
        parts.load_state_dict(state)
        assert run_one(parts, step, 90, 3.0) == taken
    assert whole.overhead == parts.overhead
    a, b = whole.state_dict()["errors"], parts.state_dict()["errors"]
    assert a["count"] == b["count"] > 1
    assert torch.equal(a["rows"], b["rows"])
    assert all(torch.equal(x, y) for x, y in zip(a["means"], b["means"], strict=True))


def trained_by_hand(objective, plan, auto=None, steps=12):
    """Weights after a hand-written loop, and how many tokens each first pass had."""
    torch.manual_seed(0)
    model = tiny_vit(in_chans=3, dynamic_img_size=True)
    training = Training(model, plan, objective, plugins=[auto] if auto else [])
    optimizer = torch.optim.AdamW(training.parameters(), lr=1e-3)
    x, y = images(16, 3, 8, 8), labels(16)
    tokens = []
    first = model.blocks[0]  # whose hooks its copies have, too
    handle = first.register_forward_pre_hook(
        lambda m, args: tokens.append(args[0].shape[1] - 1) if m is first else None
    )
    for step in range(steps):
        time = step * plan.total / steps
        if auto is not None:
            auto.observe(training, time, x, y)
        with training.step(time, optimizer) as current:
            current.loss(F.cross_entropy(model(x), y)).backward()
            optimizer.step()
            optimizer.zero_grad()
    handle.remove()
    return [p.detach().clone() for p in training.parameters()], tokens


@pytest.mark.parametrize("name", ["SimSiam", "MoCoV3"])
def test_in_a_hand_written_loop_measuring_changes_nothing_of_the_training(name):
    auto = CompressByError((0.0,), (2,), share=1.0, sub_batch=4)
    plain, _ = trained_by_hand(OBJECTIVES[name](), PhasePlan(10, 0, 0))
    measured, _ = trained_by_hand(OBJECTIVES[name](), PhasePlan(10, 0, 0), auto)
    assert auto.spent > 0
    assert all(torch.equal(p, m) for p, m in zip(plain, measured, strict=True))


def test_in_a_supervised_loop_it_compresses_the_whole_run():
    auto = CompressByError((0.75, 0.5), share=1.0, sub_batch=2, over="run")
    _, tokens = trained_by_hand(None, PhasePlan(0, 10, 0), auto, steps=30)
    assert tokens[0] == 4
    assert set(tokens) <= {4, 8}
    assert auto.has_chosen


def test_phases_follow_the_clock():
    assert CompressByError().phases == ("ssl", "mix")
    assert CompressByError(over="run").phases == ("ssl", "mix", "sl")
    auto = CompressByError((0.5, 0.0), share=1.0, sub_batch=4)
    auto.measure(torch.zeros(8, 1, 8, 8), None, Position("sl"), Known, cost)
    assert auto.trained == 0
    assert "share=1.0" in repr(auto)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rates": 0.5}, TypeError, r"rates.*\(0, 0.5\).*0.5"),
        ({"rates": ()}, ValueError, "at least one"),
        ({"rates": (1.0,)}, ValueError, r"\[0, 1\)"),
        ({"patches": (0,)}, ValueError, "at least 1"),
        ({"share": 0}, ValueError, r"share.*\(0, 1\]"),
        ({"stages": 0}, ValueError, "stages"),
        ({"budget": -1}, ValueError, "budget"),
        ({"sub_batch": 0}, ValueError, "sub_batch"),
        ({"over": "epoch"}, ValueError, "over"),
        ({"phases": "sl"}, TypeError, "phases"),
        ({"phases": ("train",)}, ValueError, "phase"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CompressByError(**arguments)
