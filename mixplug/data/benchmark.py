"""``python -m mixplug.data.benchmark``: images per second of ImageLoader and of torchvision's transforms of PIL images.

Both in one process, on the same images (noise: what they show costs nothing), by turns, so that whatever else the
machine does meets both alike. torchvision gets its images as PIL images already, which ``CIFAR10`` has to make first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mixplug.checks import check_int
from mixplug.data.loaders import ImageLoader
from mixplug.environment import describe_environment

PADDING = 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
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
    return DataLoader(_PILImages(images, labels, recipe), batch_size, shuffle=True)


class _PILImages(Dataset):
    def __init__(self, images: Tensor, labels: Tensor, transform: Callable) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


@dataclass(frozen=True)
class Rates:
    """Images per second, repeat by repeat.

    Attributes:
        ours: Of ImageLoader.
        theirs: Of torchvision.
    """

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times faster ImageLoader was, in each repeat."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def lines(self) -> list[str]:
        """Medians and quartiles, in words."""
        rows = (
            ("ImageLoader", self.ours, ",.0f", " images/s"),
            ("torchvision, PIL", self.theirs, ",.0f", " images/s"),
            ("ratio", self.ratios, ".1f", ""),
        )
        return [f"{name:<17} {_spread(values, form, unit)}" for name, values, form, unit in rows]


def measure(images: int, size: int, batch_size: int, repeats: int, device: torch.device) -> Rates:
    """Pass over both loaders by turns, once each before the clock runs.

    Args:
        images: Number of images in a pass.
        size: Their height and width.
        batch_size: Images of a batch.
        repeats: Passes over each.
        device: Where the batches have to be.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(images)
    loaders = (image_loader(noise, labels, batch_size, device), torchvision_loader(noise, labels, batch_size))
    for loader in loaders:
        _rate(loader, device)
    rates = [[_rate(loader, device) for loader in loaders] for _ in range(repeats)]
    ours, theirs = zip(*rates, strict=True)
    return Rates(list(ours), list(theirs))


def _rate(loader: Iterable, device: torch.device) -> float:
    start, count = time.perf_counter(), 0
    for images, labels in loader:
        images.to(device), labels.to(device)
        count += len(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - start)


def _spread(values: Sequence[float], form: str, unit: str) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:{form}}{unit} (quartiles {low:{form}} to {high:{form}})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if ``--at-least`` is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m mixplug.data.benchmark",
        description="Images per second of ImageLoader and of torchvision's transforms of PIL images, in one process.",
    )
    parser.add_argument("--images", type=int, default=5000, help="images in a pass (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="their height and width (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="passes over each loader (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the batches have to be (default: %(default)s)")
    parser.add_argument("--at-least", type=float, metavar="RATIO", help="fail if the median ratio is below this")
    options = parser.parse_args(arguments)
    try:
        numbers = [check_int(f"--{name}", getattr(options, name.replace("-", "_")), 1) for name in _NUMBERS]
        device = torch.device(options.device)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: there is no GPU; use --device cpu")
    images, size, batch_size, repeats = numbers
    print(f"{images} images of 3x{size}x{size}, batches of {batch_size}, {repeats} passes over each by turns, {device}")
    print(f"Crop with padding {PADDING}, flip, normalise, in one process; median (quartiles)")
    rates = measure(images, size, batch_size, repeats, device)
    print("\n".join(rates.lines()))
    print(_environment())
    if options.at_least is not None and np.median(rates.ratios) < options.at_least:
        print(f"the ratio is below {options.at_least:g}", file=sys.stderr)
        return 1
    return 0


_NUMBERS = ("images", "size", "batch-size", "repeats")


def _environment() -> str:
    described = describe_environment()
    machine, versions = described["machine"], described["versions"]
    parts = [machine["processor"], f"{machine['cores']} cores", f"threads used: {machine['threads']}", machine["gpu"]]
    parts += [f"torch {versions['torch']}", *(f"{name} {version(name)}" for name in ("torchvision", "pillow"))]
    return ", ".join([*filter(None, parts), described["date"]])


if __name__ == "__main__":
    sys.exit(main())
