"""What is in a batch, and how many of them a loader has, whatever kind of loader it is."""

from __future__ import annotations

import copy
from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, IterableDataset, default_collate

from mixplug.data.passes import OwnRandomness


def images_of(batch: Any, whose: str = "an SSL batch") -> Tensor:
    """The images of a batch that is a tensor, or a tuple or list that begins with one.

    Raises:
        TypeError: it is something else.
    """
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{whose} must be a tensor of images or begin with one, (images, ...); got {type(batch).__name__}"
        )
    return images


def shape_of(loader: Any, whose: str = "an SSL batch") -> tuple[int, ...] | None:
    """Channels, height and width of a loader's images, or None if that takes a pass to learn.

    Looks at one sample of a map-style data set, with random numbers of its own.
    """
    sample = _batch_of_two(loader)
    return None if sample is None else tuple(images_of(sample, whose).shape[1:])


def blank_label_of(loader: Any) -> Any:
    """Zeros of the shape and type of one label of ``loader``; class 0 if that takes a pass to learn.

    No supervised loss reads it, but Composer's algorithms change labels before it.
    """
    sample = _batch_of_two(loader)
    if isinstance(sample, (tuple, list)) and len(sample) > 1:
        parts, structure = tree_flatten(sample[1])
        if parts and all(isinstance(part, Tensor) and part.ndim for part in parts):
            return tree_unflatten([torch.zeros_like(part[0]) for part in parts], structure)
    return torch.zeros((), dtype=torch.long)


def _batch_of_two(loader: Any) -> Any:
    """A batch of one sample twice: timm's Mixup in a collate function wants an even number."""
    if isinstance(loader, (list, tuple)) and loader:
        return loader[0]
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None:  # the data set's items are batches
        return None
    with OwnRandomness(0).in_force():
        collate = loader.collate_fn or default_collate
        sample = loader.dataset[0]
        return collate([sample, copy.deepcopy(sample)])


def length_of(loader: Any) -> int | None:
    """Batches of a pass, or None if the loader does not know."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def sizes_of(loader: Any) -> tuple[int, int, int] | None:
    """Images of a whole batch, of the last one and of a pass in this process, or None if the loader does not say."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not loader.batch_size:
        return None
    try:
        count = len(loader.sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
    size = loader.batch_size
    return size, size if loader.drop_last or not count % size else count % size, count
