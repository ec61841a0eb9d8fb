"""Patches of other sizes, and the position embedding that follows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, tiny_vit
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

from mixplug import MAE, EncoderPass, PassRequest, Phase, PhasePlan, Position, Ramp, Role, backbone_of
from mixplug.training.costs import CostCounter
from mixplug.training.patch_scaling import ScalePatches
from mixplug.training.token_dropout import DropTokens

SL = Position(Phase.SL)


def seen_by(vit, x, *amendments, position=SL):
    passes = EncoderPass(backbone_of(vit))
    for amendment in amendments:
        passes.add(amendment)
    with passes.watch(position) as seen:
        vit(x)
    return seen


@pytest.mark.parametrize(
    "options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}, {"no_embed_class": True}]
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_embedding_and_positions_are_timms_own_resampling(options, dynamic):
    vit = tiny_vit(dynamic_img_size=dynamic, **options).eval()
    x = images(3)
    first = []
    vit.blocks[0].register_forward_pre_hook(lambda _, args: first.append(args[0]))
    seen = seen_by(vit, x, ScalePatches(4))
    assert seen.grid == (2, 2)
    assert seen.output.shape[1] == vit.num_prefix_tokens + 4
    weight = resample_patch_embed(vit.patch_embed.proj.weight, [4, 4])
    tokens = F.conv2d(x, weight, vit.patch_embed.proj.bias, stride=4).flatten(2).transpose(1, 2)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = resample_abs_pos_embed(vit.pos_embed, new_size=[2, 2], old_size=[4, 4], num_prefix_tokens=prefix)
    expected = tokens + positions[:, prefix:]
    assert torch.allclose(first[0][:, vit.num_prefix_tokens :], expected, atol=1e-5)


def test_frozen_positions_are_interpolated_too():
    vit = tiny_vit(class_token=False, global_pool="avg")
    vit.pos_embed = torch.nn.Parameter(build_sincos2d_pos_embed([4, 4], 16)[None], requires_grad=False)
    assert seen_by(vit, images(2), ScalePatches(4)).output.shape == (2, 4, 16)


def test_the_native_size_is_the_identity_bit_for_bit():
    grads = []
    for amendments in ((), (ScalePatches(2),), (ScalePatches(Ramp(4, 2)),)):
        vit = tiny_vit()
        passes = EncoderPass(backbone_of(vit))
        for amendment in amendments:
            passes.add(amendment)
        with passes.watch(Position("sl", 1.0, 1.0, 1.0)):
            out = vit(images(4))
        out.square().sum().backward()
        grads.append([out.detach(), *(p.grad for p in vit.parameters())])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))


def test_gradients_reach_the_native_weights_and_nothing_stays_changed():
    vit = tiny_vit()
    before = vit.eval()(images(2))
    state, forward = set(vit.state_dict()), vit.patch_embed.proj.forward
    vit.train()
    passes = EncoderPass(backbone_of(vit))
    passes.add(ScalePatches(4))
    with passes.watch(SL):
        vit(images(2)).sum().backward()
    assert vit.patch_embed.proj.weight.grad.abs().sum() > 0
    assert set(vit.state_dict()) == state
    assert vit.patch_embed.proj.forward == forward
    assert torch.equal(vit.eval()(images(2)), before)


def test_a_pass_that_fails_leaves_nothing_changed():
    vit = tiny_vit()
    passes = EncoderPass(backbone_of(vit))
    passes.add(ScalePatches(4))
    vit.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), passes.watch(SL):
        vit(images(2))
    assert not vit.dynamic_img_size
    assert vit.patch_embed.flatten


def test_under_autocast():
    vit = tiny_vit()
    with torch.autocast("cpu", torch.bfloat16):
        seen = seen_by(vit, images(2), ScalePatches(4))
    assert seen.output.isfinite().all()


def test_dropout_counts_on_the_coarse_grid():
    seen = seen_by(tiny_vit(), images(2), ScalePatches(4), DropTokens(0.5))
    assert seen.keep.shape == (2, 2)
    assert seen.keep.max() < 4


def test_by_role_and_phase():
    for role in Role:
        request = ScalePatches(4)(PassRequest(Position("ssl"), role))
        assert (request.patch is not None) == (role not in ("local", "score"))
    assert ScalePatches(4, phases=("sl",))(PassRequest(Position("ssl"))).patch is None


def test_a_schedule_takes_the_nearest_size_that_fits():
    scale = ScalePatches(Ramp(12, 4, over="ssl"))
    sizes = [scale(PassRequest(Position("ssl", 0, t))).patch(48, 48) for t in (0, 0.2, 0.5, 0.8, 1)]
    assert sizes == [12, 12, 8, 6, 4]
    assert scale(PassRequest(Position("ssl"))).patch(32, 32) in (8, 16)


def test_one_of_a_set_is_drawn_for_each_step_and_holds_for_all_its_passes():
    scale, drawn = ScalePatches([2, 4, 8]), []
    for step in range(60):
        at = Position("ssl", step=step)
        sides = [scale(PassRequest(at, role)).patch(8, 8) for role in ("shared", "key", "query")]
        assert len(set(sides)) == 1
        drawn.append(sides[0])
    orders = {tuple(drawn[start : start + 3]) for start in range(0, 60, 3)}
    assert all(sorted(order) == [2, 4, 8] for order in orders)
    assert len(orders) == 6, "in every order"


def test_what_a_set_costs_is_the_mean_of_its_sizes():
    def cost(size):
        counter = CostCounter(tiny_vit(), None, (1, 8, 8), amendments=[ScalePatches(size)])
        return counter.of_run(PhasePlan(0, 4, 0))

    assert cost([2, 4, 8]) == pytest.approx(sum(map(cost, (2, 4, 8))) / 3)


def test_a_momentum_encoder_cuts_alike():
    vit = tiny_vit()
    frozen = backbone_of(vit).frozen_copy()
    lengths = []
    frozen.model.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    frozen(images(2), ScalePatches(4)(PassRequest(Position("ssl"), Role.KEY)))
    frozen(images(2))
    assert lengths == [5, 17]


def test_mae_predicts_native_patches():
    vit = tiny_vit()
    backbone = backbone_of(vit)
    for mae in (MAE(), MAE(mask="input"), MAE(mask="input", fused=False)):
        mae.build(backbone)
        passes = EncoderPass(backbone, mae)
        passes.add(ScalePatches(4))
        for phase in ("ssl", "mix"):
            with passes.watch(Position(phase)) as seen:
                vit(images(2))
            assert seen.grid == (4, 4)
            mae(seen)

        def scaled(request):
            return dataclasses.replace(request, patch=lambda height, width: 4)

        passes.add(scaled)
        with pytest.raises(ValueError, match="MAE and scaled both choose the size of the patches"):
            passes.request(Position("ssl"))


@pytest.mark.parametrize(
    ("size", "error", "says"),
    [
        (0, ValueError, "PatchScaling's size"),
        (4.5, TypeError, "PatchScaling's size"),
        ("4", TypeError, "PatchScaling's size"),
        (Ramp(4, 0), ValueError, "PatchScaling's size=Ramp"),
        ([], ValueError, "at least one size"),
        ([4, 0], ValueError, "a size of PatchScaling"),
    ],
)
def test_bad_sizes(size, error, says):
    with pytest.raises(error, match=says):
        ScalePatches(size)


def test_a_size_that_does_not_fit_names_those_that_do():
    with pytest.raises(
        ValueError, match=r"8x8 pixels cannot be cut into patches of 3 pixels; sizes that fit are \[1, 2, 4, 8\]"
    ):
        seen_by(tiny_vit(), images(2), ScalePatches(3))


def test_bad_phases():
    with pytest.raises(ValueError, match="a phase of PatchScaling"):
        ScalePatches(4, phases=("pretraining",))
    with pytest.raises(TypeError, match="phases must be several"):
        ScalePatches(4, phases="sl")


def test_patches_that_are_not_square():
    with pytest.raises(TypeError, match="square patches"):
        seen_by(tiny_vit(patch_size=(2, 4)), images(2), ScalePatches(4))
