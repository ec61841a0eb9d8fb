"""Pseudo-labels by the side of labelled images: the term, its gradient, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn
from torch import nn

from mixplug import MAE, PhasePlan, Ramp, SideBySide, Training, ViewRecipe, Views, backbone_of
from mixplug.backbones.costs import counting_flops
from mixplug.training.costs import CostCounter
from mixplug.training.pseudo_labels import MOMENTUM, PseudoLabelLoss

PLAN = PhasePlan(4, 4, 1)
"""MIX alone."""

X, Y, MORE = images(3), labels(3), images(5, seed=9)


class EveryThird(MAE):
    """What it masks is no matter of chance."""

    def __init__(self):
        super().__init__("input", decoder_depth=1)

    def request(self, position):
        request = super().request(position)
        request.select = lambda batch, patches, device: torch.arange(0, patches, 3).expand(batch, -1)
        return request


def doubtful_vit():
    """A transformer with dropout, sure of some images and not of others."""
    model = tiny_vit(drop_rate=0.5)
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


def one_step(model, pseudo, objective=None, time=2.0, lr=0.0, dtype=torch.float32, **options):
    """The joint loss of a step, whose gradients stay in the model."""
    side = SideBySide()
    plugins = [side] if pseudo is None else [side, pseudo]
    training = Training(model, PLAN, objective or EveryThird(), plugins=plugins, **options)
    optimizer = torch.optim.SGD(training.parameters(), lr=lr)
    side.images = MORE.to(dtype)
    torch.manual_seed(1)
    with training.step(time, optimizer) as step:
        logits, further = model(X.to(dtype)), torch.zeros(())
        if pseudo is not None:
            logits, further = pseudo.split(logits, model)
        loss = step.loss(F.cross_entropy(logits, Y)) + further
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach(), training


@pytest.mark.parametrize("per_class", [False, True])
def test_the_term_and_its_gradient_are_fixmatchs(per_class):
    """Against the papers' equations, written down image by image in float64."""
    x, more = X.double(), MORE.double()
    model, literal = doubtful_vit().double(), doubtful_vit().double()
    with torch.no_grad():
        weak = literal.eval()(more).softmax(dim=1)
    tau = weak.max(dim=1).values.sort().values[2].item()
    shares = torch.linspace(0, 0.15, 10, dtype=torch.float64)
    pseudo = PseudoLabelLoss(tau, weight=0.7, per_class=per_class)
    pseudo.shares = shares
    loss, training = one_step(model, pseudo, alpha=0.4, dtype=torch.float64)
    found = {name: p.grad for name, p in model.named_parameters()}

    literal.train()
    torch.manual_seed(1)
    with backbone_of(literal).watch(training.objective.request("mix")) as seen:
        logits = literal(torch.cat([x, more]))
    terms, labelled = [], 0
    for strong, prediction in zip(logits[3:], weak, strict=True):
        c = int(prediction.argmax())
        beta = shares[c] / max(shares.max(), 1 - shares.sum())
        threshold = beta / (2 - beta) * tau if per_class else tau
        sure = float(prediction[c]) >= float(threshold)
        labelled += sure
        terms.append(-strong.log_softmax(0)[c] * sure)
    assert labelled == (5 if per_class else 3)
    expected = 0.4 * training.objective(seen) + 0.6 * F.cross_entropy(logits[:3], Y) + 0.7 * sum(terms) / 5
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-12)
    for name, p in literal.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("time", [0.0, 2.0])
def test_without_weight_a_step_is_the_step_without_it(time):
    weights = []
    for pseudo in (None, PseudoLabelLoss(0.0, Ramp(0.0, 1.0) if time == 0 else 0.0)):
        model = doubtful_vit()
        one_step(model, pseudo, MAE("input"), time, lr=0.1)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
    model = doubtful_vit()
    one_step(model, PseudoLabelLoss(0.0, 1.0), MAE("input"), lr=0.1)
    assert not torch.equal(torch.cat([p.flatten() for p in model.parameters()]), weights[0])


def test_the_weak_view_is_the_whole_image_in_evaluation_mode():
    model, passes = tiny_cnn(), []
    model.register_forward_hook(lambda module, args, out: passes.append((len(args[0]), module.training, out.grad_fn)))
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    still = ViewRecipe(flip_p=1.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, crop_scale=(1, 1), crop_ratio=(1, 1))
    views = Views(still, mean=0.5, std=0.1)
    loss, training = one_step(model, PseudoLabelLoss(0.0, 1.0, views), OBJECTIVES["SimSiam"]())
    assert torch.isfinite(loss)
    assert [(count, mode) for count, mode, _ in passes] == [(3, True), (5, False)]
    assert passes[0][2] is not None
    assert passes[1][2] is None
    assert model.training
    assert not frozen.training, "each module has its own mode again"
    side = SideBySide()
    side.images = MORE
    for amendment in (side, PseudoLabelLoss(0.0, 1.0, views)):
        training.encoder_pass.amendments.append(amendment)
    training.encoder_pass.amendments = training.encoder_pass.amendments[-2:]
    with training.encoder_pass.watch(PLAN.position(2.0)) as seen:
        assert len(model(X)) == 8
    torch.testing.assert_close(seen.images, torch.cat([X, MORE.flip(3)]), rtol=0, atol=1e-5)
    assert torch.equal(seen.source, torch.cat([X, MORE])), "the objective makes its view of the image as it came"


def test_thresholds_by_class_follow_what_is_predicted():
    model = doubtful_vit()
    pseudo = PseudoLabelLoss(0.345, 1.0, per_class=True)
    assert pseudo.thresholds(torch.zeros(1, 10)).tolist() == [0.0] * 10, "before anything is predicted all are labelled"
    one_step(model, pseudo)
    assert pseudo.monitors() == {"pseudo_share": torch.tensor(1.0)}
    with torch.no_grad():
        confidence, predicted = model.eval()(MORE).softmax(dim=1).max(dim=1)
    sure = F.one_hot(predicted, 10).float() * (confidence >= 0.345)[:, None]
    assert sure.sum() == 3
    torch.testing.assert_close(pseudo.shares, (1 - MOMENTUM) * sure.mean(dim=0))
    pseudo.before_step()
    assert pseudo.monitors() == {}
    pseudo.after_step()
    torch.testing.assert_close(pseudo.shares, (1 - MOMENTUM) * sure.mean(dim=0))  # nothing was predicted since


def test_a_plain_loop_has_thresholds_follow_and_keeps_a_step_alone():
    model, side, pseudo = doubtful_vit(), SideBySide(), PseudoLabelLoss(0.2, weight=1.0, per_class=True)
    training = Training(model, PLAN, EveryThird(), plugins=[side, pseudo])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    for _ in range(3):
        with training.step(2.0, optimizer) as step:
            side.images = MORE
            logits, further = pseudo.split(model(X), model)
            (step.loss(F.cross_entropy(logits, Y)) + further).backward()
            optimizer.step()
    with torch.no_grad():
        confidence, classes = model.eval()(MORE).softmax(dim=1).max(dim=1)
    shares = F.one_hot(classes[confidence >= 0.2], 10).sum(dim=0) / len(MORE)
    assert shares.any()
    torch.testing.assert_close(pseudo.shares, (1 - MOMENTUM**3) * shares)
    accepted = confidence >= pseudo.thresholds(torch.zeros(1, 10))[classes]
    assert pseudo.monitors()["pseudo_share"] == pytest.approx(float(accepted.float().mean()))


@pytest.mark.parametrize("further", [None, torch.zeros(0, 1, 8, 8)])
def test_no_unlabelled_images_add_nothing_and_are_said(further):
    model, side, pseudo = doubtful_vit(), SideBySide(), PseudoLabelLoss(0.2, weight=1.0)
    training = Training(model, PLAN, EveryThird(), plugins=[side, pseudo])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    side.images = further

    def train_step():
        with training.step(2.0, optimizer) as step:
            logits, term = pseudo.split(model(X), model)
            (step.loss(F.cross_entropy(logits, Y)) + term).backward()
            optimizer.step()
        assert float(term.detach()) == 0
        assert len(logits) == len(X)

    with pytest.warns(UserWarning, match="no unlabelled images"):
        train_step()


@pytest.mark.parametrize("objective", [lambda: MAE("input"), lambda: OBJECTIVES["SimSiam"]()], ids=["MAE", "SimSiam"])
def test_the_counted_cost_is_that_of_a_real_step(objective):
    def plugins():
        side = SideBySide()
        side.images = MORE
        return [side, PseudoLabelLoss(0.0, 1.0, Views(mean=0.5, std=0.1, blur=False), per_class=True)]

    model, position = tiny_vit(), PLAN.position(2.0)
    counted = CostCounter(model, objective(), (1, 8, 8), 3, amendments=plugins()).at(position)
    assert counted.roles["key"] == 1
    with counting_flops() as counter:
        one_step(model, plugins()[1], objective())
    assert counted.flops == pytest.approx(counter.get_total_flops() / 3, rel=0.02)
    without = CostCounter(model, objective(), (1, 8, 8), 3, amendments=plugins()[:1]).at(position)
    head = 3 * 2 * 16 * 10 * 5 / 3 / counted.encoder_flops
    assert counted.passes - without.passes == pytest.approx(5 / 3 + head, rel=0.1), "a pass over each unlabelled image"


class Pair(nn.Module):
    """It returns what no logits are."""

    def __init__(self, what):
        super().__init__()
        self.vit, self.what = tiny_vit(), what

    def forward(self, images):
        return self.what(self.vit(images))


def test_bad_arguments_and_models():
    with pytest.raises(ValueError, match=r"threshold must be .*1"):
        PseudoLabelLoss(1.5)
    with pytest.raises(ValueError, match="weight must be"):
        PseudoLabelLoss(weight=-1)
    with pytest.raises(TypeError, match=r"views must be Views\(...\), or None .* got 'simclr'"):
        PseudoLabelLoss(views="simclr")
    with pytest.raises(TypeError, match="per_class must be"):
        PseudoLabelLoss(per_class=1)
    with pytest.raises(TypeError, match=r"need logits \(B, K\), and the model returns tuple"):
        one_step(Pair(lambda logits: (logits, logits)), PseudoLabelLoss(weight=1.0))
    with pytest.raises(TypeError, match=r"the model returns a tensor \(8, 10, 1\)"):
        one_step(Pair(lambda logits: logits[..., None]), PseudoLabelLoss(weight=1.0))
    with pytest.raises(ValueError, match="was shown 8 images, and the model returns 3 rows of logits"):
        one_step(Pair(lambda logits: logits[:3]), PseudoLabelLoss(weight=1.0))
