"""What a user may write beside a recipe: a part of every kind."""

from __future__ import annotations

from dataclasses import dataclass

from composer.core import Algorithm, Callback
from composer.models import ComposerClassifier
from composer.optim import ComposerScheduler
from torch import nn
from torch.optim import SGD

from mixplug import SimSiam


class Net(nn.Module):
    """An encoder that nobody knows, and a classifier on top."""

    def __init__(self, width: int, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.classifier(self.features(images))


def make_model(num_classes: int, in_chans: int, width: int = 8) -> nn.Module:
    return Net(width, in_chans, num_classes)


def wrapped(num_classes: int, in_chans: int, width: int = 8) -> nn.Module:
    return ComposerClassifier(Net(width, in_chans, num_classes), num_classes=num_classes)


def seven(width: int, in_chans: int) -> nn.Module:
    return Net(width, in_chans, 7)


def nothing() -> None:
    """A function that forgets to return what it makes."""


def make_optimizer(params, lr: float = 0.1):
    return SGD(params, lr=lr)


class Halved(ComposerScheduler):
    def __call__(self, state, ssr: float = 1.0) -> float:
        return 0.5 * ssr


@dataclass
class Weight:
    value: float


class Watch(Algorithm):
    """Takes what it is offered, and does nothing."""

    def __init__(self, weight: Weight, tasks) -> None:
        self.weight, self.tasks = weight, tasks

    def match(self, event, state) -> bool:
        return False

    def apply(self, event, state, logger) -> None:
        raise AssertionError("it matches no event")


class Note(Callback):
    words: list[str] = []  # noqa: RUF012  (of all runs)

    def __init__(self, word: str) -> None:
        self.word = word

    def fit_start(self, state, logger) -> None:
        self.words.append(self.word)


class Twins(SimSiam):
    """An objective by another name."""
