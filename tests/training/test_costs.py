"""What is counted without computing, against what the counter finds in a real step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn

from mixplug import MAE, PhasePlan, Position, Ramp, Training, random_tokens
from mixplug.backbones.costs import counting_flops
from mixplug.training.costs import CostCounter
from mixplug.training.patch_scaling import ScalePatches
from mixplug.training.sdmp import MixViews

PLAN = PhasePlan(4, 4, 0.5)
BATCH = 4
SHAPE = (3, 8, 8)
OBJECTIVE = {
    "features": lambda: MAE(),
    "input": lambda: MAE(mask="input"),
    "ramp": lambda: MAE(mask="input", mask_ratio=Ramp(0.75, 0.0)),
    "two passes": lambda: MAE(mask="input", fused=False),
    **OBJECTIVES,
    "one-sided": lambda: OBJECTIVES["SimSiam"](symmetric=False),
    "local crops": lambda: OBJECTIVES["DINO"](local_crops=2, local_size=4),
}


def keep_half(request):
    if request.role in ("local", "key") or request.select is not None or request.all_tokens:
        return request
    return dataclasses.replace(request, select=random_tokens(0.5))


def model_for(name):
    return tiny_vit(in_chans=3, dynamic_img_size=True)


def counted_in_a_real_step(model, objective, time, amendments):
    training = Training(model, PLAN, objective, plugins=amendments)
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    images, labels = torch.rand(BATCH, *SHAPE), torch.zeros(BATCH, dtype=torch.long)
    for _ in range(2):  # the first step with patches of another size makes their pseudo-inverse
        with counting_flops() as counter, training.step(time, optimizer) as step:
            step.loss(F.cross_entropy(model(images), labels)).backward()
            optimizer.step()
    return counter.get_total_flops() / BATCH


@pytest.mark.parametrize("amendments", [(), (keep_half,)], ids=["all tokens", "half of the tokens"])
@pytest.mark.parametrize("time", [0.5, 3.0, 5.0], ids=["ssl", "mix", "sl"])
@pytest.mark.parametrize("name", OBJECTIVE)
def test_the_counted_cost_is_that_of_a_real_step(name, time, amendments):
    torch.manual_seed(0)
    model, objective = model_for(name), OBJECTIVE[name]()
    counter = CostCounter(model, objective, SHAPE, BATCH, amendments=amendments)
    cost = counter.at(PLAN.position(time))
    assert cost.flops == pytest.approx(counted_in_a_real_step(model, objective, time, amendments), rel=0.02)


@pytest.mark.parametrize("time", [0.5, 3.0, 5.0], ids=["ssl", "mix", "sl"])
@pytest.mark.parametrize("name", ["SimSiam", "MoCoV3", "local crops"])
def test_patches_of_another_size(name, time):
    torch.manual_seed(0)
    # Wide enough that the views, whose crops are products too, do not matter beside it.
    model, objective = tiny_vit(in_chans=3, embed_dim=64, dynamic_img_size=True), OBJECTIVE[name]()
    patches = ScalePatches(4)
    cost = CostCounter(model, objective, SHAPE, BATCH, amendments=[patches]).at(PLAN.position(time))
    assert cost.flops == pytest.approx(counted_in_a_real_step(model, objective, time, [patches]), rel=0.02)


@pytest.mark.parametrize(
    ("name", "time", "settings"),
    [
        ("SimCLR", 0.5, {}),
        ("MoCoV3", 0.5, {}),
        ("MoCoV3", 0.5, {"version": "extra"}),
        ("MoCoV3", 3.0, {"version": "extra"}),
        ("MoCoV3", 3.0, {"labels": True}),
        ("local crops", 0.5, {}),
        ("local crops", 0.5, {"version": "extra"}),
    ],
)
def test_mixed_images(name, time, settings):
    torch.manual_seed(0)
    model, objective = model_for(name), OBJECTIVE[name]()
    mix = MixViews(**settings)
    cost = CostCounter(model, objective, SHAPE, BATCH, amendments=[mix]).at(PLAN.position(time))
    assert cost.flops == pytest.approx(counted_in_a_real_step(model, objective, time, [mix]), rel=0.02)


@pytest.mark.parametrize("name", ["SimCLR", "MoCoV3"])
def test_a_convolutional_network(name):
    torch.manual_seed(0)
    model, objective = tiny_cnn(in_chans=3), OBJECTIVES[name]()
    cost = CostCounter(model, objective, SHAPE, BATCH).at(PLAN.position(0.5))
    assert cost.flops == pytest.approx(counted_in_a_real_step(model, objective, 0.5, ()), rel=0.02)


def test_a_forward_pass_costs_1_with_gradient_3_and_half_of_the_tokens_about_half():
    vit = tiny_vit(in_chans=3, embed_dim=64, depth=4)
    sl = Position("sl")
    assert CostCounter(vit, None, SHAPE).at(sl).passes == pytest.approx(3, rel=0.05)
    half = CostCounter(vit, None, SHAPE, amendments=[keep_half]).at(sl)
    assert half.passes == pytest.approx(1.5, rel=0.1)
    assert half.roles == {"shared": 1}


@pytest.mark.parametrize("size", [BATCH, 2], ids=["one microbatch", "two"])
@pytest.mark.parametrize("time", [0.5, 3.0, 5.0], ids=["ssl", "mix", "sl"])
@pytest.mark.parametrize("name", ["SimCLR", "MoCoV3", "input"])
def test_exact_microbatches(name, time, size):
    torch.manual_seed(0)
    model, objective = model_for(name), OBJECTIVE[name]()
    cost = CostCounter(model, objective, SHAPE, BATCH, exact_microbatches=True).at(PLAN.position(time))
    training = Training(model, PLAN, objective)
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    images, labels = torch.rand(BATCH, *SHAPE), torch.zeros(BATCH, dtype=torch.long)
    with counting_flops() as counter, training.step(time, optimizer) as step:
        step.backward(images, size, lambda logits, part: F.cross_entropy(logits, labels[part]))
        optimizer.step()
    assert cost.flops == pytest.approx(counter.get_total_flops() / BATCH, rel=0.02)


def test_exact_microbatches_cost_a_pass_without_gradient_for_each_with_one():
    vit = tiny_vit(in_chans=3, embed_dim=64, depth=4)
    costs = {
        exact: CostCounter(vit, OBJECTIVES["SimCLR"](), SHAPE, exact_microbatches=exact).at(Position("ssl")).passes
        for exact in (False, True)
    }
    # Of two views of each image.
    assert costs[True] - costs[False] == pytest.approx(2, rel=0.05)


def test_roles_are_counted():
    counter = CostCounter(tiny_vit(), OBJECTIVES["MoCoV3"](), (1, 8, 8))
    assert counter.at(Position("ssl")).roles == {"shared": 1, "query": 1, "key": 2}
    assert counter.at(Position("mix")).roles == {"shared": 1, "key": 1}


def test_a_run_costs_what_its_steps_cost():
    model = tiny_vit()
    constant = CostCounter(model, MAE(mask="input"), (1, 8, 8))
    phases = constant.of_phases(PLAN)
    assert constant.of_run(PLAN) == pytest.approx(2 * sum(cost.passes for cost in phases.values()))
    ramp = CostCounter(model, MAE(mask="input", mask_ratio=Ramp(0.75, 0.0)), (1, 8, 8)).of_phases(PLAN)
    ends = [
        CostCounter(model, MAE(mask="input", mask_ratio=r), (1, 8, 8)).at(Position("mix")).flops for r in (0.75, 0.0)
    ]
    mix = next(cost.flops for phase, cost in ramp.items() if phase == "mix")
    assert ends[0] < mix < ends[1]
    assert mix == pytest.approx(sum(ends) / 2, rel=0.05)


def test_counting_leaves_model_and_objective_as_they_were():
    model, objective = tiny_vit(), OBJECTIVES["MoCoV3"]()
    training = Training(model, PLAN, objective)
    before = {n: v.clone() for n, v in (*model.state_dict().items(), *objective.state_dict().items())}
    state, scale = torch.get_rng_state(), ScalePatches([2, 4])
    CostCounter(model, objective, (1, 8, 8), amendments=[scale]).of_run(PLAN)
    CostCounter(model, MAE(), (1, 8, 8), amendments=[scale]).of_run(PLAN)
    assert torch.equal(torch.get_rng_state(), state)
    assert training.encoder_pass.backbone.attached
    assert all(torch.equal(before[n], v) for n, v in (*model.state_dict().items(), *objective.state_dict().items()))


def test_without_an_objective_every_phase_is_supervised():
    counter = CostCounter(tiny_vit(), None, (1, 8, 8))
    assert counter.at(Position("ssl")) == counter.at(Position("sl"))
