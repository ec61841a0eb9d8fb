"""Unlabelled images in the model's own pass: who sees which."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from shared.settings import multi_task_classifier
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn
from torch import nn

from mixplug import MAE, PhasePlan, Position, SideBySide, Training, backbone_of
from mixplug.training.encoder_pass import EncoderPass
from mixplug.training.pseudo_labels import PseudoLabelLoss

MIX = Position("mix")


class Wrapped(nn.Module):
    """An encoder of the user's own, named by backbone=."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 2))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=(2, 3)))


MODELS = {
    "ViT": (tiny_vit, None),
    "ViT, average pooling": (lambda: tiny_vit(global_pool="avg", class_token=False), None),
    "CNN": (tiny_cnn, None),
    "submodule": (Wrapped, "encoder"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_sees_its_own_images_and_the_objective_all(name):
    make, path = MODELS[name]
    model = make().eval()
    x, more = images(3), images(5, seed=9)
    expected = model(x)
    side = SideBySide()
    side.images = more
    passes = EncoderPass(backbone_of(model, path))
    passes.add(side)
    with passes.watch(MIX) as seen:
        logits = model(x)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(seen.images, torch.cat([x, more]))
    assert (seen.own, len(seen.features)) == (3, 8)
    with passes.watch(Position("sl")) as seen:
        model(x)
    assert len(seen.images) == 3, "in MIX alone"


@pytest.mark.parametrize("name", MODELS)
def test_what_is_passed_on_goes_through_the_rest_of_the_model(name):
    make, path = MODELS[name]
    model = make().eval()
    side, pseudo = SideBySide(), PseudoLabelLoss(0.0, weight=1.0)
    side.images = images(5, seed=9)
    passes = EncoderPass(backbone_of(model, path))
    for amendment in (side, pseudo):
        passes.add(amendment)
    with passes.watch(MIX):
        outputs = model(images(3))
    torch.testing.assert_close(outputs, model(torch.cat([images(3), side.images])))
    logits, term = pseudo.split(outputs, model)
    torch.testing.assert_close(logits, model(images(3)))
    # Nothing is hidden here, so the labels are those of the outputs themselves.
    torch.testing.assert_close(term, F.cross_entropy(outputs[3:], outputs[3:].argmax(dim=1)))


def test_the_loss_is_that_of_all_images_and_of_the_labelled_ones():
    torch.manual_seed(0)
    model = tiny_vit().double()
    x, y, more = images(4, dtype=torch.float64), labels(4), images(8, seed=9, dtype=torch.float64)
    side = SideBySide()
    training = Training(model, PhasePlan(2, 2, 1), MAE(mask="features"), alpha=0.3, plugins=[side])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    side.images = more
    torch.manual_seed(1)
    with training.step(0.0, optimizer) as step:
        loss = step.loss(F.cross_entropy(model(x), y))
        loss.backward()
        optimizer.step()
    torch.manual_seed(1)
    with training.encoder_pass.backbone.watch(training.objective.request(MIX)) as seen:
        logits = model(torch.cat([x, more]))
    expected = 0.3 * training.objective(seen) + 0.7 * F.cross_entropy(logits[:4], y)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_objectives_of_two_views(name):
    model = tiny_vit()
    side = SideBySide()
    training = Training(model, PhasePlan(2, 2, 1), OBJECTIVES[name](), plugins=[side])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for _ in range(2):
        side.images = images(6, seed=9)
        with training.step(0.5, optimizer) as step:
            loss = step.loss(F.cross_entropy(model(images(3)), labels(3)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert torch.isfinite(loss)
    assert set(seen) == {9}, "every pass is over all images"


def test_each_task_keeps_its_own_images():
    model = multi_task_classifier()
    side = SideBySide()
    side.images = images(5, seed=9)
    passes = EncoderPass(backbone_of(model))
    passes.add(side)
    with passes.watch(MIX) as seen:
        logits = model.module(images(4))
    assert (len(logits), len(seen.images)) == (4, 9)


def test_images_of_other_sizes_are_resized_and_others_refused():
    model = tiny_vit(dynamic_img_size=True)
    side = SideBySide()
    passes = EncoderPass(backbone_of(model))
    passes.add(side)
    side.images = torch.full((2, 1, 8, 8), 0.25)
    with passes.watch(MIX) as seen:
        model(images(3, 1, 4, 4))
    assert seen.images.shape == (5, 1, 4, 4)
    torch.testing.assert_close(seen.images[3:], torch.full((2, 1, 4, 4), 0.25))
    side.images = images(2, 3, 8, 8)
    with pytest.raises(ValueError, match="to append have 3 channels, the model's own 1"), passes.watch(MIX):
        model(images(3))
    side.images = images(2)
    with pytest.raises(ValueError, match="given what other layers make"), passes.watch(MIX):
        model(images(3).requires_grad_() * 1)


def test_images_count_that_are_set_when_the_step_has_begun():
    """Such as a loop sets in its step's block, and anew for each microbatch."""
    model, side, shown = tiny_vit(), SideBySide(), []
    training = Training(model, PhasePlan(4, 4, 1), MAE("input", decoder_depth=1), plugins=[side])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.1)
    training.encoder_pass.add(Noting(shown))
    for number in range(2):
        with training.step(number, optimizer) as step:
            for part in range(2):
                side.images = torch.full((5, 1, 8, 8), float(10 * number + part))
                step.loss(F.cross_entropy(model(images(3)), labels(3))).backward()
            optimizer.step()
    assert [float(seen.source[3:].unique()) for seen in shown] == [0, 1, 10, 11]
    assert all(len(seen.source) == 8 for seen in shown)


class Noting:
    """Notes each pass as it leaves the encoder's first layer."""

    def __init__(self, shown: list) -> None:
        self.shown = shown

    def __call__(self, request):
        if request.role != "shared":
            return request
        ask = request.view

        def view(x, seen):
            self.shown.append(seen)
            return x if ask is None else ask(x, seen)

        return dataclasses.replace(request, view=view)
