"""What a recipe trains and evaluates on: its data sets as loaders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from mixplug.data.datasets import DataSplit, load_dataset
from mixplug.recipes import DataConfig, ImagesConfig, Recipe


@dataclass(frozen=True)
class Inputs:
    """The data of a run.

    Attributes:
        train: Batches of labelled images, augmented.
        evaluation: Batches of test images.
        ssl: Batches of other images for self-supervised learning; None where they are the labelled ones.
        shape: Channels, height and width of all images.
        tasks: Classes of each task by name; one nameless task where there is one.
    """

    train: Any
    evaluation: Any
    ssl: Any
    shape: tuple[int, int, int]
    tasks: dict[str, int]


def make_inputs(recipe: Recipe, seed: int, device: torch.device) -> Inputs:
    """Load what ``recipe`` names.

    Args:
        recipe: The recipe.
        seed: Of the data-limitation subsets, the order of the images and their augmentation.
        device: Where images that are kept in memory lie.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range, or data sets do not go together.
        FileNotFoundError: data is not there.
    """
    config = recipe.data
    split = _load(config, seed)
    return Inputs(
        train=_train_loader(recipe, config, split, seed, device),
        evaluation=split.eval_loader(config.eval_batch_size, device=device, workers=config.workers),
        ssl=_ssl_loader(recipe, split, seed, device),
        shape=split.shape,
        tasks={"": split.classes},
    )


def _ssl_loader(recipe: Recipe, labelled: DataSplit, seed: int, device: torch.device) -> Any:
    config = recipe.ssl_data
    if config is None:
        return None
    height, width = labelled.shape[1:]
    if config.image_size is None and height == width:
        config = dataclasses.replace(config, image_size=height)
    try:
        split = _load(config, seed)
    except (ValueError, TypeError, OSError) as error:
        raise type(error)(f"ssl_data: {error}") from error
    if split.shape != labelled.shape:
        raise ValueError(
            f"ssl_data: its images are {split.shape}, the labelled ones {labelled.shape} (channels, height, width); "
            f"set ssl_data.image_size, and use images of as many channels"
        )
    return _train_loader(recipe, config, split, seed, device)


def _load(config: ImagesConfig, seed: int) -> DataSplit:
    options = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(ImagesConfig)
        if field.name not in ("dataset", "fraction", "crop_padding", "flip")
    }
    if isinstance(config, DataConfig):
        options["test"] = config.test
    return load_dataset(config.dataset, config.fraction, seed, **options)


def _train_loader(recipe: Recipe, config: ImagesConfig, split: DataSplit, seed: int, device: torch.device) -> Any:
    return split.train_loader(
        recipe.data.batch_size,
        crop_padding=config.crop_padding,
        flip=config.flip,
        seed=seed,
        device=device,
        workers=recipe.data.workers,
    )
