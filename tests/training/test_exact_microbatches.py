"""TrainingStep.backward: a batch in microbatches, with the gradient of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn
from torch import nn

from mixplug import MAE, PhasePlan, Training
from mixplug.training.hard_augment import ChooseHardest
from mixplug.training.side_by_side import SideBySide
from mixplug.training.super_progressive_learning import ScaleImages
from mixplug.training.token_dropout import DropTokens

COUNT = 8
X, Y = images(COUNT, seed=3, dtype=torch.float64), labels(COUNT, 10, 3)
TIMES = {"ssl": 0.0, "mix": 1.0, "sl": 2.0}
WITHIN_BATCH = {
    "SimSiam": {},
    "SimSiam, one-sided": {"symmetric": False},
    "SimCLR": {},
    "BYOL": {},
    "MoCoV3": {},
    "DINO": {"batch_norm": True, "local_crops": 0},
    "DINO, local crops": {"batch_norm": True, "local_crops": 2},
}


def supervised(logits, part):
    return F.cross_entropy(logits, Y[part])


def train(objective, phase, size=None, model=tiny_vit, plugins=(), **options):
    """A step on all images, at once or in microbatches: its loss, gradients, and what it leaves behind."""
    torch.manual_seed(0)
    training = Training(model().double(), PhasePlan(2, 2, 0.5), objective, plugins=plugins, **options)
    parameters = training.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    passes = []
    layer = next(m for m in training.model.modules() if isinstance(m, nn.Conv2d))
    layer.register_forward_hook(lambda _, __, out: passes.append((len(out), torch.is_grad_enabled())))
    torch.manual_seed(1)
    with training.step(TIMES[phase], optimizer) as step:
        if size is None:
            loss = step.loss(supervised(training.model(X), slice(None)))
            loss.backward()
        else:
            loss = step.backward(X, size, supervised)
        gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
        optimizer.step()
    state = {name: value for module in (training.model, objective) for name, value in module.state_dict().items()}
    return {
        "loss": loss.detach(),
        "gradients": gradients,
        "monitors": dict(objective.monitors()),
        "state": state,
        "random": torch.get_rng_state(),
    }, passes


@pytest.mark.parametrize("size", [3, COUNT])
@pytest.mark.parametrize("phase", ["ssl", "mix"])
@pytest.mark.parametrize("name", WITHIN_BATCH)
def test_all_is_as_with_the_whole_batch(name, phase, size):
    def make():
        return OBJECTIVES[name.split(",")[0]](**WITHIN_BATCH[name])

    def model():
        return tiny_vit(dynamic_img_size=True)

    assert make().within_batch
    whole, _ = train(make(), phase, model=model)
    parts, _ = train(make(), phase, size, model=model)
    # timm interpolates position embeddings for smaller images, and so their gradients, in float32.
    atol = 1e-7 if "local" in name else 1e-10
    torch.testing.assert_close(parts, whole, atol=atol, rtol=0)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in whole["gradients"]) > 10


@pytest.mark.parametrize("phase", ["ssl", "mix"])
def test_views_are_chosen_and_images_are_smaller_as_in_the_whole_batch(phase):
    results = [
        train(
            OBJECTIVES["MoCoV3"](),
            phase,
            size,
            lambda: tiny_vit(dynamic_img_size=True),
            [ChooseHardest(3, 4), ScaleImages(0.75, 0, 3, phases=("ssl", "mix"))],
        )[0]
        for size in (None, 3)
    ]
    assert torch.equal(results[0]["random"], results[1]["random"])
    for one, other in zip(results[0]["gradients"], results[1]["gradients"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)  # timm interpolates positions in float32


def test_plain_microbatches_are_not():
    """What it is for: each microbatch alone has other negatives."""
    torch.manual_seed(0)
    training = Training(tiny_vit().double(), PhasePlan(2, 2, 0.5), OBJECTIVES["SimCLR"]())
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    with training.step(TIMES["ssl"], optimizer) as step:
        total = 0.0
        for part in X.split(4):
            training.model(part)
            loss = step.loss() / 2
            loss.backward()
            total += float(loss)
        optimizer.step()
    whole, _ = train(OBJECTIVES["SimCLR"](), "ssl")
    assert abs(total - float(whole["loss"])) > 0.1


@pytest.mark.parametrize("phase", ["ssl", "mix"])
def test_what_it_costs(phase):
    _, passes = train(OBJECTIVES["SimCLR"](), phase, 3)
    # Both views without gradient, and then, microbatch by microbatch, with it.
    assert passes[:6] == [(3, False), (3, False), (2, False)] * 2
    assert passes[6:] == [(3, True)] * 4 + [(2, True)] * 2


@pytest.mark.parametrize("phase", ["ssl", "mix", "sl"])
def test_batch_norm_of_the_encoder_and_dropped_tokens_come_once_and_alike(phase):
    for options in ({"model": tiny_cnn}, {"plugins": [DropTokens(0.5)]}):
        whole, _ = train(OBJECTIVES["SimCLR"](), phase, **options)
        parts, _ = train(OBJECTIVES["SimCLR"](), phase, COUNT, **options)
        torch.testing.assert_close(parts, whole, atol=1e-10, rtol=0)


def test_dropped_tokens_are_the_same_in_both_passes(monkeypatch):
    seen = {False: [], True: []}
    embed = nn.Linear.forward

    def recording(self, x):
        if x.ndim == 3:
            seen[torch.is_grad_enabled()].append(x.detach().clone())
        return embed(self, x)

    monkeypatch.setattr(nn.Linear, "forward", recording)
    train(OBJECTIVES["SimCLR"](), "ssl", 3, plugins=[DropTokens(0.5)])
    assert len(seen[False]) > 6
    first, second = (sorted(x.abs().sum().item() for x in seen[gradient]) for gradient in (False, True))
    assert second == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("phase", ["ssl", "mix"])
def test_losses_of_single_images_are_accumulated(phase):
    """With all patches shown nothing is random."""
    objective = {"mask": "features", "mask_ratio": 0.0, "decoder_depth": 1}
    whole, passes = train(MAE(**objective), phase)
    parts, in_parts = train(MAE(**objective), phase, 3)
    torch.testing.assert_close(parts["gradients"], whole["gradients"], atol=1e-10, rtol=0)
    assert [count for count, _ in passes] == [COUNT]
    assert [count for count, _ in in_parts] == [3, 3, 2]


def test_a_self_supervised_loss_without_weight_moves_nothing():
    whole, _ = train(OBJECTIVES["BYOL"](), "mix", alpha=0.0)
    parts, _ = train(OBJECTIVES["BYOL"](), "mix", 3, alpha=0.0)
    torch.testing.assert_close(parts, whole, atol=1e-10, rtol=0)


def test_images_side_by_side_are_refused():
    side = SideBySide()
    side.images = X
    with pytest.raises(ValueError, match="leave mixing='side_by_side' out"):
        train(OBJECTIVES["SimCLR"](), "mix", 3, plugins=[side])


def test_bad_input():
    training = Training(tiny_vit().double(), PhasePlan(2, 2, 0.5), OBJECTIVES["SimCLR"]())
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    with (
        pytest.raises(ValueError, match="size must be a whole number of at least 1"),
        training.step(0.0, optimizer) as s,
    ):
        s.backward(X, 0)
    with pytest.raises(ValueError, match="sl loss has weight"), training.step(1.0, optimizer) as step:
        step.backward(X, 3)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), tiny_vit()).double()
    stem = Training(model, PhasePlan(2, 2, 0.5), OBJECTIVES["SimCLR"]())
    with pytest.raises(ValueError, match="given the batch's images as they are"), stem.step(0.0, optimizer) as step:
        step.backward(X, 3)
