"""Labelled images: kept whole in memory as uint8, or as files that worker processes read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mixplug.checks import check_bool, check_int, check_mean, check_std, counted
from mixplug.data.loaders import ImageLoader
from mixplug.data.metadata import pixels_alone
from mixplug.data.processes import rank_and_processes


@dataclass(frozen=True)
class Pipeline:
    """How batches are made of images, whatever holds them.

    Attributes:
        batch_size: Images of a batch in each process.
        mean: What is subtracted from images in [0, 1], one number in [0, 1] for each channel.
        std: What they are then divided by, in (0, 1].
        shuffle: A new order in each epoch.
        crop_padding: Pixels of black around an image, out of which a random window of its size is cut; 0 for none.
        flip: Mirror each image left to right with probability 1/2.
        seed: Of order and augmentation.
        device: Where images that are kept in memory lie; None for the CPU.
        workers: Processes that read images that are files.
        drop_last: Leave out what fills no batch.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: a number is out of range (``batch_size`` below 1, ``crop_padding``, ``seed`` or ``workers`` below
            0); or, in :meth:`for_channels`, ``mean`` or ``std`` cannot be of images in [0, 1] with as many channels.
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
        return replace(self, mean=check_mean("mean", self.mean, channels), std=check_std("std", self.std, channels))


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
        """A copy of the images that ``index`` ``(n,)`` names, in its order."""
        return MemoryImages(self.images[index], self.labels[index])

    def clone(self) -> MemoryImages:
        """A copy, to be changed as one likes."""
        return MemoryImages(self.images.clone(), self.labels.clone())

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
        return 3, *(size_of(self.paths[0]) if self.size is None else (self.size, self.size))

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

        _do_each(fill, range(len(self)))
        return MemoryImages(torch.from_numpy(images), self.labels)

    def check(self, numbers: Sequence[int]) -> None:
        """Decode these images, by as many threads as there are cores, and keep none.

        Raises:
            ValueError: as of :meth:`in_memory`.
        """
        _do_each(self.open, numbers)

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """The time (ns) and the size (bytes) of each file, which say whether one is what it was."""
        return file_stamps(self.paths)

    def describe_files(self) -> str:
        """How many files, how many bytes, and a digest of their names, sizes and labels, which copies share."""
        sizes = [file_size(path) for path in self.paths]
        digest = digest_of(zip((path.name for path in self.paths), sizes, self.labels.tolist(), strict=True))
        return f"{counted(len(self), 'file')}, {counted(sum(sizes), 'byte')}, digest {digest}"

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


def channels_first(images: Tensor) -> Tensor:
    """Images ``(N, H, W)``, grey, or ``(N, H, W, 3)`` as ``(N, C, H, W)``; those that have this form as they are."""
    if images.ndim == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[-1] == 3 else images


def _do_each(do: Callable[[int], object], numbers: Sequence[int]) -> None:
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(do, numbers):
            pass


def file_stamps(paths: Iterable[Path]) -> tuple[tuple[int, int], ...]:
    """The time (ns) and the size (bytes) of each of the files that are there."""
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in map(_stat_of, paths) if stat is not None)


def file_size(path: Path) -> int:
    """Bytes of a file, 0 of one that is not there."""
    stat = _stat_of(path)
    return 0 if stat is None else stat.st_size


def digest_of(facts: Iterable[tuple[Any, ...]]) -> str:
    """Eight hexadecimal digits by which these facts, primitives, are told from others."""
    return hashlib.sha256(repr([*facts]).encode(errors="surrogateescape")).hexdigest()[:8]


def _stat_of(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # who reads it says so


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
        self.transform = T.Compose([*augmentation, T.ToTensor(), T.Normalize(pipeline.mean, pipeline.std)])

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

    16 bits a channel become 8 (divided by 257), transparent pixels are laid on black. Metadata that Pillow cannot read
    (comments, profiles, EXIF) is passed over: without a readable orientation an image is as its pixels are stored.

    Raises:
        ValueError: the file is no image that Pillow can read, has too many pixels or holds floats.
    """
    image = _opened(path, lambda file: _as_rgb(_upright(file), path))
    if size is None or image.size == (size, size):
        return image
    from torchvision.transforms import functional as TF

    return TF.center_crop(TF.resize(image, size, antialias=True), size)


Made = TypeVar("Made")


def _opened(path: Path, use: Callable[[Image.Image], Made]) -> Made:
    """What ``use`` makes of an image file; if Pillow stumbles over it, of its pixels without the rest."""
    try:
        with Image.open(path) as file:
            return use(file)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} has too many pixels to be read ({error}); make it smaller or take it away") from error
    except Exception as error:  # its decoders raise whatever the damage leads to, struct.error and EOFError among it
        with suppress(Exception), Image.open(BytesIO(pixels_alone(path.read_bytes()))) as file:
            return use(file)
        told = str(error) or type(error).__name__
        raise ImageError(f"{path} cannot be read as an image ({told}); mend it or take it away") from error


_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


def _upright(file: Image.Image) -> Image.Image:
    # Pillow's exif_transpose writes the other EXIF fields anew, and fails on what cameras leave in them, such as n/0.
    file.load()
    method = _TO_UPRIGHT.get(_orientation(file))
    return file if method is None else file.transpose(method)


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above
        return 1


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image once upright, from its file's header."""
    (width, height), turned = _opened(path, lambda file: (file.size, _orientation(file) in (5, 6, 7, 8)))
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
