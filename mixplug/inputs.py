"""What a recipe trains and evaluates on: its data sets as loaders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from mixplug.data.datasets import DataSplit, load_dataset
from mixplug.data.multitask import MultiTaskEvalLoader, MultiTaskLoader
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
    if recipe.tasks:
        splits = {name: _load_task(name, config, seed) for name, config in recipe.task_data().items()}
    else:
        splits = {"": _load(recipe.data, seed)}
    configs = recipe.task_data() or {"": recipe.data}
    tasks = {name: split.classes for name, split in splits.items()}
    train = {n: _train_loader(recipe, configs[n], split, seed, device) for n, split in splits.items()}
    evaluation = {
        name: split.eval_loader(recipe.data.eval_batch_size, device=device, workers=recipe.data.workers)
        for name, split in splits.items()
    }
    shapes = {name: split.shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"tasks: their images must have one shape (channels, height, width), got {shapes}; set "
            f"data.image_size, and use images of as many channels"
        )
    first = next(iter(splits.values()))
    several = len(tasks) > 1
    return Inputs(
        train=MultiTaskLoader(train, tasks, seed) if several else train[""],
        evaluation=MultiTaskEvalLoader(evaluation, tasks) if several else evaluation[""],
        ssl=_ssl_loader(recipe, first.shape, seed, device),
        shape=first.shape,
        tasks=tasks,
    )


def _load_task(name: str, config: DataConfig, seed: int) -> DataSplit:
    try:
        return _load(config, seed)
    except (ValueError, TypeError, OSError) as error:
        raise type(error)(f"tasks.{name}: {error}") from error


def _ssl_loader(recipe: Recipe, labelled: tuple[int, int, int], seed: int, device: torch.device) -> Any:
    config = recipe.ssl_data
    if config is None:
        return None
    _, height, width = labelled
    if config.image_size is None and height == width:
        config = dataclasses.replace(config, image_size=height)
    try:
        split = _load(config, seed)
    except (ValueError, TypeError, OSError) as error:
        raise type(error)(f"ssl_data: {error}") from error
    if split.shape != labelled:
        raise ValueError(
            f"ssl_data: its images are {split.shape}, the labelled ones {labelled} (channels, height, width); "
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
