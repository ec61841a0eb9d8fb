"""``python -m mixplug.lab.bench.loading.images``: ImageLoader beside torchvision's transforms of PIL images.

Both in one process, on the same images (noise: what they show costs nothing), by turns, so that whatever else the
machine does meets both alike. torchvision gets its images as PIL images already, which ``CIFAR10`` has to make first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mixplug.data.datasets import CIFAR10_STATISTICS
from mixplug.data.loaders import ImageLoader
from mixplug.lab.bench.loading.rates import Rates, add_settings, by_turns, conclude, read_settings

PADDING = 4
MEAN, STD = CIFAR10_STATISTICS
"""Of CIFAR-10."""


def image_loader(images: Tensor, labels: Tensor, batch_size: int, device: torch.device | str = "cpu") -> ImageLoader:
    """The usual recipe for small images, a batch at a time.

    Args:
        images: ``(N, 3, H, W)``, uint8.
        labels: ``(N,)``.
        batch_size: Images of a batch.
        device: Where batches are made.
    """
    return ImageLoader(
        images, labels, batch_size, MEAN, STD, shuffle=True, crop_padding=PADDING, flip=True, device=device
    )


def torchvision_loader(images: Tensor, labels: Tensor, batch_size: int) -> DataLoader:
    """The same recipe, image by image in this process.

    Args:
        images: ``(N, 3, H, W)``, uint8, the height and width equal.
        labels: ``(N,)``.
        batch_size: Images of a batch.
    """
    recipe = transforms.Compose(
        [
            transforms.RandomCrop(images.shape[-1], padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(PILImages(images, labels, recipe), batch_size, shuffle=True)


class PILImages(Dataset):
    """Images that are PIL images already, transformed one by one.

    Args:
        images: ``(N, 3, H, W)``, uint8.
        labels: ``(N,)``.
        transform: Makes of a PIL image what a sample begins with.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def measure(images: int, size: int, batch_size: int, repeats: int, device: torch.device) -> Rates:
    """Pass over both loaders by turns, once each before the clock runs.

    Args:
        images: Number of images in a pass.
        size: Their height and width.
        batch_size: Images of a batch.
        repeats: Passes over each.
        device: Where the batches have to be.
    """
    noise, labels = noise_images(images, size)
    return by_turns(
        image_loader(noise, labels, batch_size, device), torchvision_loader(noise, labels, batch_size), repeats, device
    )


def noise_images(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images ``(count, 3, size, size)``, uint8, the same at each call, and a label for each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return noise, torch.arange(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if ``--at-least`` is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m mixplug.lab.bench.loading.images",
        description="Images per second of ImageLoader and of torchvision's transforms of PIL images, in one process.",
    )
    add_settings(parser, images=5000)
    settings = read_settings(parser, parser.parse_args(arguments))
    images, size, batch_size, repeats = settings.images, settings.size, settings.batch_size, settings.repeats
    device = settings.device
    print(f"{images} images of 3x{size}x{size}, batches of {batch_size}, {repeats} passes over each by turns, {device}")
    print(f"Crop with padding {PADDING}, flip, normalise, in one process; median (quartiles)")
    return conclude(measure(images, size, batch_size, repeats, device), settings)


if __name__ == "__main__":
    sys.exit(main())
