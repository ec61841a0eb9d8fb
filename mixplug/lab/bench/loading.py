"""``python -m mixplug.lab.bench.loading``: images per second of ImageLoader and Views, next to torchvision with PIL.

All in one process, with the same settings on the same images (noise: what they show costs nothing), by turns, so that
whatever else the machine does meets all alike. torchvision gets PIL images, one by one, as training code usually does.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as T

from mixplug.checks import check_choice, check_int
from mixplug.data.loaders import ImageLoader
from mixplug.lab.bench.results import Quartiles, ratios
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.runs.environment import describe_environment
from mixplug.views.recipes import VIEW_RECIPES, ViewRecipe
from mixplug.views.views import Views

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PADDING = 4
_NUMBERS = {
    "--images": (2048, "images in a pass"),
    "--size": (32, "their height and width"),
    "--batch-size": (128, "images of a batch"),
    "--repeats": (5, "passes over each"),
}

Rates = dict[str, tuple[list[float], list[float]]]
"""By what is done, images per second of mixplug and of torchvision, pass by pass."""


def measure(images: Tensor, batch_size: int, repeats: int, views: Views, device: torch.device) -> Rates:
    """Load ``images``, and make two views of each, in both ways, after a pass of each that warms up.

    Args:
        images: ``(N, 3, H, H)``, uint8.
        batch_size: Images of a batch.
        repeats: Passes over each.
        views: What makes the views, not yet normalised, and whose settings torchvision gets.
        device: Where the batches have to be.
    """
    size, labels = images.shape[-1], torch.zeros(len(images), dtype=torch.long)
    loader = functools.partial(ImageLoader, images, labels, batch_size, MEAN, STD, shuffle=True, device=device)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    normalise = [T.ToTensor(), T.Normalize(MEAN, STD)]
    augment = T.Compose([T.RandomCrop(size, padding=PADDING), T.RandomHorizontalFlip(), *normalise])
    first, second = (T.Compose([torchvision_view(recipe, size), *normalise]) for recipe in views.recipes)
    views.normalised_by(MEAN, STD)
    ways: dict[str, tuple[Iterable, Iterable]] = {
        "ImageLoader: crop, flip": (
            loader(crop_padding=PADDING, flip=True),
            _by_one(pil, batch_size, lambda image: (augment(image),)),
        ),
        "Views: two of each image": (
            _Mapped(loader(), lambda batch: [views(batch[0], which) for which in (0, 1)]),
            _by_one(pil, batch_size, lambda image: (first(image), second(image))),
        ),
    }
    rates: Rates = {name: ([], []) for name in ways}
    for turn in range(repeats + 1):
        for name, pair in ways.items():
            for batches, measured in zip(pair, rates[name], strict=True):
                seconds = _pass_over(batches, device)
                if turn:
                    measured.append(len(images) / seconds)
    return rates


def torchvision_view(recipe: ViewRecipe, size: int) -> Callable[[Image.Image], Image.Image]:
    """The transforms of the papers' code for a view of ``size`` pixels, with Pillow's blur."""

    def blurred(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(*recipe.blur_sigma))))

    return T.Compose(
        [
            T.RandomResizedCrop(size, recipe.crop_scale, recipe.crop_ratio),
            T.RandomHorizontalFlip(recipe.flip_p),
            T.RandomApply([T.ColorJitter(*recipe.jitter)], recipe.jitter_p),
            T.RandomGrayscale(recipe.grayscale_p),
            T.RandomApply([T.Lambda(blurred)], recipe.blur_p),
            T.RandomSolarize(round(255 * recipe.solarise_threshold), recipe.solarise_p),
        ]
    )


def rate_table(rates: Rates) -> Table:
    """A line for each thing that is done."""
    over = [ratios([[rate] for rate in ours], [[rate] for rate in theirs]) for ours, theirs in rates.values()]
    return Table(
        [
            Column("Normalised batches", list(rates), words=True),
            Column("mixplug (images/s)", [Quartiles.of(ours).format(",.0f") for ours, _ in rates.values()]),
            Column("torchvision (images/s)", [Quartiles.of(theirs).format(",.0f") for _, theirs in rates.values()]),
            Column("Ratio", [ratio.format(".1f") for ratio in over], note="Medians (quartiles) of passes by turns."),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m mixplug.lab.bench.loading")
    for name, (usual, meaning) in _NUMBERS.items():
        parser.add_argument(name, type=int, default=usual, help=f"{meaning} (default: {usual})")
    parser.add_argument("--views", default="simsiam", help=f"{', '.join(VIEW_RECIPES)} (default: %(default)s)")
    parser.add_argument("--no-blur", action="store_true", help="leave blur out, as is usual for small images")
    parser.add_argument("--device", default="cpu", help="where the batches have to be (default: %(default)s)")
    options = parser.parse_args(arguments)
    given = (options.images, options.size, options.batch_size, options.repeats)
    try:
        count, size, batch_size, repeats = (check_int(name, n, 1) for name, n in zip(_NUMBERS, given, strict=True))
        views = Views(check_choice("--views", options.views, VIEW_RECIPES), blur=not options.no_blur)
        device = torch.empty(0, device=options.device).device
    except (ValueError, RuntimeError, AssertionError) as error:
        parser.error(str(error))
    noise = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    print(f"{count} images of 3x{size}x{size}, batches of {batch_size}, views {options.views}, {device}\n")
    print(rate_table(measure(noise, batch_size, repeats, views, device)).markdown())
    described = describe_environment()
    machine, versions = described["machine"], described["versions"]
    print(f"{machine['processor']}, {machine['threads']} threads, torch {versions['torch']}, {described['date']}")
    return 0


class _Mapped:
    """What ``function`` makes of each batch."""

    def __init__(self, batches: Iterable, function: Callable[[Any], Any]) -> None:
        self.batches, self.function = batches, function

    def __iter__(self) -> Any:
        return map(self.function, self.batches)


def _by_one(images: list[Image.Image], batch_size: int, transform: Callable[[Image.Image], Any]) -> DataLoader:
    """Batches of images that are transformed one by one in this process."""
    return DataLoader(
        images,  # type: ignore[arg-type]
        batch_size,
        shuffle=True,
        collate_fn=lambda batch: default_collate([transform(image) for image in batch]),
    )


def _pass_over(batches: Iterable[Sequence[Tensor]], device: torch.device) -> float:
    """Seconds until all batches are made and on ``device``."""
    start = time.perf_counter()
    for batch in batches:
        for part in batch:
            part.to(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
