from __future__ import annotations

import pytest
import torch
from composer.models import ComposerClassifier
from shared.tiny import tiny_vit
from torch import nn
from torch.optim import AdamW

from mixplug import decay_groups


def names_without_decay(model, weight_decay=None):
    exempt, decayed = decay_groups(model, weight_decay)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(exempt["params"]) + len(decayed["params"]) == len(names)
    return {names[id(p)] for p in exempt["params"]}


def test_biases_norms_and_what_timm_names_have_no_decay():
    model = tiny_vit()
    exempt = names_without_decay(model)
    assert {"pos_embed", "cls_token", "blocks.0.norm1.weight", "head.bias", "patch_embed.proj.bias"} <= exempt
    assert not {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} & exempt
    wrapped = ComposerClassifier(model, num_classes=10)
    assert names_without_decay(wrapped) == {f"module.{name}" for name in exempt}


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    exempt, decayed = decay_groups(model)
    assert exempt["params"] == [model.bias]
    assert decayed["params"] == []


@pytest.mark.parametrize(("given", "expected"), [(None, 0.3), (0.1, 0.1), (0.0, 0.0)])
def test_the_others_have_theirs(given, expected):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = AdamW(decay_groups(model, given), weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, expected]
    only = nn.Linear(2, 2, bias=False)
    assert [len(group["params"]) for group in decay_groups(only)] == [0, 1]
    torch.optim.SGD(decay_groups(nn.LayerNorm(2)), lr=0.1)


@pytest.mark.parametrize(("value", "error"), [(-0.1, ValueError), ("much", TypeError)])
def test_bad_decay_is_refused(value, error):
    with pytest.raises(error, match="weight_decay must be"):
        decay_groups(nn.Linear(2, 2), value)
