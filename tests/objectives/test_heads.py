"""Heads against lightly's, which checkpoints of earlier versions hold: the same weights by the same names."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from lightly.models.modules import heads
from shared.tiny import images, tiny_vit
from shared.two_view import OBJECTIVES
from torch import nn

from mixplug import MoCoV3, SimSiam, backbone_of
from mixplug.objectives.heads import PrototypeHead

# What tests/shared/two_view.py makes of features 16 wide.
LIGHTLYS = {
    "SimSiam": [heads.SimSiamProjectionHead(16, 16, 8), heads.SimSiamPredictionHead(8, 4, 8)],
    "SimCLR": [heads.SimCLRProjectionHead(16, 16, 8)],
    "BYOL": [heads.BYOLProjectionHead(16, 16, 8), heads.BYOLPredictionHead(8, 16, 8)],
    "MoCoV2Plus": [heads.MoCoProjectionHead(16, 16, 8)],
    "MoCoV3": [
        heads.MoCoProjectionHead(16, 16, 8, num_layers=3, batch_norm=True),
        heads.MoCoProjectionHead(8, 16, 8, num_layers=2, batch_norm=True),
    ],
}


def reset(*modules):
    """Draw new weights, in the order in which the modules' constructors drew them."""
    torch.manual_seed(3)
    for module in modules:
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()


@pytest.mark.parametrize("name", LIGHTLYS)
def test_heads_are_lightlys(name):
    objective = OBJECTIVES[name](**({"heads": "affine"} if name == "MoCoV3" else {}))
    torch.manual_seed(3)
    objective.make_heads(16)
    ours = [getattr(objective, head) for head in ("projector", "predictor") if hasattr(objective, head)]
    reset(*LIGHTLYS[name])
    for mine, theirs in zip(ours, LIGHTLYS[name], strict=True):
        expected = theirs.state_dict()
        assert list(mine.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[key]) for key, value in mine.state_dict().items())
        x = images(6, expected["layers.0.weight"].shape[1])
        torch.testing.assert_close(mine(x), theirs(x), rtol=1e-6, atol=1e-6)
        assert [type(layer) for layer in mine.layers] == [type(layer) for layer in theirs.layers]


def authors_head(widths, last_norm):
    """``_build_mlp`` of MoCo v3's authors."""
    layers = []
    for index, (width, out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(width, out, bias=False))
        if index < len(widths) - 2:
            layers += [nn.BatchNorm1d(out), nn.ReLU()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(out, affine=False))
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("heads", "projector", "predictor"),
    [("vit", ([16, 12, 12, 8], True), ([8, 12, 8], True)), ("resnet", ([16, 12, 8], True), ([8, 12, 8], False))],
)
def test_heads_of_mocov3_are_its_authors(heads, projector, predictor):
    objective = MoCoV3(hidden_dim=12, out_dim=8, heads=heads)
    objective.make_heads(16)
    for head, (widths, last_norm) in ((objective.projector, projector), (objective.predictor, predictor)):
        theirs = authors_head(widths, last_norm)
        # Theirs have no bias anywhere; ours has one where no norm follows.
        own = {name: value for name, value in head.layers.state_dict().items() if name in theirs.state_dict()}
        theirs.load_state_dict(own)
        x = images(6, widths[0])
        offset = 0 if last_norm else head.layers[-1].bias
        torch.testing.assert_close(head(x), theirs(x) + offset)
        assert [type(layer) for layer in head.layers] == [type(layer) for layer in theirs]


def test_the_projector_of_simsiam_has_as_many_layers_as_asked():
    for layers in (2, 3):
        objective = SimSiam(hidden_dim=12, out_dim=8, projector_layers=layers)
        objective.make_heads(16)
        assert sum(isinstance(layer, nn.Linear) for layer in objective.projector.layers) == layers


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_head_of_dino_is_lightlys(batch_norm):
    torch.manual_seed(3)
    ours = PrototypeHead(6, 8, 4, 10, batch_norm)
    torch.manual_seed(3)
    theirs = heads.DINOProjectionHead(6, 8, 4, 10, batch_norm)
    assert torch.equal(ours.prototypes, theirs.last_layer.weight_v)
    # Both draw from a truncated normal distribution, but torch 2.15 turns the same random numbers into other ones.
    assert all(0.01 < layer.weight.std() < 0.03 for layer in ours.layers.modules() if isinstance(layer, nn.Linear))
    ours.layers.layers.load_state_dict(theirs.layers.state_dict())
    torch.testing.assert_close(ours(images(3, 6)), theirs(images(3, 6)), rtol=1e-6, atol=1e-6)


def test_the_head_of_dino_is_torchs_weight_norm_with_its_gain_at_1():
    head = PrototypeHead(6, 8, 4, 10).double()
    literal = nn.utils.parametrizations.weight_norm(nn.Linear(4, 10, bias=False).double())
    literal.parametrizations.weight.original0.data.fill_(1)
    literal.parametrizations.weight.original1.data.copy_(head.prototypes)
    x = images(3, 6, dtype=torch.float64)
    bottleneck = head.layers(x)
    expected = literal(bottleneck / bottleneck.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(x), expected, rtol=1e-12, atol=1e-12)


def test_names_in_a_checkpoint_stay():
    state = OBJECTIVES["DINO"]().build(backbone_of(tiny_vit())).state_dict()
    assert {"center", "projector.prototypes", "projector.layers.layers.0.weight"} <= set(state)
    assert "momentum_projector.layers.layers.4.bias" in state
