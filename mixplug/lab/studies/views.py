"""``mixplug views``: a picture of a batch of a recipe's images, random views of them, and these mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm
from torch import Tensor

from mixplug.checks import check_choice
from mixplug.data.batches import images_of
from mixplug.data.options import OF_FILES
from mixplug.lab.pages import pictures
from mixplug.lab.recipes.objects import build, take_apart
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.inputs import Inputs, make_inputs
from mixplug.objectives import Objective, TwoView
from mixplug.views.batch_mixing import Mixer
from mixplug.views.views import Views

DRAWS = 3
"""Views of a kind that are shown of each image."""


def write_views(
    recipe: Recipe,
    views: Views,
    name: str,
    out: Path,
    count: int = 8,
    magnitude: float = 1.0,
    local_size: int = 0,
    mixers: Sequence[Mixer] = (),
) -> Path:
    """Draw the first training batch of ``recipe``, as augmented by its loader, views of it, and these mixed.

    Args:
        recipe: The recipe; of several data sets that for self-supervised learning is shown.
        views: What to draw, normalised by the recipe's data if it does not say by what.
        name: What to call them in the file's name.
        out: Folder of the picture, made if missing.
        count: Images, at least 1; fewer if there are no more.
        magnitude: Of the views, in [0, 1].
        local_size: Height and width of local crops; 0 for none.
        mixers: What to mix the batch by, each image with the one opposite.

    Returns:
        The picture's file.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range, or tasks are normalised differently.
        FileNotFoundError: data is not there.
    """
    inputs = make_inputs(_for_one_batch(recipe, count), recipe.first_seed, torch.device("cpu"))
    if inputs.normalisation is None:
        raise ValueError(
            "tasks: their images are normalised by different numbers, and views need to know by which; give all the "
            "same, data.mean and data.std"
        )
    views.normalised_by(*inputs.normalisation)
    torch.manual_seed(recipe.first_seed)
    images = images_of(next(iter(inputs.ssl or inputs.train)), "a batch")[:count]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"views-{name}.png"
    drawn = draw_views(images, views, inputs, magnitude, local_size)
    mixed = {type(mixer).__name__: mixer(drawn["view 1"][0]) for mixer in mixers}
    drawn |= {heading: one.images[None] for heading, one in mixed.items()}
    shares = {heading: [f"{share:.2f}" for share in one.lam.tolist()] for heading, one in mixed.items()}
    pictures.views(drawn, shares).savefig(path)
    return path


def objective_of(recipe: Recipe, method: str) -> TwoView:
    """The objective of two views that a method of the recipe trains with.

    Raises:
        ValueError: there is no such method, or it has none; the message names those that have.
    """
    check_choice("--method", method, recipe.methods)
    with_views = {key: made for key in recipe.methods if isinstance(made := _objective(recipe, key), TwoView)}
    if method not in with_views:
        raise ValueError(
            f"method {method!r} has no objective of two views"
            f"{f'; those of the recipe that have one are {list(with_views)}' if with_views else ''}. Name views, such "
            f"as --views simclr"
        )
    return with_views[method]


def mixers_of(recipe: Recipe, method: str) -> list[Mixer]:
    """What a method of the recipe mixes views by; nothing without SDMP."""
    made = [
        build(spec, Algorithm, place)
        for spec, place in _algorithms(recipe, method)
        if take_apart(spec, place)[0].upper() == "SDMP"
    ]
    return [mixer for sdmp in made for mixer in sdmp.amendment.mixer.mixers]


def _objective(recipe: Recipe, method: str) -> Any:
    for spec, where in _algorithms(recipe, method):
        name, arguments = take_apart(spec, where)
        if isinstance(arguments.get("objective"), Mapping):
            return build(arguments["objective"], Objective, f"{where}.{name}.objective")
    return None


def _algorithms(recipe: Recipe, method: str) -> Iterator[tuple[Any, str]]:
    """The descriptions of a method's algorithms, and where they stand."""
    for where, specs in (
        (f"methods.{method}.algorithms", recipe.methods[method].algorithms),
        ("algorithms", recipe.algorithms),
    ):
        yield from ((spec, f"{where}.{index}") for index, spec in enumerate(specs))


def draw_views(
    images: Tensor, views: Views, inputs: Inputs, magnitude: float = 1.0, local_size: int = 0
) -> dict[str, Tensor]:
    """Images and views in [0, 1], by heading, each ``(draws, images, C, H, W)``."""
    assert inputs.normalisation is not None
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in inputs.normalisation)
    drawn = {
        "original": images[None],
        "view 0": torch.stack([views(images, 0, magnitude) for _ in range(DRAWS)]),
        "view 1": torch.stack([views(images, 1, magnitude) for _ in range(DRAWS)]),
    }
    if local_size:
        drawn["local"] = torch.stack([views.local(images, local_size, magnitude) for _ in range(DRAWS)])
    return {heading: images * std + mean for heading, images in drawn.items()}


def _for_one_batch(recipe: Recipe, count: int) -> Recipe:
    """The recipe with batches of ``count`` images, and files read only as they are needed."""

    def unread(config: Any) -> Any:
        files = config is not None and str(config.dataset).casefold() in OF_FILES
        return dataclasses.replace(config, in_memory=False) if files else config

    data = dataclasses.replace(unread(recipe.data), batch_size=count)
    return dataclasses.replace(recipe, data=data, ssl_data=unread(recipe.ssl_data))
