"""What the tests of two-view objectives share: small ones, and small encoders of both kinds."""

from __future__ import annotations

from typing import Any

import torch
from shared.tiny import tiny_vit
from timm.models import ResNet
from timm.models.resnet import BasicBlock
from torch import nn

from mixplug import BYOL, DINO, MoCoV2Plus, MoCoV3, SimCLR, SimSiam
from mixplug.views.views import Views

SMALL: dict[str, Any] = {"hidden_dim": 16, "out_dim": 8}

OBJECTIVES = {
    "SimSiam": lambda **o: SimSiam(views("simsiam"), **{**SMALL, "bottleneck_dim": 4, **o}),
    "SimCLR": lambda **o: SimCLR(views("simclr"), **{**SMALL, **o}),
    "BYOL": lambda **o: BYOL(views("byol"), **{**SMALL, "momentum": 0.9, **o}),
    "MoCoV2Plus": lambda **o: MoCoV2Plus(views("mocov2"), **{**SMALL, "queue_size": 24, "momentum": 0.9, **o}),
    "MoCoV3": lambda **o: MoCoV3(views("mocov3"), **{**SMALL, "momentum": 0.9, **o}),
    "DINO": lambda **o: DINO(
        views("dino"), **{"hidden_dim": 16, "bottleneck_dim": 8, "prototypes": 12, "momentum": 0.9, **o}
    ),
}
"""By name, each made with small heads and the options given."""

MOMENTUM = ["BYOL", "MoCoV2Plus", "MoCoV3", "DINO"]


def views(recipe: str) -> Views:
    """Views of the noise that the tests' images are."""
    return Views(recipe, mean=0.5, std=0.1, blur=False)


def tiny_cnn(**changes: Any) -> ResNet:
    """A residual network on 8x8 grey images, with the same weights at each call."""
    torch.manual_seed(7)
    arguments: dict[str, Any] = {"in_chans": 1, "num_classes": 10, "channels": (8, 8, 8, 16), "stem_width": 8}
    return ResNet(BasicBlock, (1, 1, 1, 1), **{**arguments, **changes})


ENCODERS = {"ViT": tiny_vit, "CNN": tiny_cnn}


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]
