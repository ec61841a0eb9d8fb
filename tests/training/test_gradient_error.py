"""Bias and variance of gradients: against closed forms, the same draws for all, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn

from mixplug import MAE, PhasePlan, Position, backbone_of
from mixplug.backbones.costs import encoder_flops
from mixplug.training.costs import CostCounter
from mixplug.training.error_estimates import FEWEST, GradientErrors
from mixplug.training.gradient_error import StepGradients, Strategy, gradient_error

TRUE, OFF = 0.7, 0.3
SIZE, K = 20, 4
PLAN = PhasePlan(4, 4, 0.5)
ONE_CLASS = torch.zeros(70, dtype=torch.long)  # a true gradient that noise does not hide


def estimates(count, bias, repetitions, cost=0.1):
    """Values and standard errors, ``(repetitions, 4, 2)``, where the true gradient of a linear loss is known.

    The loss is <w, x>, x of mean TRUE in each of SIZE places and variance 1; the approximation adds ``bias`` and noise
    of variance 1/4.
    """
    found = []
    for _ in range(repetitions):
        errors = GradientErrors(1, K)
        for _ in range(count):
            w = torch.zeros(SIZE, requires_grad=True)
            x = TRUE + torch.randn(K, SIZE)
            exact = torch.autograd.grad((x @ w).mean(), w)[0]
            approximate = torch.autograd.grad(((x + bias + 0.5 * torch.randn(K, SIZE)) @ w).mean(), w)[0]
            errors.add(exact, [approximate])
        found.append([[e.value, e.error] for e in (errors.squared_norm, *errors.relative(0, cost))])
    return torch.tensor(found)


def truth(bias, cost=0.1):
    norm = SIZE * TRUE**2
    squared_bias, variance = SIZE * bias**2 / norm, cost * SIZE * 1.25 / norm
    return torch.tensor([norm, squared_bias, variance, squared_bias + variance])


@pytest.mark.parametrize("bias", [0.0, OFF])
def test_estimates_are_without_bias_and_intervals_hold_what_they_promise(bias):
    torch.manual_seed(0)
    repetitions = 200
    found = estimates(64, bias, repetitions)
    values, errors = found[..., 0], found[..., 1]
    of_the_mean = values.std(dim=0) / math.sqrt(repetitions)
    # The quotients' own bias is of the order of the squared relative error of the norm, (0.4 / 9.8)^2.
    assert ((values.mean(dim=0) - truth(bias)).abs() < 3 * of_the_mean + 0.002 * truth(bias)).all()
    covered = ((values - truth(bias)).abs() < 1.96 * errors).float().mean(dim=0)
    assert (covered > 0.89).all(), covered
    assert (errors.mean(dim=0) < 1.8 * values.std(dim=0)).all(), "wide intervals promise nothing"


def test_the_naive_squared_bias_would_be_the_variance_of_its_mean():
    """What is subtracted is most of it: without bias the naive estimate has Var(d) / n = 20 * 0.25 / (16 * 4)."""
    torch.manual_seed(1)
    found = estimates(16, 0.0, 100)[:, 1, 0]
    naive = SIZE * 0.25 / (16 * K) / (SIZE * TRUE**2)
    assert naive > 0.007
    assert found.mean().abs() < naive / 10
    assert (found < 0).any()


def linear_vit():
    return tiny_vit(depth=1, global_pool="avg", class_token=False)


def test_of_a_model_whose_gradients_are_known_in_closed_form():
    """The head's bias alone is trained and everything else is 0, so logits are 0 and the gradient softmax - onehot.

    For classes 0 of ten its squared norm is 0.9^2 + 9 * 0.01; of uniform classes the true gradient is 0 and an image's
    variance 0.9.
    """
    vit = linear_vit().requires_grad_(False)
    for parameter in vit.head.parameters():
        torch.nn.init.zeros_(parameter)
    vit.head.bias.requires_grad_(True)
    x = images(640)
    biased = torch.where(torch.rand(640, generator=torch.Generator().manual_seed(0)) < 0.5, 0, labels(640))
    error = gradient_error(vit, None, [(x, biased)], [Strategy(), Strategy(0.5)], budget=300.0, sub_batch=8)
    # p(0) = 0.55, the others 0.05: the mean is 0.1 - p, the variance 1 - sum p^2.
    norm, variance = 0.45**2 + 9 * 0.05**2, 1 - 0.55**2 - 9 * 0.05**2
    low, high = error.squared_norm.interval
    assert low < norm < high
    for row in error.rows:
        assert row.squared_bias.value == 0, "what the encoder sees does not reach the logits"
        low, high = row.variance.interval
        assert low < row.cost / 300 * variance / norm < high
        assert row.ca_mse.value == pytest.approx(row.squared_bias.value + row.variance.value)
    assert error.samples == 640
    assert error.rows[1].variance.value < error.rows[0].variance.value, "it costs less"
    assert error.best == Strategy(0.5)


@pytest.mark.parametrize("name", ["SimSiam", "SimCLR", "MoCoV3", "DINO"])
def test_the_identity_has_no_bias_and_compression_has(name):
    torch.manual_seed(0)
    vit, objective = tiny_vit(in_chans=3, dynamic_img_size=True), OBJECTIVES[name]()
    if name != "DINO":  # embeddings of 8 numbers give the others a gradient that noise hides
        objective = OBJECTIVES[name](out_dim=32)
    strategies = [Strategy(), Strategy(patch=2), Strategy(0.75), Strategy(0.5, patch=4)]
    data = [images(32, 3, 8, 8, seed=s) for s in range(24)]
    error = gradient_error(vit, objective, data, strategies, budget=1000.0, samples=24 * 32, sub_batch=32)
    identity, native, dropped, both = error.rows
    assert identity.squared_bias.value == identity.squared_bias.error == 0
    assert native.squared_bias.value == pytest.approx(0, abs=1e-6)
    assert native.variance.value == pytest.approx(identity.variance.value, rel=1e-4)
    assert dropped.squared_bias.value > dropped.squared_bias.error
    assert identity.cost == pytest.approx(native.cost, rel=0.05)
    assert both.cost < dropped.cost * 1.5 < identity.cost * 1.5
    assert (error.samples, error.sub_batch, error.within_batch) == (768, 32, objective.within_batch)


def test_costs_are_those_that_are_counted():
    vit = tiny_vit()
    error = gradient_error(vit, None, [(images(64), ONE_CLASS[:64])], [Strategy(0.5)], budget=10.0, sub_batch=4)
    assert (
        error.rows[0].cost
        == CostCounter(vit, None, (1, 8, 8), 4, amendments=Strategy(0.5).amendments).at(Position("sl")).passes
    )
    doubled = gradient_error(vit, None, [(images(64), ONE_CLASS[:64])], [Strategy(0.5)], budget=20.0, sub_batch=4)
    assert doubled.rows[0].variance.value == pytest.approx(error.rows[0].variance.value / 2)
    assert doubled.rows[0].squared_bias == error.rows[0].squared_bias
    assert encoder_flops(backbone_of(vit), (1, 8, 8)) > 0


class Recording(StepGradients):
    """Notes which images and tokens the encoder saw."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []
        run = self._backbone._leave

        def leave(seen, output):
            self.seen.append((seen.request.role, seen.images.clone(), seen.keep))
            run(seen, output)

        self._backbone._leave = leave


@pytest.mark.parametrize("name", ["SimSiam", "SimCLR", "MoCoV3", "DINO"])
def test_strategies_share_views_and_tokens(name):
    torch.manual_seed(0)
    vit, objective = tiny_vit(in_chans=3, pos_drop_rate=0.1, dynamic_img_size=True), OBJECTIVES[name]()
    gradients = Recording(vit, objective, Position("ssl"))
    seen = {}
    for rate in (0.0, 0.5, 0.75):
        gradients.seen.clear()
        gradients.of(Strategy(rate), images(4, 3, 8, 8), None, 5)
        seen[rate] = list(gradients.seen)
    for one, half, quarter in zip(*seen.values(), strict=True):
        assert one[0] == half[0] == quarter[0]
        assert torch.equal(one[1], half[1])
        assert torch.equal(one[1], quarter[1])
        if half[2] is not None:
            assert all(set(q.tolist()) < set(h.tolist()) for q, h in zip(quarter[2], half[2], strict=True))
    kept = [keep for _, _, keep in seen[0.5] if keep is not None]
    assert len(kept) == 2, "both views drop tokens"
    assert not torch.equal(*kept), "another draw for each pass"
    gradients.seen.clear()
    gradients.of(Strategy(0.5), images(4, 3, 8, 8), None, 6)
    assert not torch.equal(gradients.seen[0][1], seen[0.5][0][1]), "another seed, other views"
    assert not torch.equal(gradients.seen[0][2], seen[0.5][0][2])


def test_it_is_the_gradient_of_a_step():
    vit, x, y = tiny_vit(), images(6), labels(6)
    found = StepGradients(vit, None, Position("sl")).of(Strategy(), x, y, 0)
    torch.nn.functional.cross_entropy(vit(x), y).backward()
    assert torch.equal(found, torch.cat([p.grad.flatten() for p in vit.parameters()]))


def test_nothing_of_the_callers_is_changed():
    vit, objective = tiny_vit(in_chans=3).eval(), OBJECTIVES["MoCoV2Plus"]()
    objective.build(backbone_of(vit))
    before = {n: v.clone() for n, v in (*vit.state_dict().items(), *objective.state_dict().items())}
    state = torch.get_rng_state()
    data = [images(64, 3, 8, 8)]
    first = gradient_error(vit, objective, data, [Strategy(0.5)], budget=10.0, sub_batch=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not vit.training
    assert all(p.grad is None for p in vit.parameters())
    assert all(torch.equal(before[n], v) for n, v in (*vit.state_dict().items(), *objective.state_dict().items()))
    torch.rand(3)
    assert gradient_error(vit, objective, data, [Strategy(0.5)], budget=10.0, sub_batch=4) == first
    other = gradient_error(vit, objective, data, [Strategy(0.5)], budget=10.0, sub_batch=4, seed=1)
    assert other.squared_norm != first.squared_norm


def test_batches_of_any_size_are_cut_into_sub_batches():
    vit, x, y = tiny_vit(), images(70), ONE_CLASS
    whole = gradient_error(vit, None, [(x, y)], [Strategy(0.5)], budget=10.0, sub_batch=4)
    pieces = zip(x.split(7), y.split(7), strict=True)
    assert gradient_error(vit, None, pieces, [Strategy(0.5)], budget=10.0, sub_batch=4) == whole
    assert whole.samples == 68
    few = gradient_error(vit, None, [(x, y)], [Strategy(0.5)], budget=10.0, sub_batch=4, samples=66)
    assert few.samples == 64


def test_of_the_joint_loss():
    torch.manual_seed(0)
    vit = tiny_vit(in_chans=3)
    data = [(images(64, 3, 8, 8), ONE_CLASS[:64])]
    one, other = (
        gradient_error(
            vit, OBJECTIVES["SimSiam"](), data, [Strategy(0.5)], 10.0, sub_batch=4, position=PLAN.position(3.0), alpha=a
        )
        for a in (0.1, 0.3)
    )
    assert one.squared_norm != other.squared_norm
    assert one.position.phase == "mix"


BAD = {
    "a name": ({"strategies": ["half"]}, TypeError, r"Strategy\(rate=0.5\).*'half'"),
    "no strategy": ({"strategies": []}, ValueError, "at least one"),
    "no budget": ({"budget": 0}, ValueError, r"budget.*\(0, inf\).*0"),
    "few samples": ({"samples": 63}, ValueError, "16 sub-batches of 4 or more.*64.*63"),
    "little data": ({"data": [images(40)], "objective": OBJECTIVES["SimSiam"]()}, ValueError, "at least 16.*has 10"),
    "no data": ({"data": []}, ValueError, "has 0"),
    "no labels": ({"data": [images(64)]}, TypeError, r"\(images, labels\)"),
    "no objective": ({"position": "ssl"}, ValueError, "needs an objective.*None"),
    "a class": ({"objective": MAE}, TypeError, "objective such as"),
    "MAE": ({"objective": MAE(mask="input")}, ValueError, "compresses nothing in the ssl phase.*MAE"),
    "CNN": ({"model": tiny_cnn()}, TypeError, "VisionTransformer.*ResNet is none"),
    "a patch": ({"strategies": [Strategy(patch=3)]}, ValueError, r"8x8.*\[1, 2, 4, 8\]"),
    "a phase": ({"position": "pretraining"}, ValueError, "pretraining"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    given, error, message = BAD[name]
    good = {
        "model": tiny_vit(),
        "objective": None,
        "data": [(images(64), labels(64))],
        "strategies": [Strategy(0.5)],
        "budget": 10.0,
        "sub_batch": 4,
    }
    with pytest.raises(error, match=message):
        gradient_error(**{**good, **given})


@pytest.mark.parametrize(("arguments", "error"), [((1.0,), ValueError), ((0, 0), ValueError), (("half",), TypeError)])
def test_bad_strategies_are_refused(arguments, error):
    with pytest.raises(error):
        Strategy(*arguments)


def test_a_gradient_that_noise_hides_is_refused():
    errors = GradientErrors(1, 1)
    generator = torch.Generator().manual_seed(1)
    for index in range(FEWEST):
        if index == FEWEST - 1:
            with pytest.raises(ValueError, match=f"at least {FEWEST} sub-batches, got {index}"):
                _ = errors.squared_norm
        x = torch.randn(4, generator=generator) * (-1) ** index
        errors.add(x, [x])
    assert errors.squared_norm.value < 0, "the seed's draw"
    with pytest.raises(ValueError, match=r"must be above 0.*more samples"):
        errors.relative(0, 1.0)
