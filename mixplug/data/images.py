"""Labelled images: kept whole in memory as uint8, or as files that worker processes read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mixplug.data.loaders import ImageLoader, rank_and_processes


@dataclass(frozen=True)
class Pipeline:
    """How batches are made of images, whatever holds them.

    Attributes:
        batch_size: Images of a batch in each process.
        mean: What is subtracted from images in [0, 1], one number for each channel.
        std: What they are then divided by.
        shuffle: A new order in each epoch.
        crop_padding: Pixels of black around an image, out of which a random window of its size is cut; 0 for none.
        flip: Mirror each image left to right with probability 1/2.
        seed: Of order and augmentation.
        device: Where images that are kept in memory lie; None for the CPU.
        workers: Processes that read images that are files.
    """

    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    shuffle: bool = False
    crop_padding: int = 0
    flip: bool = False
    seed: int = 0
    device: torch.device | str | None = None
    workers: int = 0


@dataclass(frozen=True)
class MemoryImages:
    """Images in memory.

    Attributes:
        images: ``(N, C, H, W)``, uint8.
        labels: ``(N,)``, long.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, index: Tensor) -> MemoryImages:
        """The images that ``index`` ``(n,)`` names, in its order."""
        return MemoryImages(self.images[index], self.labels[index])

    def loader(self, pipeline: Pipeline) -> ImageLoader:
        """Batches of them, made on ``pipeline.device``."""
        p = pipeline
        return ImageLoader(
            self.images,
            self.labels,
            p.batch_size,
            p.mean,
            p.std,
            shuffle=p.shuffle,
            crop_padding=p.crop_padding,
            flip=p.flip,
            device=p.device,
            seed=p.seed,
        )


@dataclass(frozen=True)
class FileImages:
    """Images in files, each cut to a square of ``size``: the shorter side is resized to it, the middle is kept.

    Attributes:
        paths: The files.
        labels: ``(N,)``, long.
        size: Height and width to bring images to; None if all have one size of their own.
    """

    paths: tuple[Path, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    size: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width, of the first image where no size is given."""
        channels, height, width = self.read(0).shape
        return channels, height, width

    def subset(self, index: Tensor) -> FileImages:
        """The images that ``index`` ``(n,)`` names, in its order."""
        return FileImages(tuple(self.paths[i] for i in index.tolist()), self.labels[index], self.size)

    def read(self, number: int) -> np.ndarray:
        """One image, ``(3, H, W)``, uint8.

        Raises:
            ValueError: the file is no image.
        """
        return np.asarray(read_square(self.paths[number], self.size)).transpose(2, 0, 1)

    def in_memory(self) -> MemoryImages:
        """All of them decoded, by as many threads as there are cores.

        Raises:
            ValueError: a file is no image, or images differ in size and none is given.
        """
        images = np.empty((len(self), *self.shape), np.uint8)

        def fill(number: int) -> None:
            image = self.read(number)
            if image.shape != self.shape:
                raise ValueError(
                    f"images must have one size: {self.paths[0]} is {self.shape[1:]} and {self.paths[number]} "
                    f"{image.shape[1:]} (height, width); set data.image_size, to which all are then brought"
                )
            images[number] = image

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(fill, range(len(self))):
                pass
        return MemoryImages(torch.from_numpy(images), self.labels)

    def loader(self, pipeline: Pipeline) -> DataLoader:
        """Batches of them, read and augmented image by image in ``pipeline.workers`` processes."""
        dataset = _Transformed(self, pipeline)
        rank, processes = rank_and_processes()
        # A sampler seeded by epoch: the order does not depend on how much randomness training uses.
        sampler: Any = DistributedSampler(dataset, processes, rank, shuffle=pipeline.shuffle, seed=pipeline.seed)
        return DataLoader(
            dataset,
            pipeline.batch_size,
            sampler=sampler,
            num_workers=pipeline.workers,
            persistent_workers=pipeline.workers > 0,
        )


class _Transformed(Dataset):
    """Files as augmented, normalised tensors; a class of its own, so that workers can be sent it."""

    def __init__(self, files: FileImages, pipeline: Pipeline) -> None:
        from torchvision import transforms as T

        self.files = files
        augmentation: list[Any] = []
        if pipeline.crop_padding:
            augmentation.append(T.RandomCrop(files.shape[1:], padding=pipeline.crop_padding))
        if pipeline.flip:
            augmentation.append(T.RandomHorizontalFlip())
        self.transform = T.Compose(
            [*augmentation, T.ToTensor(), T.Normalize(tuple(pipeline.mean), tuple(pipeline.std))]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image = read_square(self.files.paths[number], self.files.size)
        return self.transform(image), self.files.labels[number]


def read_square(path: Path, size: int | None) -> Image.Image:
    """An image file in RGB, brought to ``size`` pixels a side where that is given.

    Raises:
        ValueError: the file is no image that Pillow can read.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); mend it or take it away") from error
    if size is None or image.size == (size, size):
        return image
    from torchvision.transforms import functional as TF

    return TF.center_crop(TF.resize(image, size, antialias=True), size)
