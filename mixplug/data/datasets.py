"""Data sets by name, with the paper's data-limitation subset and stated normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mixplug.checks import check_choice, check_int
from mixplug.data.folders import read_folder
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

    def train_loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Shuffled batches of the training images; ``options`` are :class:`mixplug.data.images.Pipeline`'s."""
        return self.train.loader(Pipeline(batch_size, self.mean, self.std, **{"shuffle": True, **options}))

    def eval_loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Batches of the test images in their order."""
        return self.test.loader(Pipeline(batch_size, self.mean, self.std, **options))


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

DATASETS = ("digits", *_TORCHVISION, "image_folder")


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
) -> DataSplit:
    """Load a data set and keep a random share of its training images.

    Args:
        name: 'digits' (scikit-learn's, 8x8, nothing to download), 'cifar10', 'cifar100', 'svhn', 'fashion_mnist'
            (torchvision's) or 'image_folder'.
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

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an unknown name, an option out of range, or one that this data set does not have.
        FileNotFoundError: the data is not there; the message says how to get it.
    """
    check_choice("data.dataset", name, DATASETS)
    if image_size is not None:
        check_int("data.image_size", image_size, 1)
    if name != "image_folder":
        for option, given, default in (("train", train, "train"), ("test", test, ""), ("in_memory", in_memory, None)):
            if given != default:
                raise ValueError(f"data.{option} is for an image_folder, not for {name!r}; leave it out")
    if download and name not in _TORCHVISION:
        raise ValueError(f"data.download=true is for {list(_TORCHVISION)}, not for {name!r}; leave it out")
    if name == "image_folder":
        files, held_out, classes = read_folder(root, train, test, image_size)
        whole = DataSplit(files, held_out, classes, *IMAGENET_STATISTICS)
    else:
        whole = _by_name(name, str(root), download, image_size)
    split = replace(
        whole,
        train=whole.train.subset(draw(whole.train.labels, fraction, seed, sampling)),
        mean=_statistic("mean", mean, whole.mean),
        std=_statistic("std", std, whole.std),
    )
    if isinstance(split.train, FileImages) and isinstance(split.test, FileImages):
        size = (len(split.train) + len(split.test)) * torch.Size(split.shape).numel()
        if in_memory or (in_memory is None and size < IN_MEMORY_BYTES):
            return replace(split, train=_decoded(split.train), test=_decoded(split.test))
    return split


# The runs of a comparison share data, in this cache and the one below: no run changes it.
@lru_cache(maxsize=4)
def _by_name(name: str, root: str, download: bool, image_size: int | None) -> DataSplit:
    split = _digits() if name == "digits" else _from_torchvision(_TORCHVISION[name], root, download)
    if image_size is None or split.shape[1:] == (image_size, image_size):
        return split
    assert isinstance(split.train, MemoryImages)
    assert isinstance(split.test, MemoryImages)
    return replace(split, train=_resized(split.train, image_size), test=_resized(split.test, image_size))


@lru_cache(maxsize=4)
def _decoded_once(paths: tuple[Path, ...], labels: tuple[int, ...], size: int | None) -> MemoryImages:
    return FileImages(paths, torch.tensor(labels), size).in_memory()


def _decoded(files: FileImages) -> MemoryImages:
    return _decoded_once(files.paths, tuple(files.labels.tolist()), files.size)


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


def _from_torchvision(known: _Known, root: str, download: bool) -> DataSplit:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, known.torchvision)
    parts = []
    for is_train in (True, False):
        which: dict[str, Any] = {"train": is_train}
        if known.torchvision == "SVHN":
            which = {"split": "train" if is_train else "test"}
        try:
            data = kind(str(Path(root).expanduser()), download=download, **which)
        except RuntimeError as error:
            if download:
                raise
            raise FileNotFoundError(
                f"{known.torchvision} is not in data.root={root!r} as torchvision keeps it ({error}); set "
                f"data.download=true to have torchvision fetch it, set data.root to where it is, or use dataset: "
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


def _statistic(name: str, given: Sequence[float] | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if given is None:
        return default
    if len(given) != len(default):
        raise ValueError(f"data.{name} must have a number for each of the {len(default)} channels, got {list(given)!r}")
    return tuple(given)
