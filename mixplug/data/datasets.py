"""Data sets by name: images as normalised tensors, with the paper's data-limitation subset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from mixplug.checks import check_choice, check_real


@dataclass(frozen=True)
class DataSplit:
    """Training and test images with labels.

    Attributes:
        train: ``(image, label)`` pairs, images normalised.
        test: The same for evaluation.
        classes: Number of classes.
        shape: Channels, height and width of an image.
        mean: What was subtracted from images in [0, 1], one number for each channel.
        std: What they were then divided by.
    """

    train: Dataset
    test: Dataset
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_dataset(name: str, fraction: float = 1.0, seed: int = 0) -> DataSplit:
    """Load a data set and keep a random share of its training images.

    Args:
        name: One of :data:`DATASETS`.
        fraction: Share of the training images to keep, in (0, 1], drawn uniformly (Li et al., section 3.1).
        seed: Of that draw.

    Raises:
        ValueError: an unknown name, or a fraction outside of (0, 1] or that leaves no image.
    """
    check_choice("data.dataset", name, DATASETS)
    check_real("data.fraction", fraction, 0, 1, low_open=True)
    split = DATASETS[name]()
    if fraction == 1:
        return split
    images: int = len(split.train)  # type: ignore[arg-type]
    kept = round(images * fraction)
    if kept < 1:
        raise ValueError(f"data.fraction={fraction} leaves none of the {images} training images of {name!r}")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return DataSplit(
        Subset(split.train, order[:kept].tolist()), split.test, split.classes, split.shape, split.mean, split.std
    )


def _digits() -> DataSplit:
    """scikit-learn's handwritten digits: 1,797 real 8x8 grey images; every second is a test image."""
    from sklearn.datasets import load_digits

    data = load_digits()
    mean, std = 0.3053, 0.3760  # of all pixels, scaled from 0..16 to 0..1
    images = (torch.tensor(data.images, dtype=torch.float32).div(16).unsqueeze(1) - mean) / std
    labels = torch.tensor(data.target, dtype=torch.long)
    test = torch.arange(len(labels)) % 2 == 1
    return DataSplit(
        _pairs(images[~test], labels[~test]), _pairs(images[test], labels[test]), 10, (1, 8, 8), (mean,), (std,)
    )


def _pairs(images: Tensor, labels: Tensor) -> Dataset:
    return TensorDataset(images, labels)


DATASETS: dict[str, Callable[[], DataSplit]] = {"digits": _digits}
