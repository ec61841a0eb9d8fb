"""``mixplug views``: a picture of a batch of a recipe's images and random views of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixplug import pictures
from mixplug.data.unlabelled import images_of
from mixplug.inputs import Inputs, make_inputs
from mixplug.recipes import Recipe
from mixplug.views import Views

DRAWS = 3
"""Views of a kind that are shown of each image."""


def write_views(
    recipe: Recipe, name: str, out: Path, count: int = 8, magnitude: float = 1.0, blur: bool = True, local_size: int = 0
) -> Path:
    """Draw the first training batch of ``recipe``, as augmented by its loader, and views of it.

    Args:
        recipe: The recipe; of several data sets that for self-supervised learning is shown.
        name: Of the views, a key of ``VIEW_RECIPES``.
        out: Folder of the picture, made if missing.
        count: Images, at least 1; fewer if there are no more.
        magnitude: Of the views, in [0, 1].
        blur: False leaves blur out.
        local_size: Height and width of local crops; 0 for DINO's share of the image with DINO, else none.

    Returns:
        The picture's file.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range, or tasks are normalised differently.
        FileNotFoundError: data is not there.
    """
    views = views_of(recipe, name, magnitude, blur)
    inputs = make_inputs(_for_one_batch(recipe, count), recipe.first_seed, torch.device("cpu"))
    if inputs.normalisation is None:
        raise ValueError(
            "tasks: their images are normalised by different numbers, and views need to know by which; give all the "
            "same, data.mean and data.std"
        )
    views.normalised_by(*inputs.normalisation)
    torch.manual_seed(recipe.first_seed)
    images = images_of(next(iter(inputs.ssl or inputs.train)), "a batch")[:count]
    if not local_size and name == "dino":
        local_size = max(2, round(min(images.shape[-2:]) * 96 / 224))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"views-{name}.png"
    pictures.views(draw_views(images, views, inputs, local_size)).savefig(path)
    return path


def views_of(recipe: Recipe, name: str, magnitude: float = 1.0, blur: bool = True) -> Views:
    """The views to be shown of a recipe's images: those of a name, since no objective of a recipe has views yet."""
    del recipe
    return Views(name, magnitude=magnitude, blur=blur)


def draw_views(images: Tensor, views: Views, inputs: Inputs, local_size: int = 0) -> dict[str, Tensor]:
    """Images and views in [0, 1], by heading, each ``(draws, images, C, H, W)``."""
    assert inputs.normalisation is not None
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in inputs.normalisation)
    drawn = {
        "original": images[None],
        "view 0": torch.stack([views(images, 0) for _ in range(DRAWS)]),
        "view 1": torch.stack([views(images, 1) for _ in range(DRAWS)]),
    }
    if local_size:
        drawn["local"] = torch.stack([views.local(images, local_size) for _ in range(DRAWS)])
    return {heading: images * std + mean for heading, images in drawn.items()}


def _for_one_batch(recipe: Recipe, count: int) -> Recipe:
    """The recipe with batches of ``count`` images, and files read only as they are needed."""

    def unread(config: Any) -> Any:
        folder = config is not None and config.dataset == "image_folder"
        return dataclasses.replace(config, in_memory=False) if folder else config

    data = dataclasses.replace(unread(recipe.data), batch_size=count)
    return dataclasses.replace(recipe, data=data, ssl_data=unread(recipe.ssl_data))
