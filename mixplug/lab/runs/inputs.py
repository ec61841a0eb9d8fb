"""What a recipe trains and evaluates on: its data sets as loaders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mixplug.checks import counted
from mixplug.data.datasets import DataSplit, UnlabelledImages, load_dataset, load_unlabelled
from mixplug.data.images import FileImages, MemoryImages
from mixplug.data.multi_task import MultiTaskEvalLoader, MultiTaskLoader
from mixplug.data.options import OF_FILES, ImageOptions, SSLOptions
from mixplug.lab.recipes.schema import DataConfig, Recipe


@dataclass(frozen=True)
class Inputs:
    """The data of a run.

    Attributes:
        train: Batches of labelled images, augmented.
        evaluation: Batches of test images.
        ssl: Batches of other images for self-supervised learning; None where they are the labelled ones.
        shape: Channels, height and width of all images.
        tasks: Classes of each task by name; one nameless task where there is one.
        normalisation: Mean and standard deviation of the images for self-supervised learning, by which they are
            normalised; None where those of the tasks differ.
        summary: What was loaded, as primitives: by the section of the recipe, numbers of images and of classes, their
            shape, and which files there were.
        names: By task, the names of its classes in the order of their labels.
        statistics: By task, by which mean and standard deviation its images are normalised.
    """

    train: Any
    evaluation: Any
    ssl: Any
    shape: tuple[int, int, int]
    tasks: dict[str, int]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    summary: dict[str, dict[str, Any]]
    names: dict[str, tuple[str, ...]]
    statistics: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]

    @property
    def labelled_images(self) -> int:
        """Images of a pass over the labelled ones; of several tasks the longest's."""
        return max(part["training_images"] for key, part in self.summary.items() if key != "ssl_data")

    @property
    def ssl_share(self) -> float:
        """Images of a pass for self-supervised learning for each labelled image of one."""
        own = self.summary.get("ssl_data")
        return 1.0 if own is None else own["training_images"] / self.labelled_images


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
    how = {"device": device, "workers": recipe.data.workers}
    last = recipe.data.drop_last
    splits, train, evaluation, summary = {}, {}, {}, {}
    for name, (key, config) in _sections(recipe).items():
        with _naming(key):
            splits[name] = split = load_dataset(config, seed=seed, key=key)
            train[name] = split.train_loader(recipe.data.batch_size, seed=seed, drop_last=last, **how)
            evaluation[name] = split.eval_loader(recipe.data.eval_batch_size, **how)
        summary[key] = {
            "training_images": len(split.train),
            "test_images": len(split.test),
            "classes": split.classes,
            "shape": list(split.shape),
            **_describe_files(split),
        }
    tasks = {name: split.classes for name, split in splits.items()}
    shapes = {name: split.shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"tasks: their images must have one shape (channels, height, width), got {shapes}; set "
            f"data.image_size, and use images of as many channels"
        )
    first = next(iter(splits.values()))
    several = len(tasks) > 1
    statistics = {name: (tuple(split.mean), tuple(split.std)) for name, split in splits.items()}
    normalisations = set(statistics.values())
    ssl = None
    if recipe.ssl_data is not None:
        with _naming("ssl_data"):
            other = _load_ssl(_ssl_options(recipe.ssl_data, recipe.data), first.shape, seed)
            ssl = other.loader(recipe.data.batch_size, seed=seed, drop_last=last, **how)
        normalisations = {(tuple(other.mean), tuple(other.std))}
        summary["ssl_data"] = {
            "training_images": len(other.images),
            "shape": list(other.shape),
            **_describe_files(other),
        }
    return Inputs(
        train=MultiTaskLoader(train, tasks, seed, recipe.task_epoch) if several else train[""],
        evaluation=MultiTaskEvalLoader(evaluation, tasks) if several else evaluation[""],
        ssl=ssl,
        shape=first.shape,
        tasks=tasks,
        normalisation=normalisations.pop() if len(normalisations) == 1 else None,
        summary=summary,
        names={name: split.names for name, split in splits.items()},
        statistics=statistics,
    )


def _describe_files(data: DataSplit | UnlabelledImages) -> dict[str, str]:
    return {f"{name}_files": images.describe_files() for name, images in data.sources.items()}


def check_images(
    recipes: Iterable[tuple[Recipe, Iterable[int]]], announce: Callable[[str], None] | None = None
) -> None:
    """Load the images of every seed and decode each file once, so that a damaged one is found before the first run.

    Images that are kept in memory are kept for the runs; of files that workers will read, nothing is.

    Args:
        recipes: Recipes, and the seeds that each is to be run with.
        announce: Called with a line of text before files are decoded that are not kept.

    Raises:
        TypeError: as of :func:`make_inputs`.
        ValueError: as of :func:`make_inputs`, or an image cannot be read.
        FileNotFoundError: data is not there.
    """
    known: set[Any] = set()
    for recipe, seeds in recipes:
        sections = [config for _, config in _sections(recipe).values()]
        named = {str(config.dataset).casefold() for config in (*sections, recipe.ssl_data) if config}
        if named.isdisjoint(OF_FILES):
            continue  # the others hold no files of images
        for seed in seeds:
            settings = repr((recipe.task_data(), recipe.data, recipe.ssl_data, seed))
            if settings in known:
                continue
            known.add(settings)
            for key, part in _parts(recipe, seed):
                if isinstance(part, FileImages):
                    new = [n for n, path in enumerate(part.paths) if (path, part.size) not in known]
                    known.update((part.paths[n], part.size) for n in new)
                    if new and announce is not None:
                        announce(f"{key}, seed {seed}: decoding {counted(len(new), 'file')}, to find damaged ones")
                    with _naming(key):
                        part.check(new)


def _parts(recipe: Recipe, seed: int) -> Iterator[tuple[str, MemoryImages | FileImages]]:
    """The images of a run, with the section of the recipe that names them."""
    shape = None
    for key, config in _sections(recipe).values():
        with _naming(key):
            split = load_dataset(config, seed=seed, key=key)
        shape = shape or split.shape
        yield key, split.train
        yield key, split.test
    if recipe.ssl_data is not None:
        assert shape is not None
        with _naming("ssl_data"):
            images = _load_ssl(_ssl_options(recipe.ssl_data, recipe.data), shape, seed).images
        yield "ssl_data", images


def probe_loaders(recipe: Recipe, seed: int, device: torch.device) -> dict[str, tuple[Any, Any]]:
    """Batches of the labelled training images (the recipe's share of them) and of the test images, for probes.

    Args:
        recipe: The recipe.
        seed: Of the data-limitation subsets.
        device: Where images that are kept in memory lie.

    Returns:
        Both loaders for each task, neither shuffled nor augmented; for one nameless task where there is one.

    Raises:
        TypeError: as of :func:`make_inputs`.
        ValueError: as of :func:`make_inputs`.
        FileNotFoundError: data is not there.
    """
    loaders, how = {}, {"device": device, "workers": recipe.data.workers}
    for name, (key, config) in _sections(recipe).items():
        with _naming(key):
            split, batch_size = load_dataset(config, seed=seed, key=key), recipe.data.eval_batch_size
            train = split.train_loader(batch_size, shuffle=False, crop_padding=0, flip=False, **how)
            loaders[name] = (train, split.eval_loader(batch_size, **how))
    return loaders


def _sections(recipe: Recipe) -> dict[str, tuple[str, DataConfig]]:
    """By task, one nameless one where there is one: its section of the recipe, and what that says."""
    tasks = {name: (f"tasks.{name}", config) for name, config in recipe.task_data().items()}
    return tasks or {"": ("data", recipe.data)}


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Have the messages of errors say which section of the recipe they are about."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        if f"{key}." in str(error):
            raise
        kind = next(k for k in (FileNotFoundError, OSError, TypeError, ValueError) if isinstance(error, k))
        raise kind(f"{key}: {error}") from error


def _ssl_options(given: SSLOptions, data: DataConfig) -> ImageOptions:
    """The options of the images for self-supervised learning, taken from ``data`` where they are the same."""
    names = [option.name for option in dataclasses.fields(ImageOptions)]
    options = {name: getattr(data if given.same else given, name) for name in names}
    own = {"fraction": given.fraction, "sampling": given.sampling}
    return ImageOptions(**{**options, **own})


def _load_ssl(options: ImageOptions, labelled: tuple[int, int, int], seed: int) -> UnlabelledImages:
    _, height, width = labelled
    size = height if options.image_size is None and height == width else options.image_size
    other = load_unlabelled(options, seed=seed, image_size=size)
    if other.shape != labelled:
        raise ValueError(
            f"ssl_data: its images are {other.shape}, the labelled ones {labelled} (channels, height, width); "
            f"set ssl_data.image_size, and use images of as many channels"
        )
    return other
