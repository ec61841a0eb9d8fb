"""Labelled images: kept whole in memory as uint8, or as files that worker processes read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mixplug.checks import check_bool, check_int, check_per_channel
from mixplug.data.loaders import ImageLoader
from mixplug.data.processes import rank_and_processes


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
        drop_last: Leave out what fills no batch.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: a number is out of range (``batch_size`` below 1, ``crop_padding``, ``seed`` or ``workers`` below 0,
            ``std`` not above 0) or infinite; or, in :meth:`for_channels`, the numbers are not one for each channel.
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
    drop_last: bool = False

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, 1)
        for name in ("crop_padding", "seed", "workers"):
            check_int(name, getattr(self, name), 0)
        for name in ("shuffle", "flip"):
            check_bool(name, getattr(self, name))

    def for_channels(self, channels: int) -> Pipeline:
        """This one, whose mean and std are checked to be for ``channels`` channels."""
        check_per_channel("mean", self.mean, channels, -math.inf)
        check_per_channel("std", self.std, channels, 0)
        return self


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
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        return self.images.nbytes + self.labels.nbytes

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
            drop_last=p.drop_last,
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
        key: What messages call the settings of these images.
    """

    paths: tuple[Path, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    size: int | None = None
    key: str = "data"

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width, of the first image (its file's header) where no size is given."""
        return 3, *(_size_of(self.paths[0]) if self.size is None else (self.size, self.size))

    def subset(self, index: Tensor) -> FileImages:
        """The images that ``index`` ``(n,)`` names, in its order."""
        return FileImages(tuple(self.paths[i] for i in index.tolist()), self.labels[index], self.size, self.key)

    def read(self, number: int) -> np.ndarray:
        """One image, ``(3, H, W)``, uint8.

        Raises:
            ValueError: the file is no image, or it has another size than the first one and none is given.
        """
        return np.asarray(self.open(number)).transpose(2, 0, 1)

    def open(self, number: int) -> Image.Image:
        """One image, as :meth:`read` gives it."""
        image = read_square(self.paths[number], self.size)
        size = image.height, image.width
        if size != self.shape[1:]:
            raise ImageError(
                f"images must have one size: {self.paths[0]} is {self.shape[1:]} and {self.paths[number]} {size} "
                f"(height, width); set {self.key}.image_size, to which all are then brought"
            )
        return image

    def in_memory(self) -> MemoryImages:
        """All of them decoded, by as many threads as there are cores.

        Raises:
            ValueError: a file is no image, or images differ in size and none is given.
        """
        images = np.empty((len(self), *self.shape), np.uint8)

        def fill(number: int) -> None:
            images[number] = self.read(number)

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(fill, range(len(self))):
                pass
        return MemoryImages(torch.from_numpy(images), self.labels)

    def loader(self, pipeline: Pipeline) -> DataLoader:
        """Batches of them, read and augmented image by image in ``pipeline.workers`` processes."""
        dataset = _Transformed(self, pipeline.for_channels(self.shape[0]))
        rank, processes = rank_and_processes()
        # A sampler seeded by epoch: the order does not depend on how much randomness training uses.
        last = pipeline.drop_last
        sampler: Any = DistributedSampler(dataset, processes, rank, pipeline.shuffle, pipeline.seed, drop_last=last)
        # New workers for each pass: those that stay go on with random numbers that no checkpoint holds.
        size, workers = pipeline.batch_size, pipeline.workers
        return DataLoader(dataset, size, sampler=sampler, num_workers=workers, drop_last=last)


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
        return self.transform(self.files.open(number)), self.files.labels[number]


class ImageError(ValueError):
    """An image file that cannot be used.

    Args:
        message: What is wrong with it; of the traceback out of a worker process that PyTorch makes the message, the
            last error's own is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].rstrip())


def read_square(path: Path, size: int | None) -> Image.Image:
    """An image file in RGB, upright as its EXIF orientation says, brought to ``size`` pixels a side if that is given.

    16 bits a channel become 8 (divided by 257), transparent pixels are laid on black.

    Raises:
        ValueError: the file is no image that Pillow can read, has too many pixels or holds floats.
    """
    with _opened(path) as file:
        image = _as_rgb(ImageOps.exif_transpose(file), path)
    if size is None or image.size == (size, size):
        return image
    from torchvision.transforms import functional as TF

    return TF.center_crop(TF.resize(image, size, antialias=True), size)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as file:
            yield file
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} has too many pixels to be read ({error}); make it smaller or take it away") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ImageError(f"{path} cannot be read as an image ({error}); mend it or take it away") from error


def _size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image once upright, from its file's header."""
    with _opened(path) as file:
        width, height = file.size
        turned = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # by a quarter
    return (width, height) if turned else (height, width)


def _as_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise ImageError(
            f"{path} holds floating point numbers (mode F), whose range is not known; write it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B", ...: Pillow would clip what is above 255 to white
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ImageError(
                f"{path} has values from {pixels.min()} to {pixels.max()}; an image of integers must have 16 bits, "
                f"0 to 65535"
            )
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, (0, 0, 0, 255)), above).convert("RGB")
    return image.convert("RGB")
