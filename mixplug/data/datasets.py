"""Data sets by name, with the paper's data-limitation subset and stated normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mixplug.checks import check_bool, check_choice, check_int, check_per_channel
from mixplug.data.cache import ByteBoundedCache
from mixplug.data.folders import read_folder, read_unlabelled
from mixplug.data.images import FileImages, MemoryImages, Pipeline
from mixplug.data.loaders import ImageLoader
from mixplug.data.subsets import draw

IN_MEMORY_BYTES = 4 << 30
"""Images that take less than this as uint8 are kept in memory, unless told otherwise."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class DataSplit:
    """Training and test images with labels.

    Attributes:
        train: The training images, or the share of them that was drawn.
        test: The images for evaluation.
        classes: Number of classes.
        mean: What to subtract from images in [0, 1], one number for each channel.
        std: What to divide them by then.
    """

    train: MemoryImages | FileImages
    test: MemoryImages | FileImages
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.shape

    @property
    def nbytes(self) -> int:
        """Memory that the images in memory take, in bytes."""
        return sum(part.nbytes for part in (self.train, self.test) if isinstance(part, MemoryImages))

    def train_loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Shuffled batches of the training images; ``options`` are :class:`mixplug.data.images.Pipeline`'s."""
        return self.train.loader(Pipeline(batch_size, self.mean, self.std, **{"shuffle": True, **options}))

    def eval_loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Batches of the test images in their order."""
        return self.test.loader(Pipeline(batch_size, self.mean, self.std, **options))


@dataclass(frozen=True)
class UnlabelledImages:
    """Images for self-supervised learning.

    Attributes:
        images: Images, or the share of them that was drawn; whatever their labels are, they mean nothing.
        mean: What to subtract from images in [0, 1], one number for each channel.
        std: What to divide them by then.
    """

    images: MemoryImages | FileImages
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.images.shape

    def loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Shuffled batches of them; ``options`` are :class:`mixplug.data.images.Pipeline`'s."""
        return self.images.loader(Pipeline(batch_size, self.mean, self.std, **{"shuffle": True, **options}))


@dataclass(frozen=True)
class _Known:
    """A data set that mixplug knows by name: its name in torchvision, and statistics of its training pixels."""

    torchvision: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_TORCHVISION = {
    "cifar10": _Known("CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": _Known("CIFAR100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": _Known("SVHN", 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "fashion_mnist": _Known("FashionMNIST", 10, (0.2860,), (0.3530,)),
}

DATASETS = ("digits", *_TORCHVISION, "image_folder", "noise")


def load_dataset(
    name: str,
    fraction: float = 1.0,
    seed: int = 0,
    *,
    root: str | Path = "data",
    download: bool = False,
    train: str = "train",
    test: str = "",
    sampling: str = "uniform",
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    in_memory: bool | None = None,
    key: str = "data",
) -> DataSplit:
    """Load a data set and keep a random share of its training images.

    Args:
        name: 'digits' (scikit-learn's, 8x8, nothing to download), 'cifar10', 'cifar100', 'svhn', 'fashion_mnist'
            (torchvision's), 'image_folder', or 'noise' (random pixels and labels in CIFAR-10's shape, to measure
            costs on).
        fraction: Share of the training images to keep, in (0, 1]; see :func:`mixplug.data.subsets.draw`.
        seed: Of that draw.
        root: Folder of the data: torchvision's root, or what holds an image_folder's train and test trees.
        download: Have torchvision fetch data that is missing.
        train: For an image_folder, the name of its training tree.
        test: For an image_folder, the name of its test tree; empty for the first of the usual names.
        sampling: 'uniform' or 'stratified'.
        image_size: Height and width to bring images to; None for their own.
        mean: What to subtract from images in [0, 1]; None for the stated statistics (ImageNet's for an image_folder).
        std: What to divide them by then.
        in_memory: Decode an image_folder's images once in a process and keep them as uint8; None where they take less
            than 4 GiB. Else workers read them.
        key: What messages call these options.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an unknown name, an option out of range, one that this data set does not have, or training and test
            images of different sizes.
        FileNotFoundError: the data is not there; the message says how to get it.
        OSError: torchvision could not fetch it.
    """
    _check_options(key, name, root, download, image_size, train, in_memory)
    if not isinstance(test, str):
        raise TypeError(f"{key}.test must be the name of a folder, or empty, got {test!r}")
    if test and name != "image_folder":
        raise ValueError(f"{key}.test is for an image_folder, not for {name!r}; leave it out")
    if name == "image_folder":
        files, held_out, classes = read_folder(root, train, test, image_size, key)
        whole = DataSplit(files, held_out, classes, *IMAGENET_STATISTICS)
    else:
        whole = _by_name(name, str(root), download, image_size, key)
    mean, std = _statistics(key, mean, std, whole.mean, whole.std)
    drawn = whole.train.subset(draw(whole.train.labels, fraction, seed, sampling, key))
    split = replace(whole, train=drawn, mean=mean, std=std)
    if split.train.shape != split.test.shape:
        raise ValueError(
            f"training images are {split.train.shape[1:]} and test images {split.test.shape[1:]} (height, width); "
            f"set {key}.image_size, to which all are then brought"
        )
    if _fit(in_memory, split.train, split.test):
        return replace(split, train=_decoded(split.train), test=_decoded(split.test))
    return split


def load_unlabelled(
    name: str,
    fraction: float = 1.0,
    seed: int = 0,
    *,
    root: str | Path = "data",
    download: bool = False,
    train: str = "train",
    sampling: str = "uniform",
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    in_memory: bool | None = None,
    key: str = "ssl_data",
) -> UnlabelledImages:
    """Load the training images of a data set and keep a random share of them, for self-supervised learning.

    Arguments and errors are those of :func:`load_dataset`, but an image_folder needs neither classes nor test images:
    its images are all that lie anywhere in ``root/train``, or in ``root`` where that has no folder 'train'. It has no
    labels to draw a stratified share by.
    """
    _check_options(key, name, root, download, image_size, train, in_memory)
    statistics = IMAGENET_STATISTICS
    images: MemoryImages | FileImages
    if name == "image_folder":
        if sampling == "stratified":
            raise ValueError(f"{key}.sampling='stratified' needs labels, which are not read here; use 'uniform'")
        images = read_unlabelled(root, train, image_size, key)
    else:
        known = _by_name(name, str(root), download, image_size, key)
        images, statistics = known.train, (known.mean, known.std)  # type: ignore[assignment]
    mean, std = _statistics(key, mean, std, *statistics)
    images = images.subset(draw(images.labels, fraction, seed, sampling, key))
    return UnlabelledImages(_decoded(images) if _fit(in_memory, images) else images, mean, std)


def _check_options(key: str, name: Any, root: Any, download: Any, image_size: Any, train: Any, in_memory: Any) -> None:
    check_choice(f"{key}.dataset", name, DATASETS)
    if not isinstance(root, (str, Path)) or not isinstance(train, str):
        raise TypeError(
            f"{key}.root must be the path of a folder and {key}.train a name, got {root!r} and {train!r}; leave them "
            f"out for 'data' and 'train'"
        )
    check_bool(f"{key}.download", download)
    if image_size is not None:
        check_int(f"{key}.image_size", image_size, 1)
    if in_memory is not None:
        check_bool(f"{key}.in_memory", in_memory)
    if name != "image_folder":
        for option, given, default in (("train", train, "train"), ("in_memory", in_memory, None)):
            if given != default:
                raise ValueError(f"{key}.{option} is for an image_folder, not for {name!r}; leave it out")
    if download and name not in _TORCHVISION:
        raise ValueError(f"{key}.download=true is for {list(_TORCHVISION)}, not for {name!r}; leave it out")


_CACHE = ByteBoundedCache(IN_MEMORY_BYTES)
"""The runs of a comparison share data: no run changes it."""


def _by_name(name: str, root: str, download: bool, image_size: int | None, key: str) -> DataSplit:
    return _CACHE.get((name, root, image_size), lambda: _read_by_name(name, root, download, image_size, key))


def _read_by_name(name: str, root: str, download: bool, image_size: int | None, key: str) -> DataSplit:
    if name == "noise":
        return _noise(image_size or 32)
    split = _digits() if name == "digits" else _from_torchvision(_TORCHVISION[name], root, download, key)
    if image_size is None or split.shape[1:] == (image_size, image_size):
        return split
    assert isinstance(split.train, MemoryImages)
    assert isinstance(split.test, MemoryImages)
    return replace(split, train=_resized(split.train, image_size), test=_resized(split.test, image_size))


def _fit(in_memory: bool | None, *parts: MemoryImages | FileImages) -> bool:
    """Whether to decode what is in files yet."""
    if in_memory is not None:
        return in_memory
    return sum(len(part) * torch.Size(part.shape).numel() for part in parts) < IN_MEMORY_BYTES


def _decoded(images: MemoryImages | FileImages) -> MemoryImages:
    if isinstance(images, MemoryImages):
        return images
    return _CACHE.get((images.paths, tuple(images.labels.tolist()), images.size), images.in_memory)


def _digits() -> DataSplit:
    """scikit-learn's handwritten digits: 1,797 real 8x8 grey images; every second is a test image."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # 17 grey values; those of 0..16 scaled to bytes differ from the exact ones by less than half a byte.
    images = torch.tensor(data.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.long)
    test = torch.arange(len(labels)) % 2 == 1
    return DataSplit(
        MemoryImages(images[~test], labels[~test]), MemoryImages(images[test], labels[test]), 10, (0.3053,), (0.3760,)
    )


def _noise(size: int) -> DataSplit:
    """As many images as a tenth of CIFAR-10, the same at each call; what they show costs nothing."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (5000, 1000):
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        parts.append(MemoryImages(pixels, torch.randint(0, 10, (count,), generator=generator)))
    return DataSplit(parts[0], parts[1], 10, (0.5,) * 3, (0.2887,) * 3)


def _from_torchvision(known: _Known, root: str, download: bool, key: str) -> DataSplit:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, known.torchvision)
    parts = []
    for is_train in (True, False):
        which: dict[str, Any] = {"train": is_train}
        if known.torchvision == "SVHN":
            which = {"split": "train" if is_train else "test"}
        try:
            data = kind(str(Path(root).expanduser()), download=download, **which)
        except (RuntimeError, OSError) as error:
            if download:
                raise OSError(
                    f"torchvision could not fetch {known.torchvision} into {key}.root={root!r} ({error}); connect to "
                    f"the internet, or put its files there from elsewhere and leave {key}.download out"
                ) from error
            raise FileNotFoundError(
                f"{known.torchvision} is not in {key}.root={root!r} as torchvision keeps it ({error}); set "
                f"{key}.download=true to have torchvision fetch it, set {key}.root to where it is, or use dataset: "
                f"image_folder for a tree of image files"
            ) from error
        images = torch.as_tensor(data.data)
        if images.ndim == 3:  # grey
            images = images.unsqueeze(1)
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(data.labels if hasattr(data, "labels") else data.targets, dtype=torch.long)
        parts.append(MemoryImages(images.contiguous(), labels))
    return DataSplit(parts[0], parts[1], known.classes, known.mean, known.std)


def _resized(images: MemoryImages, size: int) -> MemoryImages:
    from torchvision.transforms import functional as TF

    batches = [TF.resize(batch, [size, size], antialias=True) for batch in images.images.split(1024)]
    return MemoryImages(torch.cat(batches), images.labels)


def _statistics(
    key: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stated_mean: tuple[float, ...],
    stated_std: tuple[float, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What was given, else what is stated."""
    channels = len(stated_mean)
    return (
        stated_mean if mean is None else check_per_channel(f"{key}.mean", mean, channels, -math.inf),
        stated_std if std is None else check_per_channel(f"{key}.std", std, channels, 0),
    )
