"""``python -m mixplug.lab.bench.loading.views``: two views of each image by Views and by torchvision.

Both in one process, with the same settings on the same images (noise), by turns. torchvision's transforms get PIL
images, one by one, as two-view training code usually does; ours get batches of an ImageLoader.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as T

from mixplug.checks import check_choice
from mixplug.data.loaders import ImageLoader
from mixplug.lab.bench.loading.images import MEAN, STD, PILImages, noise_images
from mixplug.lab.bench.loading.rates import Rates, add_settings, by_turns, conclude, read_settings
from mixplug.views.recipes import VIEW_RECIPES, ViewRecipe
from mixplug.views.views import Views


class ViewPairs:
    """Batches of both views of all images of a loader.

    Args:
        images: ``(N, 3, H, W)``, uint8.
        labels: ``(N,)``.
        batch_size: Images of a batch.
        views: What makes the views.
        device: Where.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, views: Views, device: torch.device | str = "cpu"
    ) -> None:
        self.views = views.normalised_by(MEAN, STD)
        self.loader = ImageLoader(images, labels, batch_size, MEAN, STD, shuffle=True, device=device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, _ in self.loader:
            yield self.views(images, 0), self.views(images, 1)


def torchvision_pairs(
    images: Tensor, labels: Tensor, batch_size: int, recipes: tuple[ViewRecipe, ViewRecipe]
) -> DataLoader:
    """Batches of both views, each image transformed on its own in this process.

    Args:
        images: ``(N, 3, H, W)``, uint8, the height and width equal.
        labels: ``(N,)``.
        batch_size: Images of a batch.
        recipes: Of both views.
    """
    first, second = (torchvision_view(recipe, images.shape[-1]) for recipe in recipes)
    data = PILImages(images, labels, lambda image: (first(image), second(image)))
    return DataLoader(data, batch_size, shuffle=True, collate_fn=_pairs)


def torchvision_view(recipe: ViewRecipe, size: int) -> Callable[[Image.Image], Tensor]:
    """The transforms of the papers' code, with Pillow's blur.

    Args:
        recipe: The view's settings.
        size: Height and width of the view.
    """
    transforms: list[Callable] = [
        T.RandomResizedCrop(size, recipe.crop_scale, recipe.crop_ratio),
        T.RandomHorizontalFlip(recipe.flip_p),
        T.RandomApply([T.ColorJitter(*recipe.jitter)], recipe.jitter_p),
        T.RandomGrayscale(recipe.grayscale_p),
    ]
    if recipe.blur_p:
        low, high = recipe.blur_sigma

        def blurred(image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(low, high))))

        transforms.append(T.RandomApply([T.Lambda(blurred)], recipe.blur_p))
    if recipe.solarise_p:
        transforms.append(T.RandomSolarize(round(255 * recipe.solarise_threshold), recipe.solarise_p))
    return T.Compose([*transforms, T.ToTensor(), T.Normalize(MEAN, STD)])


def _pairs(samples: list[tuple[tuple[Tensor, Tensor], int]]) -> tuple[Tensor, Tensor]:
    pairs = [pair for pair, _ in samples]
    return torch.stack([first for first, _ in pairs]), torch.stack([second for _, second in pairs])


def measure(images: int, size: int, batch_size: int, repeats: int, device: torch.device, views: Views) -> Rates:
    """Make both views of all images in both ways, by turns.

    Args:
        images: Number of images in a pass.
        size: Their height and width.
        batch_size: Images of a batch.
        repeats: Passes over each.
        device: Where the batches have to be.
        views: What makes ours, and whose settings theirs get.
    """
    noise, labels = noise_images(images, size)
    ours = ViewPairs(noise, labels, batch_size, views, device)
    return by_turns(ours, torchvision_pairs(noise, labels, batch_size, views.recipes), repeats, device, "Views")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if ``--at-least`` is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m mixplug.lab.bench.loading.views",
        description="Images per second, two views of each, by Views and by torchvision's transforms of PIL images.",
    )
    parser.add_argument("--views", default="simsiam", help=f"{', '.join(VIEW_RECIPES)} (default: %(default)s)")
    parser.add_argument("--no-blur", action="store_true", help="leave blur out, as is usual for small images")
    add_settings(parser, images=1024)
    options = parser.parse_args(arguments)
    settings = read_settings(parser, options)
    try:
        views = Views(check_choice("--views", options.views, VIEW_RECIPES), blur=not options.no_blur)
    except ValueError as error:
        parser.error(str(error))
    images, size, batch_size, repeats = settings.images, settings.size, settings.batch_size, settings.repeats
    blur = "without blur" if options.no_blur else "with blur"
    print(f"{images} images of 3x{size}x{size}, batches of {batch_size}, {repeats} passes by turns, {settings.device}")
    print(f"Two views of each, {options.views} {blur}, normalised, in one process; median (quartiles)")
    return conclude(measure(images, size, batch_size, repeats, settings.device, views), settings)


if __name__ == "__main__":
    sys.exit(main())
