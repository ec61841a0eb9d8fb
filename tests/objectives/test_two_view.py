from __future__ import annotations

import copy
import math
from collections import defaultdict

import pytest
import torch
from shared.tiny import images, labels, tiny_vit
from shared.two_view import ENCODERS, MOMENTUM, OBJECTIVES, tiny_cnn, trainable, views
from sklearn.datasets import load_digits
from timm.models import SwinTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mixplug import DINO, MAE, Phase, Position, Ramp, SimSiam, Steps, backbone_of
from mixplug.objectives.moco import enqueue
from mixplug.views.views import Views

every = pytest.mark.parametrize("name", OBJECTIVES)
encoders = pytest.mark.parametrize("kind", ENCODERS)
with_momentum = pytest.mark.parametrize("name", MOMENTUM)
phases = pytest.mark.parametrize("phase", [Phase.SSL, Phase.MIX])


def built(name, kind="ViT", **options):
    model = ENCODERS[kind]()
    return model, backbone_of(model), OBJECTIVES[name](**options).build(backbone_of(model))


def loss_of(model, backbone, objective, x, position=Phase.SSL):
    objective.before_step()
    with backbone.watch(objective.request(position)) as seen:
        logits = model(x)
    return objective(seen), logits


def tiny_swin():
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    return SwinTransformer(in_chans=1, num_classes=10, **sizes)


FALLS = defaultdict(lambda: 0.95) | {
    "SimSiam": -0.3,
    "SimCLR": 0.9,
    "BYOL": 0.8,
    "MoCoV2Plus": 0.9,
    "MoCoV3": 0.95,
    "DINO": 0.85,
}
"""By what factor a loss falls at least; that of SimSiam falls from about 0 to this number or below.

DINO's factor is 0.46 to 0.74, depending on the views that are drawn and on the version of torch.
"""

# A tiny ViT without BatchNorm in its head takes longer to tell images apart than a test should.
LEARNERS = [(name, "ViT") for name in ("SimSiam", "SimCLR", "BYOL", "MoCoV3")] + [
    pytest.param(name, "CNN", marks=[pytest.mark.slow] * (name not in ("MoCoV2Plus", "DINO"))) for name in OBJECTIVES
]


@pytest.mark.parametrize(("name", "kind"), LEARNERS)
def test_the_loss_falls_on_a_tiny_set_without_collapse(name, kind):
    """32 digits, 160 steps; MoCo sees one half at a time, so that its queue holds the other."""
    digits = torch.tensor(load_digits().images[:32], dtype=torch.float32).unsqueeze(1) / 16
    own = {"hidden_dim": 64, **OWN.get(name, {"out_dim": 16})}
    torch.manual_seed(1)
    model, backbone, objective = built(name, kind, **own)
    objective.views = Views(objective.views.recipes, magnitude=0.2)
    optimizer = torch.optim.AdamW(trainable(model, objective), lr=3e-4 if name == "DINO" else 1e-3)
    parts = 1 if name == "DINO" else 2
    losses = []
    for step in range(STEPS):
        position = Position(Phase.SSL, step / STEPS, step / STEPS)
        loss, _ = loss_of(model, backbone, objective, digits.chunk(parts)[step % parts], position)
        optimizer.zero_grad()
        loss.backward()
        objective.after_backward(position)
        optimizer.step()
        objective.after_step(position)
        losses.append(loss.item())
    spread = {monitor: float(value) for monitor, value in objective.monitors().items()}
    first, last = sum(losses[:16]) / 16, sum(losses[-16:]) / 16
    assert last < (FALLS[name] if name == "SimSiam" else FALLS[name] * first)
    assert spread["target_entropy" if name == "DINO" else "embedding_std"] > 0.3


STEPS = 160
OWN = {
    "SimSiam": {"out_dim": 32, "bottleneck_dim": 16},
    "MoCoV2Plus": {"out_dim": 16, "queue_size": 32},
    "DINO": {"bottleneck_dim": 16, "prototypes": 32, "center_momentum": 0.5, "teacher_temperature": (0.04, 0.04)},
}


@encoders
@pytest.mark.parametrize(
    ("name", "options", "ssl", "mix"),
    # Passes of the encoder with and without gradient, as the table in mixplug.objectives.two_view says.
    [
        ("SimSiam", {}, (2, 0), (2, 0)),
        ("SimSiam", {"symmetric": False}, (1, 1), (1, 1)),
        ("SimCLR", {}, (2, 0), (2, 0)),
        *((name, {}, (2, 2), (1, 1)) for name in MOMENTUM),
        *((name, {"symmetric": False}, (1, 1), (1, 1)) for name in MOMENTUM),
    ],
)
def test_what_a_step_costs(name, options, ssl, mix, kind):
    model, backbone, objective = built(name, kind, **options)
    x = images(4)

    def flops(step):
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops()

    forward = flops(lambda: model(x))
    # The first layer's images need no gradient.
    both = flops(lambda: model(x).sum().backward())
    heads = 0.12 * both  # head, projector, predictor
    for phase, (with_gradient, without) in ((Phase.SSL, ssl), (Phase.MIX, mix)):
        cost = flops(lambda phase=phase: loss_of(model, backbone, objective, x, phase)[0].backward())
        expected = with_gradient * both + without * forward
        assert expected * 0.97 <= cost <= expected + (with_gradient + without) * heads, phase


@every
@encoders
def test_the_classifiers_images_are_a_view_in_the_mix_phase_only(name, kind):
    model, backbone, objective = built(name, kind)
    x = images(4)
    for phase, own in ((Phase.SSL, False), (Phase.MIX, True)):
        with backbone.watch(objective.request(phase)) as seen:
            model(x)
        assert (seen.images is x) is own
        assert seen.source is x
        assert seen.images.shape == x.shape


@with_momentum
def test_a_momentum_encoder_cannot_stand_still_unnoticed(name):
    model, backbone, objective = built(name)

    def a_pass():
        with backbone.watch(objective.request(Phase.SSL)) as seen:
            model(images(4))
        return objective(seen)

    a_pass()
    with torch.no_grad():
        a_pass()
    with pytest.raises(RuntimeError, match=f"a second forward pass of {name} came without a step"):
        a_pass()
    objective.after_step(Position(Phase.SSL))
    a_pass()
    objective.before_step()
    for _ in range(2):  # microbatches
        a_pass()


@with_momentum
def test_a_momentum_encoder_drops_nothing(name):
    model = tiny_vit(drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5, proj_drop_rate=0.5)
    objective = OBJECTIVES[name]().build(backbone_of(model)).train()
    copied, x = objective.momentum_encoder, images(4)
    assert copied.training
    assert torch.equal(copied(x), copied(x))
    assert not torch.equal(model(x), model(x))
    resnet = OBJECTIVES[name]().build(backbone_of(tiny_cnn())).train().momentum_encoder
    norms = [m for m in resnet.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(norm.training for norm in norms)
    assert not any(norm.training for norm in resnet.eval().modules())


@with_momentum
@phases
def test_no_gradient_reaches_the_momentum_encoder(name, phase):
    model, backbone, objective = built(name)
    loss, logits = loss_of(model, backbone, objective, images(4), phase)
    (loss + F.cross_entropy(logits, labels(4))).backward()
    slow = {id(p) for m in (objective.momentum_encoder, objective.momentum_projector) for p in m.parameters()}
    assert slow
    for parameter in objective.parameters():
        assert parameter.requires_grad is (id(parameter) not in slow)
        assert (parameter.grad is not None) is (id(parameter) not in slow)
    assert all(p.grad is not None for n, p in model.named_parameters() if "fc_norm" not in n)


@with_momentum
@encoders
def test_the_momentum_encoder_follows_as_defined(name, kind):
    model, _, objective = built(name, kind, momentum=0.8)
    networks = ((objective.momentum_encoder.model, model), (objective.momentum_projector, objective.projector))
    for slow, fast in networks:
        fasts = dict(fast.named_parameters())
        assert all(torch.equal(p, fasts[n]) for n, p in slow.named_parameters())
    before = [copy.deepcopy(slow) for slow, _ in networks]
    with torch.no_grad():
        for p in trainable(model, objective):
            p.add_(torch.randn_like(p))
    objective.after_step(Position(Phase.MIX, 0.25, 0.5))
    m = 0.9  # half way from 0.8 to 1
    for (slow, fast), old in zip(networks, before, strict=True):
        fasts, olds = dict(fast.named_parameters()), dict(old.named_parameters())
        for n, p in slow.named_parameters():
            torch.testing.assert_close(p, m * olds[n] + (1 - m) * fasts[n])
    objective.begin()
    for slow, fast in networks:
        values = fast.state_dict()
        assert all(torch.equal(value, values[n]) for n, value in slow.state_dict().items())


@with_momentum
@encoders
def test_the_momentum_encoder_is_the_encoder_without_its_classifier(name, kind):
    model, backbone, objective = built(name, kind)
    model.eval()
    objective.eval()
    x = images(3)
    assert torch.equal(objective.momentum_encoder(x), backbone.features_of(x))
    kept = sum(p.numel() for p in objective.momentum_encoder.parameters())
    classifier = sum(p.numel() for p in model.get_classifier().parameters())
    assert kept == sum(p.numel() for p in model.parameters()) - classifier


def test_microbatches_fill_the_queue_as_a_whole_batch_does():
    model, backbone, objective = built("MoCoV2Plus")
    objective.views = Views("mocov2", mean=0.5, std=0.1, magnitude=0.0)
    x = images(8)
    queues = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        own = copy.deepcopy(objective)
        own.before_step()
        for part in x.chunk(parts):
            with backbone.watch(own.request(Phase.MIX)) as seen:
                model(part)
            own(seen)
        before = own.queue.clone()
        own.after_step(Position(Phase.MIX))
        assert torch.equal(own.queue[8:], before[8:])
        assert int(own.oldest) == 8
        queues.append(own.queue)
    # Flips are drawn in another order, so that only the number of keys is compared; an attempt given up leaves none.
    own = copy.deepcopy(objective)
    for _ in range(2):
        loss_of(model, backbone, own, x, Phase.MIX)
    own.after_step(Position(Phase.MIX))
    assert int(own.oldest) == 8


def test_the_centre_of_dino_moves_as_defined():
    """Eq. 4: c <- m c + (1 - m) * mean of the teacher's outputs, over both views and all microbatches."""
    model, backbone, objective = built("DINO", center_momentum=0.7)
    outputs = []
    objective.momentum_projector.register_forward_hook(lambda m, args, out: outputs.append(out))
    objective.center.normal_()
    before = objective.center.clone()
    objective.before_step()
    for part in images(12).split(8):
        with backbone.watch(objective.request(Phase.SSL)) as seen:
            model(part)
        objective(seen)
    assert torch.equal(objective.center, before)
    objective.after_step(Position(Phase.SSL))
    assert sum(map(len, outputs)) == 24
    torch.testing.assert_close(objective.center, 0.7 * before + 0.3 * torch.cat(outputs).mean(dim=0))


def test_the_queue_holds_the_latest_keys():
    queue, oldest = torch.zeros(5, 2), torch.zeros((), dtype=torch.long)
    history = [torch.zeros(2)] * 5
    for step, count in enumerate((2, 2, 3, 1, 7, 5)):
        keys = images(count, 2, seed=step)
        enqueue(queue, oldest, keys)
        history = [*history, *keys][-5:]
        # From the oldest on, round the end.
        assert torch.equal(queue.roll(-int(oldest), 0), torch.stack(history))


@with_momentum
def test_the_momentum_goes_up_by_half_a_cosine_or_as_a_schedule_says(name):
    """Grill et al., 2020, section 3.3: tau = 1 - (1 - tau_base) * (cos(pi k / K) + 1) / 2."""
    positions = [Position(Phase.SSL, 0, k / 10) for k in range(11)]
    momenta = [OBJECTIVES[name]().momentum_at(position) for position in positions]
    assert momenta == [1 - (1 - 0.9) * (math.cos(math.pi * k / 10) + 1) / 2 for k in range(11)]
    constant = OBJECTIVES[name](momentum=Ramp(0.99, 0.99))
    assert {constant.momentum_at(position) for position in positions} == {0.99}
    by_phase = OBJECTIVES[name](momentum=Steps({0: 0.5, 0.5: 0.8}, over="phase"))
    assert [by_phase.momentum_at(Position(Phase.MIX, t, 0.9)) for t in (0.4, 0.5)] == [0.5, 0.8]


def test_the_temperature_of_dinos_teacher_follows_a_schedule():
    position = Position(Phase.MIX, 0.2, 0.6)
    for schedule, expected in ((Ramp(0.04, 0.09), 0.07), (Ramp(0.04, 0.09, over="mix"), 0.05)):
        found = OBJECTIVES["DINO"](teacher_temperature=schedule).teacher_temperature_at(position)
        assert found == pytest.approx(expected)
    assert OBJECTIVES["DINO"](temperature_warmup=0).teacher_temperature_at(Position(Phase.SSL)) == 0.07


def test_the_temperature_of_dinos_teacher_warms_up_and_its_prototypes_are_held():
    model, backbone, objective = built("DINO", temperature_warmup=0.2, freeze_prototypes=0.1)
    at = [objective.teacher_temperature_at(Position(Phase.SSL, 0, t)) for t in (0, 0.1, 0.2, 1)]
    assert at == pytest.approx([0.04, 0.055, 0.07, 0.07])
    for progress, held in ((0.0, True), (0.09, True), (0.1, False)):
        loss_of(model, backbone, objective, images(4))[0].backward()
        objective.after_backward(Position(Phase.SSL, 0, progress))
        assert (objective.projector.prototypes.grad is None) is held


def test_local_crops_of_dino_are_students_only_in_the_ssl_phase():
    model = tiny_vit(dynamic_img_size=True)
    backbone = backbone_of(model)
    sizes = []
    model.patch_embed.register_forward_pre_hook(lambda m, args: sizes.append(tuple(args[0].shape)))
    objective = OBJECTIVES["DINO"](local_crops=3).build(backbone)
    loss_of(model, backbone, objective, images(4))[0].backward()
    # The momentum encoder is a copy from before the hook... which deepcopy takes along, so it is counted as well.
    assert sizes.count((12, 1, 4, 4)) == 1
    sizes.clear()
    loss_of(model, backbone, objective, images(4), Phase.MIX)[0].backward()
    assert (12, 1, 4, 4) not in sizes
    torch.manual_seed(0)
    both = float(loss_of(model, backbone, objective, images(4))[0])
    assert both > 0


@every
def test_a_batch_of_one_image_is_refused_where_a_head_normalises_over_it(name):
    model, backbone, objective = built(name)
    if any(isinstance(m, nn.BatchNorm1d) for m in objective.modules()):
        with pytest.raises(
            ValueError, match=r"normalises over the batch .* got a batch of 1 image: use drop_last=True"
        ):
            loss_of(model, backbone, objective, images(1))
        objective.eval()
    assert loss_of(model, backbone, objective, images(1))[0].isfinite()


@every
def test_the_loss_is_float32_under_autocast(name):
    model, backbone, objective = built(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = loss_of(model, backbone, objective, images(4))
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trainable(objective))


@pytest.mark.parametrize("size", [None, 16])
def test_local_crops_are_no_larger_than_the_shorter_side(size):
    model, backbone, objective = built("DINO", "CNN", local_crops=2, local_size=size)
    x = images(4, 1, 8, 32)
    if size is None:
        sides = []
        model.conv1.register_forward_pre_hook(lambda module, args: sides.append(tuple(args[0].shape[-2:])))
        loss_of(model, backbone, objective, x)
        assert set(sides) == {(8, 32), (4, 4)}
    else:
        with pytest.raises(ValueError, match="local_size=16 is more than the 8 pixels"):
            loss_of(model, backbone, objective, x)


@with_momentum
def test_a_momentum_encoder_follows_the_encoder_it_is_built_for_last(name):
    _, _, objective = built(name)
    other = tiny_vit()
    objective.build(backbone_of(other))
    with torch.no_grad():
        other.cls_token.add_(1)
    objective.begin()
    assert torch.equal(objective.momentum_encoder.model.cls_token, other.cls_token)
    with pytest.raises(ValueError, match=r"built for another encoder, whose .* make a new one"):
        objective.build(backbone_of(tiny_vit(mlp_ratio=2)))


@pytest.mark.parametrize("model", [tiny_vit(num_classes=0, global_pool=""), tiny_cnn(num_classes=0, global_pool="")])
def test_an_encoder_that_does_not_pool_is_refused(model):
    with pytest.raises(ValueError, match="instead of 16 numbers for each image; build it with a pooling"):
        backbone_of(model).features_of(images(2))


def test_a_copy_keeps_the_pooling_that_is_part_of_the_classifier():
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = VisionTransformerSAM(in_chans=1, num_classes=10, neck_chans=16, **sizes).eval()
    backbone = backbone_of(model)
    copied = backbone.frozen_copy().eval()
    torch.testing.assert_close(copied(images(2)), backbone.features_of(images(2)))


@every
def test_it_is_made_once_for_one_width(name):
    model, backbone, objective = built(name)
    parameters = list(objective.parameters())
    assert objective.build(backbone) is objective
    assert all(a is b for a, b in zip(parameters, objective.parameters(), strict=True))
    with pytest.raises(ValueError, match="was built for features 16 wide, not 32"):
        objective.build(backbone_of(tiny_vit(embed_dim=32)))
    with pytest.raises(RuntimeError, match=r"call build\(backbone\) first"):
        loss_of(model, backbone, OBJECTIVES[name](), images(4))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SimSiam(3), TypeError, "views must be a recipe's name"),
        (lambda: SimSiam("simsam"), ValueError, "did you mean 'simsiam'"),
        (lambda: SimSiam(symmetric=1), TypeError, "symmetric must be true or false"),
        (lambda: SimSiam(bottleneck_dim=0), ValueError, "bottleneck_dim"),
        (lambda: OBJECTIVES["SimCLR"](temperature=0), ValueError, "temperature"),
        (lambda: OBJECTIVES["BYOL"](momentum=1.5), ValueError, "momentum"),
        (lambda: OBJECTIVES["MoCoV2Plus"](queue_size=0), ValueError, "queue_size"),
        (lambda: OBJECTIVES["DINO"](teacher_temperature=0.04), TypeError, "teacher_temperature must be two numbers"),
        (lambda: OBJECTIVES["DINO"](teacher_temperature=(0.04, 0)), ValueError, "teacher_temperature"),
        (
            lambda: OBJECTIVES["DINO"](teacher_temperature=Ramp(0, 0.1)),
            ValueError,
            r"a value of teacher_temperature=Ramp",
        ),
        (lambda: OBJECTIVES["BYOL"](momentum=Ramp(0.9, 1.1)), ValueError, "momentum=Ramp"),
        (lambda: OBJECTIVES["DINO"](local_crops=-1), ValueError, "local_crops"),
        (lambda: OBJECTIVES["DINO"](freeze_prototypes=2), ValueError, "freeze_prototypes"),
        (lambda: built("DINO", local_crops=2), ValueError, "dynamic_img_size=True .* or use local_crops=0"),
        (
            lambda: OBJECTIVES["DINO"](local_crops=2).build(backbone_of(tiny_swin())),
            ValueError,
            "strict_img_size=False",
        ),
        (
            lambda: OBJECTIVES["DINO"](local_crops=2, local_size=5).build(backbone_of(tiny_vit(dynamic_img_size=True))),
            ValueError,
            "local_size=5 cannot be cut into patches",
        ),
        (lambda: MAE().build(backbone_of(tiny_cnn())), TypeError, r"MAE hides patches .* or an objective of two"),
    ],
)
def test_what_cannot_be_is_refused_with_words(make, error, message):
    with pytest.raises(error, match=message):
        make()


@every
def test_its_repr_names_its_settings(name):
    text = " ".join(repr(OBJECTIVES[name]()).split())
    assert "Views(" in text
    assert "hidden_dim=16" in text
    assert text == " ".join(repr(OBJECTIVES[name]()).split())


def test_defaults_are_the_papers():
    assert DINO().prototypes == 65536
    assert DINO().momentum == 0.996
    assert views("simsiam").mean == (0.5,)
