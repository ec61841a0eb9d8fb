"""The one table of what may stand with MixTraining in a Trainer's list; the README of algorithms/trainer has it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import composer.algorithms as ca
import numpy as np
import torch
from composer.core import Algorithm
from composer.models import ComposerClassifier
from PIL import Image
from shared.settings import classifier, ssl_loader
from shared.tiny import loader, tiny_vit
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import VisionDataset
from torchvision.models.resnet import Bottleneck

from mixplug import (
    SDMP,
    AutoCompression,
    Compression,
    CompressionSchedule,
    HardAugment,
    KeepBest,
    MixTraining,
    PatchScaling,
    PseudoLabels,
    SuperProgressiveLearning,
    TokenDropout,
)

WORKS, NOTE, REFUSED, NOT_IMAGES = "works", "works with a note", "refused", "not for images"


def convolutions() -> nn.Sequential:
    """Whatever layers the algorithms for convolutional networks look for, ``(B, 1, H, W) -> (B, 16, H, W)``."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(16, 16, 3, padding=1),
        Bottleneck(16, 4),
    )


class Stem(nn.Module):
    """A transformer behind a stem of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolutions()
        self.vit = tiny_vit(in_chans=16, dynamic_img_size=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(self.stem(images))


class Convolutional(nn.Module):
    """A convolutional network that is not timm's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.features = convolutions()
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


class Pictures(VisionDataset):
    """Colour pictures of noise, as PIL gives them to the transform."""

    def __init__(self, count: int = 20, seed: int = 0, transform: Any = None) -> None:
        super().__init__(".", transform=transform or transforms.ToTensor())
        self.pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


@dataclass(frozen=True)
class Kind:
    """Model and data that a neighbour finds something to do on: fresh ones from each call."""

    model: Callable[[], ComposerClassifier]
    train: Callable[[], DataLoader]
    ssl: Callable[[], DataLoader]
    backbone: str | None = None


PLAIN = Kind(lambda: classifier(dynamic_img_size=True), loader, ssl_loader)
STEM = Kind(lambda: ComposerClassifier(Stem(), num_classes=10), loader, ssl_loader)
CONVOLUTIONAL = Kind(
    lambda: ComposerClassifier(Convolutional(), num_classes=10),
    loader,
    lambda: ssl_loader(22, 6),  # even batches: GhostBatchNorm(2) may leave no image alone to a head's BatchNorm
    "module.features",
)
PICTURES = Kind(
    lambda: classifier(in_chans=3),
    lambda: DataLoader(Pictures(), batch_size=8),
    lambda: DataLoader(Pictures(22, seed=1), batch_size=5, shuffle=True),
)


@dataclass(frozen=True)
class Neighbour:
    """One algorithm: the verdict, and settings that run (or are refused, with what the message names)."""

    verdict: str
    settings: dict[str, Callable[[], Algorithm]]
    kind: Kind = PLAIN
    message: str = ""
    rebuilds: bool = field(default=False)
    """Whether it puts other modules into the model, so that a fresh one cannot load its weights."""

    @property
    def kind_of_two_views(self) -> Kind:
        """Objectives of two views need the encoder that takes the images: no transformer behind a stem."""
        return CONVOLUTIONAL if self.kind is STEM else self.kind


def one(make: Callable[[], Algorithm]) -> dict[str, Callable[[], Algorithm]]:
    return {"": make}


def resizing(mode: str) -> Algorithm:
    return ca.ProgressiveResizing(mode, 0.5, 0.3, 0.2, size_increment=2)


COMPOSERS = {
    "MixUp": Neighbour(WORKS, {"": ca.MixUp, "loss": lambda: ca.MixUp(interpolate_loss=True)}),
    "CutMix": Neighbour(WORKS, {"": ca.CutMix, "loss": lambda: ca.CutMix(interpolate_loss=True)}),
    "CutOut": Neighbour(WORKS, one(ca.CutOut)),
    "LabelSmoothing": Neighbour(WORKS, one(lambda: ca.LabelSmoothing(0.1))),
    "EMA": Neighbour(NOTE, one(lambda: ca.EMA(half_life="2ba"))),
    "GradientClipping": Neighbour(WORKS, one(lambda: ca.GradientClipping("norm", 0.5))),
    "LayerFreezing": Neighbour(WORKS, one(lambda: ca.LayerFreezing(freeze_start=0.5))),
    "ChannelsLast": Neighbour(WORKS, one(ca.ChannelsLast)),
    "LowPrecisionLayerNorm": Neighbour(WORKS, one(ca.LowPrecisionLayerNorm)),
    "WeightStandardization": Neighbour(WORKS, one(ca.WeightStandardization), rebuilds=True),
    "SelectiveBackprop": Neighbour(NOTE, one(lambda: ca.SelectiveBackprop(start=0.4, end=0.9, interrupt=0))),
    "SAM": Neighbour(NOTE, one(lambda: ca.SAM(interval=1))),
    "SWA": Neighbour(NOTE, one(lambda: ca.SWA("0.3dur", "0.6dur", "1ba"))),
    "ProgressiveResizing": Neighbour(NOTE, {mode: (lambda m=mode: resizing(m)) for mode in ("resize", "crop")}),
    "ColOut": Neighbour(NOTE, one(lambda: ca.ColOut(0.25, 0.25))),
    "RandAugment": Neighbour(NOTE, one(ca.RandAugment), PICTURES),
    "AugMix": Neighbour(NOTE, one(ca.AugMix), PICTURES),
    "Factorize": Neighbour(NOTE, one(lambda: ca.Factorize(min_features=16, latent_features=4)), rebuilds=True),
    "BlurPool": Neighbour(NOTE, one(ca.BlurPool), STEM, rebuilds=True),
    "GhostBatchNorm": Neighbour(NOTE, one(lambda: ca.GhostBatchNorm(2)), STEM, rebuilds=True),
    "SqueezeExcite": Neighbour(NOTE, one(lambda: ca.SqueezeExcite(4, 16)), STEM, rebuilds=True),
    "LowPrecisionGroupNorm": Neighbour(NOTE, one(ca.LowPrecisionGroupNorm), STEM),
    "StochasticDepth": Neighbour(NOTE, one(lambda: ca.StochasticDepth("ResNetBottleneck")), STEM, rebuilds=True),
    "GyroDropout": Neighbour(REFUSED, one(ca.GyroDropout), message="GyroDropout cannot run with FusedBackbonePass"),
    "NoOpModel": Neighbour(REFUSED, one(ca.NoOpModel), message="NoOpModel cannot run with FusedBackbonePass"),
    # What each of these three says depends on whether the transformers package is there.
    "Alibi": Neighbour(NOT_IMAGES, one(lambda: ca.Alibi(16)), message="nlp"),
    "GatedLinearUnits": Neighbour(NOT_IMAGES, one(ca.GatedLinearUnits), message="nlp|BertPreTrainedModel"),
    "SeqLengthWarmup": Neighbour(NOT_IMAGES, one(ca.SeqLengthWarmup), message="HuggingFaceModel"),
}

OWN = {
    kind.__name__: Neighbour(REFUSED, one(kind), message="use it once")
    for kind in (MixTraining, *(type(part) for part in MixTraining().parts))
} | {
    "PseudoLabels": Neighbour(REFUSED, one(PseudoLabels), message="mixing='side_by_side'"),
    "KeepBest": Neighbour(NOTE, one(lambda: KeepBest("rankme", loader()))),
    "TokenDropout": Neighbour(NOTE, one(lambda: TokenDropout(0.5))),
    "PatchScaling": Neighbour(NOTE, one(lambda: PatchScaling(4))),
    "SDMP": Neighbour(NOTE, {"": SDMP, "labels": lambda: SDMP(labels=True)}),
    "HardAugment": Neighbour(NOTE, one(lambda: HardAugment(3, 4))),
    "SuperProgressiveLearning": Neighbour(
        NOTE, one(lambda: SuperProgressiveLearning(0.5, phases=("ssl", "mix", "sl")))
    ),
    "AutoCompression": Neighbour(NOTE, one(lambda: AutoCompression((0.5, 0.0), share=1.0, sub_batch=2))),
    "Compression": Neighbour(NOTE, one(lambda: Compression(CompressionSchedule({0: (0.5, 4), 0.5: (0.0, 2)})))),
}

TABLE = COMPOSERS | OWN


def rows(*verdicts: str) -> dict[str, tuple[Neighbour, Callable[[], Algorithm]]]:
    """Every setting of the neighbours of these verdicts, by a name for test reports."""
    return {
        f"{name} {setting}".strip(): (neighbour, make)
        for name, neighbour in TABLE.items()
        if neighbour.verdict in verdicts
        for setting, make in neighbour.settings.items()
    }
