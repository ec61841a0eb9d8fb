"""Smaller images by a schedule: what the encoder is shown, and what it costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn
from torchvision.transforms import functional as TF

from mixplug import MAE, EncoderPass, PhasePlan, Position, Ramp, Training, Views, backbone_of, small_image_stem
from mixplug.backbones.costs import counting_flops
from mixplug.schedules.resolution import ResolutionSchedule
from mixplug.training.costs import CostCounter
from mixplug.training.super_progressive_learning import ScaleImages

PLAN = PhasePlan(4, 4, 0.5)
SMALL = Position("ssl", 0.3, 0.3, 0.3)


def passes_of(model, objective, *amendments):
    passes = EncoderPass(backbone_of(model), None if objective is None else objective.build(backbone_of(model)))
    for amendment in amendments:
        passes.add(amendment)
    return passes


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("encoder", [tiny_vit, pytest.param(tiny_cnn, marks=pytest.mark.slow)])
def test_views_are_cropped_at_the_size_and_nothing_is_resized_twice(name, encoder, monkeypatch):
    model = tiny_vit(dynamic_img_size=True) if encoder is tiny_vit else encoder()
    objective, asked = OBJECTIVES[name](), []
    passes = passes_of(model, objective, ScaleImages(0.5, step=2))
    monkeypatch.setattr("mixplug.backbones.base.resize", lambda x, size: asked.append((x.shape[-2:], size)) or x)
    with passes.watch(SMALL) as seen:
        model(images(4, 1, 12, 16))
    views = objective.view_pairs(seen).views
    assert [view.images.shape for view in views.values()] == [(4, 1, 6, 8)] * 2
    assert all(tuple(shape) == size for shape, size in asked)
    objective(seen).backward()


@pytest.mark.parametrize("phase", ["ssl", "mix", "sl"])
def test_images_without_a_view_are_resized_once(phase):
    model, scale = tiny_vit(dynamic_img_size=True), ScaleImages(0.5, phases=("ssl", "mix", "sl"))
    passes = passes_of(model, MAE(mask="input", fused=False), scale)
    x = images(4)
    with passes.watch(Position(phase, 0.3, 0.3, 0.3)) as seen:
        model(x)
    torch.testing.assert_close(seen.images, TF.resize(x, [4, 4], antialias=True))
    if phase != "sl":
        assert passes.objective(seen).isfinite()


def test_in_mix_both_views_follow_or_neither():
    for phases, side in ((("ssl",), 8), (("ssl", "mix"), 4)):
        model, objective = tiny_vit(dynamic_img_size=True), OBJECTIVES["MoCoV3"]()
        passes = passes_of(model, objective, ScaleImages(0.5, phases=phases))
        with passes.watch(Position("mix", 0.3, 0.3, 0.3)) as seen:
            model(images(4))
        assert [v.images.shape[-1] for v in objective.view_pairs(seen).views.values()] == [side] * 2
        objective(seen).backward()


def test_local_crops_are_half_of_what_global_views_are():
    model, objective = tiny_vit(dynamic_img_size=True), OBJECTIVES["DINO"](local_crops=2)
    passes = passes_of(model, objective, ScaleImages(0.5))
    for position, side in ((Position("ssl"), 4), (SMALL, 2)):
        with passes.watch(position) as seen:
            model(images(4))
        assert objective.view_pairs(seen).views[2].images.shape[-1] == side


def test_by_phase_and_clock():
    def scale(scaled, phase, *progress):
        return scaled(backbone.objective.request(Position(phase, *progress))).metrics.get("resolution_scale")

    backbone = passes_of(tiny_vit(), MAE())
    assert scale(ScaleImages(0.5), "ssl", 0, 0, 0) == 1
    assert scale(ScaleImages(0.5), "ssl", 0, 0.3, 0) == 0.5
    assert scale(ScaleImages(0.5), "mix", 0, 0.3, 0) is None
    assert scale(ScaleImages(0.5, phases=("ssl", "sl")), "ssl", 0, 0.3, 0) == 1  # over the run
    assert scale(ScaleImages(0.5, over="phase"), "ssl", 0.3, 0, 0) == 0.5


@pytest.mark.parametrize("scales", ["jitter", "all"])
def test_views_get_stronger(scales):
    """One object drives size and magnitude; colour jitter alone may go beyond the recipe's."""
    magnitude = Ramp(0.25, 2.0 if scales == "jitter" else 1.0)
    model, objective = tiny_vit(), OBJECTIVES["SimSiam"]()
    given = []
    make = objective.views._view
    objective.views._view = lambda x, recipe, size, magnitude: (
        given.append((recipe.jitter[0] / 0.4, magnitude)) or make(x, recipe, size, magnitude)
    )
    passes = passes_of(model, objective, ScaleImages(1.0, magnitude=magnitude, scales=scales))
    for ssl_progress, expected in ((0.0, magnitude.start), (1.0, magnitude.stop)):
        given.clear()
        with passes.watch(Position("ssl", 0, ssl_progress, 0)) as seen:
            model(images(4))
        objective.view_pairs(seen)
        assert given == [pytest.approx((expected, 1) if scales == "jitter" else (1, expected))] * 2
        name = "view_jitter" if scales == "jitter" else "view_magnitude"
        assert seen.request.metrics[name] == pytest.approx(expected)


def test_the_objectives_own_magnitude_is_left_alone_on_request():
    views = Views("simsiam", magnitude=0.5)
    request = ScaleImages(magnitude=None)(passes_of(tiny_vit(), OBJECTIVES["SimSiam"]()).request(SMALL))
    assert request.magnitude is None
    assert request.jitter == 1
    assert views.magnitude_at(SMALL) == 0.5


@pytest.mark.parametrize("size", [(16, 16), (10, 14)])
def test_views_at_a_size_are_in_distribution_views_that_are_resized(size):
    """Pixels' moments, of smooth images, with crop, colours and blur."""
    torch.manual_seed(0)
    x = F.interpolate(torch.rand(1500, 3, 5, 5), (32, 32), mode="bicubic").clamp(0, 1)
    for recipe in ("simclr", "byol"):
        views = Views(recipe)
        direct = views(x, 0, size=size)
        resized = TF.resize(views(x, 0), list(size), antialias=True)
        for one, other in ((direct, resized), (direct.diff(dim=-1).abs(), resized.diff(dim=-1).abs())):
            means, spreads = (one.mean((1, 2, 3)), other.mean((1, 2, 3))), (one.std((1, 2, 3)), other.std((1, 2, 3)))
            for a, b in (means, spreads):
                error = (a.var() / len(a) + b.var() / len(b)).sqrt()
                assert abs(a.mean() - b.mean()) < 4 * error + 0.01 * b.mean()
                assert a.std() == pytest.approx(float(b.std()), rel=0.1)


def test_strides():
    assert backbone_of(tiny_vit(patch_size=4)).stride() == 4
    assert backbone_of(tiny_cnn()).stride() == 32
    assert backbone_of(small_image_stem(tiny_cnn())).stride() == 8


def test_the_stride_is_measured_inside_of_a_pass_without_touching_it():
    model = small_image_stem(tiny_cnn()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = backbone_of(model)
    with passes_of(model, None, ScaleImages(0.5, phases=("sl",))).watch(Position("sl", 0, 0, 0.3)) as seen:
        model(images(2, 1, 32, 32))
    assert seen.images.shape[-1] == 16
    assert backbone.attached
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def counted_in_a_real_step(model, objective, time, scale):
    training = Training(model, PLAN, objective, plugins=[scale])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    with counting_flops() as counter, training.step(time, optimizer) as step:
        step.loss(F.cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.zeros(4, dtype=torch.long))).backward()
        optimizer.step()
    return counter.get_total_flops() / 4


@pytest.mark.parametrize("time", [1.0, 2.5, 5.0])
@pytest.mark.parametrize("name", ["SimSiam", "MoCoV3", "MAE"])
def test_the_counted_cost_is_that_of_a_real_step(name, time):
    torch.manual_seed(0)
    # Wide enough that the views, whose crops are products too, do not matter beside it.
    model = tiny_vit(in_chans=3, embed_dim=128, dynamic_img_size=True)
    objective = MAE(mask="input") if name == "MAE" else OBJECTIVES[name]()
    scale = ScaleImages(0.5, phases=("ssl", "mix", "sl"))
    cost = CostCounter(model, objective, (3, 8, 8), 4, amendments=[scale]).at(PLAN.position(time))
    assert cost.flops == pytest.approx(counted_in_a_real_step(model, objective, time, scale), rel=0.02)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments",
    [(0.5, 0.13, 3), pytest.param((96 / 224, 80 / 480, 6), marks=SLOW), pytest.param((64 / 224, 0.25, 4), marks=SLOW)],
)
def test_the_predicted_speedup_of_a_network_that_costs_as_its_pixels_do(arguments):
    """Whatever the stages are: also where some last shorter than what is averaged over."""
    network = small_image_stem(tiny_cnn(channels=(32, 32, 32, 32)))
    plan = PhasePlan(100, 0, 0)
    plain, progressive = (
        CostCounter(network, OBJECTIVES["SimSiam"](), (1, 224, 224), amendments=amendments).of_run(plan)
        for amendments in ([], [ScaleImages(*arguments, step=32)])
    )
    assert plain / progressive == pytest.approx(ResolutionSchedule(*arguments).speedup(224, 32), rel=0.005)


def test_bad_input_is_refused():
    for arguments, message in (
        ({"magnitude": -0.1}, "magnitude"),
        ({"magnitude": 1.5, "scales": "all"}, "magnitude"),
        ({"scales": "crop"}, "scales.*'jitter'"),
        ({"step": 0}, "step"),
        ({"phases": ("train",)}, "phase of SuperProgressiveLearning"),
        ({"min_scale": 1.5}, "min_scale"),
    ):
        with pytest.raises(ValueError, match=message):
            ScaleImages(**arguments)
    with pytest.raises(TypeError, match="phases"):
        ScaleImages(phases="ssl")
    model = tiny_vit()
    passes = passes_of(model, None, ScaleImages(0.5, phases=("sl",)))
    with pytest.raises(ValueError, match="dynamic_img_size=True"), passes.watch(Position("sl", 0, 0, 0.3)):
        model(images(2))
