from __future__ import annotations

import copy

import pytest
import torch
from shared.tiny import images, tiny_vit
from timm.models import create_model
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from torch import nn

from mixplug import MAE, PassRequest, Phase, ViTBackbone, backbone_of
from mixplug.backbones import TimmBackbone, take_tokens


def every_other(batch, patches, device):
    return torch.arange(0, patches, 2, device=device).expand(batch, -1)


VARIANTS = {
    "class token": {},
    "no class token, avg": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "registers without positions": {"reg_tokens": 3, "no_embed_class": True},
    "avg over a class token": {"global_pool": "avg"},
    "avg, norm before": {"global_pool": "avg", "fc_norm": False},
    "map": {"global_pool": "map", "class_token": False},
    "no positions": {"pos_embed": "none"},
    "pre norm": {"pre_norm": True},
    "layer scale": {"init_values": 1e-2},
    "oblong patches": {"img_size": (8, 12), "patch_size": (2, 4)},
    "5 channels": {"in_chans": 5},
    "parallel blocks": {"block_fn": ParallelThingsBlock},
    "parallel scaling blocks": {"block_fn": ParallelScalingBlock},
}


def shape_of(vit):
    return (vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pass_leaves_behind_what_the_encoder_saw(variant):
    vit = tiny_vit(**VARIANTS[variant]).eval()
    x = images(3, *shape_of(vit))
    expected, logits = vit.forward_features(x), vit(x)
    backbone = backbone_of(vit)
    with backbone.watch(PassRequest(Phase.SSL)) as seen:
        assert torch.equal(vit(x), logits)
    assert torch.equal(seen.output, expected)
    assert seen.images is seen.source is x
    assert seen.keep is None
    assert seen.grid[0] * seen.grid[1] + backbone.num_prefix_tokens == expected.shape[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_selected_tokens_are_all_the_encoder_sees(variant):
    """Against a literal pass: embed all patches, keep some, run the blocks."""
    vit = tiny_vit(**VARIANTS[variant]).double().eval()
    x = images(3, *shape_of(vit), dtype=torch.float64)
    backbone = backbone_of(vit)
    with backbone.watch(PassRequest(Phase.SSL, select=every_other)) as seen:
        logits = vit(x)
    embedded = vit._pos_embed(vit.patch_embed(x))
    prefix = vit.num_prefix_tokens
    kept = torch.cat([embedded[:, :prefix], embedded[:, prefix:][:, ::2]], dim=1)
    expected = vit.norm(vit.blocks(vit.norm_pre(kept)))
    assert torch.equal(seen.output, expected)
    assert torch.equal(logits, vit.forward_head(expected))


def test_dynamic_image_size():
    vit = tiny_vit(dynamic_img_size=True).eval()
    backbone = backbone_of(vit)
    for height, width in ((8, 8), (4, 12), (16, 8)):
        seen = backbone.encode(images(2, 1, height, width), PassRequest(Phase.SSL, select=every_other))
        assert seen.grid == (height // 2, width // 2)
        assert seen.output.shape[1] == 1 + (height // 2) * (width // 2) // 2
    with pytest.raises(ValueError, match="9x8 pixels cannot be cut into patches of 2x2"):
        backbone.encode(images(2, 1, 9, 8))


def test_another_image_size_without_dynamic_image_size_says_what_to_do():
    with pytest.raises(ValueError, match=r"8x16 pixels come to a model built for .* dynamic_img_size=True"):
        backbone_of(tiny_vit()).encode(images(2, 1, 8, 16))


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        vit = tiny_vit()
        vit.set_grad_checkpointing(checkpointing)
        seen = backbone_of(vit).encode(images(2), PassRequest(Phase.SSL, select=every_other))
        seen.output.square().sum().backward()
        gradients.append(vit.blocks[0].mlp.fc1.weight.grad)
    assert torch.equal(*gradients)


def test_a_view_is_what_the_encoder_sees_instead():
    vit = tiny_vit().eval()
    x = images(2)
    seen = backbone_of(vit).encode(x, PassRequest(Phase.SSL, view=lambda x, seen: x.flip(-1)))
    assert torch.equal(seen.images, x.flip(-1))
    assert seen.source is x
    assert torch.equal(seen.output, backbone_of(vit).encode(x.flip(-1)).output)


def test_nothing_is_kept_or_changed_outside_of_a_watch():
    vit = tiny_vit().eval()
    names = list(vit.state_dict())
    before = vit(images(2))
    backbone = backbone_of(vit)
    backbone.encode(images(2), PassRequest(Phase.SSL, select=every_other))
    assert torch.equal(vit(images(2)), before)
    assert list(vit.state_dict()) == names
    assert not backbone._passes


def test_a_failed_pass_leaves_no_watch_behind():
    vit = tiny_vit()
    backbone = backbone_of(vit)
    with pytest.raises(ZeroDivisionError), backbone.watch(PassRequest(Phase.SSL, select=every_other)):
        raise ZeroDivisionError
    assert vit(images(2)).shape == (2, 10)
    assert not backbone._passes


def test_the_encoder_must_run_once():
    vit = tiny_vit()
    backbone = backbone_of(vit)
    with pytest.raises(RuntimeError, match="ran its backbone 2 times"), backbone.watch(PassRequest(Phase.SSL)):
        vit(vit(images(2))[0, 0] + images(2))
    with pytest.raises(RuntimeError, match="ran its backbone 0 times"), backbone.watch(PassRequest(Phase.SSL)):
        pass


def test_a_copy_of_the_model_has_an_adapter_of_its_own():
    vit = tiny_vit().eval()
    first = backbone_of(vit)
    twin = copy.deepcopy(vit)
    second = backbone_of(twin)
    assert second is not first
    assert second.vit is twin
    with torch.no_grad():
        twin.blocks[0].mlp.fc1.weight.zero_()
    with first.watch(PassRequest(Phase.SSL)) as seen:
        vit(images(2))
        twin(images(2))  # must not be recorded as the first one's pass
    assert torch.equal(seen.output, vit.forward_features(images(2)))


def test_a_newer_adapter_replaces_the_older():
    vit = tiny_vit()
    old = backbone_of(vit)
    assert backbone_of(vit) is old
    new = ViTBackbone(vit)
    with pytest.raises(RuntimeError, match="replaced by a newer one"):
        old.encode(images(2))
    assert new.encode(images(2)).runs == 1


def test_encoder_parameters_are_those_that_lead_to_the_tokens():
    for variant in VARIANTS.values():
        vit = tiny_vit(**variant)
        backbone = backbone_of(vit)
        backbone.encode(images(2, *shape_of(vit))).output.sum().backward()
        reached = {id(p) for p in vit.parameters() if p.grad is not None}
        assert {id(p) for p in backbone.encoder_parameters} == reached


class Holder(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def test_finding_the_transformer_in_a_model():
    vit, other = tiny_vit(), tiny_vit()
    assert backbone_of(Holder(inner=Holder(vit=vit))).vit is vit
    both = Holder(left=vit, right=other)
    assert backbone_of(both, "right").vit is other
    with pytest.raises(ValueError, match=r"holds 2 models of timm's, \['left', 'right'\]"):
        backbone_of(both)
    with pytest.raises(ValueError, match="backbone='middle' is no submodule"):
        backbone_of(both, "middle")
    with pytest.raises(TypeError, match="holds no model of timm's"):
        backbone_of(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"patch_drop_rate": 0.5}, ValueError, "patch_drop_rate=0"),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, ValueError, "dynamic_img_pad"),
        ({"img_size": 9}, ValueError, "do not divide"),
        ({"depth": 0}, ValueError, "no blocks"),
    ],
)
def test_what_cannot_work_says_so_at_construction(changes, error, message):
    with pytest.raises(error, match=message):
        backbone_of(tiny_vit(**changes))


@pytest.mark.parametrize(("name", "arguments"), [("vit_tiny_r_s16_p8_224", {"img_size": 64}), ("resnet10t", {})])
def test_mae_is_refused_where_no_token_stands_for_a_patch(name, arguments):
    backbone = backbone_of(create_model(name, **arguments))
    assert isinstance(backbone, TimmBackbone)
    with pytest.raises(TypeError, match="MAE hides patches from a timm VisionTransformer with a plain PatchEmbed"):
        MAE().build(backbone)


def test_take_tokens():
    tokens = images(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(take_tokens(tokens, index), torch.stack([tokens[0, [4, 0]], tokens[1, [1, 1]]]))
