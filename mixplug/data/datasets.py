"""Data sets by name, with the paper's data-limitation subset and stated normalisation."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mixplug.checks import (
    check_bool,
    check_choice,
    check_int,
    check_mean,
    check_std,
    did_you_mean,
    expand_home,
    match_case,
)
from mixplug.data.cache import ByteBoundedCache
from mixplug.data.folders import read_folder, read_unlabelled, shown_root
from mixplug.data.images import FileImages, MemoryImages, Pipeline, channels_first, file_stamps
from mixplug.data.loaders import ImageLoader
from mixplug.data.medmnist import MEDMNIST, OTHER_TASKS, medmnist_file, read_medmnist
from mixplug.data.options import OF_FILES, ImageOptions, LabelledOptions
from mixplug.data.subsets import draw, draw_labels, draw_per_class
from mixplug.data.tables import read_table, read_unlabelled_table

IN_MEMORY_BYTES = 4 << 30
"""Images that take less than this as uint8 are kept in memory, unless told otherwise."""

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


@dataclass(frozen=True)
class DataSplit:
    """Training and test images with labels.

    Attributes:
        train: The training images, or the share of them that was drawn.
        test: The images for evaluation.
        classes: Number of classes.
        mean: What to subtract from images in [0, 1], one number for each channel.
        std: What to divide them by then.
        augmentation: How training images are augmented unless told otherwise: ``crop_padding`` and ``flip``.
        names: The names of the classes in the order of their labels; numbers unless told otherwise.
        sources: The images in files, 'training' and 'test', before any share of them was drawn; of others none.
    """

    train: MemoryImages | FileImages
    test: MemoryImages | FileImages
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    sources: dict[str, FileImages] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.names or tuple(map(str, range(self.classes))))

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
        return self.train.loader(
            Pipeline(batch_size, self.mean, self.std, **{"shuffle": True, **self.augmentation, **options})
        )

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
        augmentation: How they are augmented unless told otherwise: ``crop_padding`` and ``flip``.
        sources: As of :class:`DataSplit`.
    """

    images: MemoryImages | FileImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, FileImages] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.images.shape

    def loader(self, batch_size: int, **options: Any) -> ImageLoader | DataLoader:
        """Shuffled batches of them; ``options`` are :class:`mixplug.data.images.Pipeline`'s."""
        return self.images.loader(
            Pipeline(batch_size, self.mean, self.std, **{"shuffle": True, **self.augmentation, **options})
        )


@dataclass(frozen=True)
class _Known:
    """A data set that mixplug knows by name: its name in torchvision, its files, statistics of its training pixels."""

    torchvision: str
    files: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_TORCHVISION = {
    "cifar10": _Known("CIFAR10", "cifar-10-batches-py/*", 10, *CIFAR10_STATISTICS),
    "cifar100": _Known("CIFAR100", "cifar-100-python/*", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": _Known("SVHN", "*_32x32.mat", 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "fashion_mnist": _Known("FashionMNIST", "FashionMNIST/raw/*", 10, (0.2860,), (0.3530,)),
}

DATASETS = ("digits", *_TORCHVISION, *MEDMNIST, *OF_FILES, "noise")


def load_dataset(
    images: str | LabelledOptions, fraction: float | None = None, seed: int = 0, *, key: str = "data", **options: Any
) -> DataSplit:
    """Load a data set and keep a random share of its training images.

    Args:
        images: Name of the data set, or options that say which; see :class:`mixplug.data.options.LabelledOptions`.
        fraction: Share of the training images to keep, in (0, 1]; None for what the options say, which is all.
        seed: Of that draw.
        key: What messages call the options.
        options: Further options by name; they win.

    Raises:
        TypeError: an option has the wrong type, or there is none of that name.
        ValueError: an unknown data set, an option out of range, one that this data set does not have, or training and
            test images of different sizes.
        FileNotFoundError: the data is not there; the message says how to get it.
        OSError: it could not be fetched.
        ImportError: it is MedMNIST's, to be fetched, and the package medmnist is not there.

    Example:
        >>> load_dataset("digits", fraction=0.1).shape
        (1, 8, 8)
    """
    given = _options(LabelledOptions, images, fraction, key, options)
    if not isinstance(given.test, str):
        raise TypeError(f"{key}.test must be the name of a folder, or empty, got {given.test!r}")
    if given.test and given.dataset != "image_folder":
        raise ValueError(f"{key}.test is for an image_folder, not for {given.dataset!r}; leave it out")
    if given.dataset in OF_FILES:
        read = read_folder if given.dataset == "image_folder" else read_table
        training, evaluation, names = read(given, key)
        whole = DataSplit(training, evaluation, len(names), *IMAGENET_STATISTICS, names=names)
    else:
        whole = _by_name(given, key)
    drawn = whole.train.subset(_kept(whole.train.labels, given, seed, key))
    _warn_of_lost_classes(whole, drawn.labels, seed, key)
    if drawn.shape != whole.test.shape:
        raise ValueError(
            f"training images are {drawn.shape[1:]} and test images {whole.test.shape[1:]} (height, width); "
            f"set {key}.image_size, to which all are then brought"
        )
    treatment = _treatment(given, whole.mean, whole.std, key)
    train, test = _decoded(given, drawn, whole.test)
    sources = _in_files(training=whole.train, test=whole.test)
    return DataSplit(train, test, whole.classes, names=whole.names, sources=sources, **treatment)


def _in_files(**parts: MemoryImages | FileImages) -> dict[str, FileImages]:
    return {name: part for name, part in parts.items() if isinstance(part, FileImages)}


def _warn_of_lost_classes(whole: DataSplit, drawn: Tensor, seed: int, key: str) -> None:
    """Say which classes have training images, and none among those that were drawn."""
    lost = sorted({*whole.train.labels.tolist()} - {*drawn.tolist()})
    if lost:
        names = ", ".join(whole.names[label] for label in lost[:5]) + (" ..." if len(lost) > 5 else "")
        warnings.warn(
            f"{key}: {len(lost)} of the {whole.classes} classes cannot be learned ({names}): no image is left of them "
            f"in the {len(drawn)} of {len(whole.train)} training images that seed {seed} drew; keep more, or set "
            f"{key}.sampling=stratified, which keeps one of each class where there are enough",
            stacklevel=3,
        )


def _kept(labels: Tensor, given: LabelledOptions, seed: int, key: str) -> Tensor:
    """Which training images to keep, by the one setting that says so."""
    said = {"fraction": given.fraction, "labels": given.labels, "per_class": given.per_class}
    named = [name for name, value in said.items() if value not in (None, 1)]
    if len(named) > 1:
        raise ValueError(
            f"{' and '.join(f'{key}.{name}={said[name]!r}' for name in named)} each say how many training images to "
            f"keep; give one of them"
        )
    if given.labels is not None:
        return draw_labels(labels, given.labels, seed, given.sampling, key)
    if given.per_class is not None:
        return draw_per_class(labels, given.per_class, seed, key)
    return draw(labels, given.fraction, seed, given.sampling, key)


def load_unlabelled(
    images: str | ImageOptions, fraction: float | None = None, seed: int = 0, *, key: str = "ssl_data", **options: Any
) -> UnlabelledImages:
    """Load the training images of a data set and keep a random share of them, for self-supervised learning.

    Arguments and errors are those of :func:`load_dataset`, but an image_folder needs neither classes nor test images:
    its images are all that lie anywhere in ``root/train``, or in ``root`` where that has no folder 'train'; those of an
    image_table are the rows of the splits 'train' and 'unlabelled'. Neither has labels to draw a stratified share by.
    """
    given = _options(ImageOptions, images, fraction, key, options)
    if given.dataset in OF_FILES and given.sampling == "stratified":
        raise ValueError(f"{key}.sampling='stratified' needs labels, which are not read here; use 'uniform'")
    if given.dataset in OF_FILES:
        read = read_unlabelled if given.dataset == "image_folder" else read_unlabelled_table
        whole = UnlabelledImages(read(given, key), *IMAGENET_STATISTICS)
    else:
        known = _by_name(given, key)
        whole = UnlabelledImages(known.train, known.mean, known.std)
    treatment = _treatment(given, whole.mean, whole.std, key)
    drawn = whole.images.subset(draw(whole.images.labels, given.fraction, seed, given.sampling, key))
    return UnlabelledImages(_decoded(given, drawn)[0], sources=_in_files(training=whole.images), **treatment)


Options = TypeVar("Options", bound=ImageOptions)


def _options(
    kind: type[Options], images: str | Options, fraction: float | None, key: str, more: dict[str, Any]
) -> Options:
    """The options of ``kind`` that a user gave in either form, checked as far as they are the data set's."""
    names = [option.name for option in dataclasses.fields(kind)]
    for name in more:
        if name not in names:
            raise TypeError(f"{key} has no option {name!r}{did_you_mean(name, names)}; it has {names}")
    more = more if fraction is None else {"fraction": fraction, **more}
    given = replace(images, **more) if isinstance(images, kind) else kind(**{"dataset": images, **more})
    if (other := OTHER_TASKS.get(str(given.dataset).casefold())) is not None:
        raise ValueError(
            f"{key}.dataset={given.dataset!r} {other}, and models here choose one class for an image; use one of "
            f"{list(MEDMNIST)}"
        )
    given = replace(given, dataset=check_choice(f"{key}.dataset", match_case(given.dataset, DATASETS), DATASETS))
    if not isinstance(given.root, (str, Path)) or not isinstance(given.train, str):
        raise TypeError(
            f"{key}.root must be the path of a folder (of an image_table: of its file) and {key}.train a name, got "
            f"{given.root!r} and {given.train!r}; leave them out for 'data' and 'train'"
        )
    check_bool(f"{key}.download", given.download)
    if given.image_size is not None:
        check_int(f"{key}.image_size", given.image_size, 1)
    if given.in_memory is not None:
        check_bool(f"{key}.in_memory", given.in_memory)
    for name, default, kinds in (("train", "train", OF_FILES[:1]), ("in_memory", None, OF_FILES)):
        if getattr(given, name) != default and given.dataset not in kinds:
            raise ValueError(f"{key}.{name} is for an {' or '.join(kinds)}, not for {given.dataset!r}; leave it out")
    fetched = (*_TORCHVISION, *MEDMNIST)
    if given.download and given.dataset not in fetched:
        raise ValueError(f"{key}.download=true is for {list(fetched)}, not for {given.dataset!r}; leave it out")
    return given


def _treatment(given: ImageOptions, mean: tuple[float, ...], std: tuple[float, ...], key: str) -> dict[str, Any]:
    """Normalisation, as given or else as stated, and augmentation."""
    return {
        "mean": mean if given.mean is None else check_mean(f"{key}.mean", given.mean, len(mean)),
        "std": std if given.std is None else check_std(f"{key}.std", given.std, len(std)),
        "augmentation": {"crop_padding": given.crop_padding, "flip": given.flip},
    }


_CACHE = ByteBoundedCache(IN_MEMORY_BYTES)
"""The runs of a comparison share data; each has a copy."""


def _by_name(given: ImageOptions, key: str) -> DataSplit:
    stamps: tuple[Any, ...] = ()
    if given.dataset in _TORCHVISION:
        files = sorted(expand_home(given.root).resolve().glob(_TORCHVISION[given.dataset].files))
        stamps = (*files, *file_stamps(files))
    elif given.dataset in MEDMNIST:
        file = medmnist_file(given).resolve()
        stamps = (file, *file_stamps([file]))
    split = _CACHE.get((given.dataset, stamps, given.image_size), lambda: _read_by_name(given, key))
    # What others will be given is not to be changed. (Of the training images everyone gets a copy, which is drawn.)
    assert isinstance(split.test, MemoryImages)
    return replace(split, test=split.test.clone())


def _read_by_name(given: ImageOptions, key: str) -> DataSplit:
    size = given.image_size
    if given.dataset == "noise":
        return _noise(size or 32)
    if given.dataset in MEDMNIST:
        train, test, names = read_medmnist(given, key)
        half = (0.5,) * train.shape[0]
        split = DataSplit(train, test, len(names), half, half, names=names)
    else:
        split = _digits() if given.dataset == "digits" else _from_torchvision(given, key)
    if size is None or split.shape[1:] == (size, size):
        return split
    assert isinstance(split.train, MemoryImages)
    assert isinstance(split.test, MemoryImages)
    return replace(split, train=_resized(split.train, size), test=_resized(split.test, size))


def _decoded(given: ImageOptions, *parts: MemoryImages | FileImages) -> list[MemoryImages | FileImages]:
    """What is in files kept in memory, if that was asked for, or nothing was and it is small enough."""
    small = sum(len(part) * torch.Size(part.shape).numel() for part in parts) < IN_MEMORY_BYTES
    if not (small if given.in_memory is None else given.in_memory):
        return [*parts]
    return [
        part
        if isinstance(part, MemoryImages)
        else _CACHE.get((part.paths, part.stamps(), tuple(part.labels.tolist()), part.size), part.in_memory).clone()
        for part in parts
    ]


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


def _from_torchvision(given: ImageOptions, key: str) -> DataSplit:
    import torchvision.datasets

    known, root = _TORCHVISION[given.dataset], str(given.root)
    kind = getattr(torchvision.datasets, known.torchvision)
    parts = []
    for is_train in (True, False):
        which: dict[str, Any] = {"train": is_train}
        if known.torchvision == "SVHN":
            which = {"split": "train" if is_train else "test"}
        try:
            data = kind(str(expand_home(root)), download=given.download, **which)
        except (RuntimeError, OSError) as error:
            if given.download:
                raise OSError(
                    f"torchvision could not fetch {known.torchvision} into {shown_root(root, key)} ({error}); connect "
                    f"to the internet, or put its files there from elsewhere and leave {key}.download out"
                ) from error
            raise FileNotFoundError(
                f"{known.torchvision} is not in {shown_root(root, key)} as torchvision keeps it ({error}); set "
                f"{key}.download=true to have torchvision fetch it, set {key}.root to where it is, or use dataset: "
                f"image_folder for a tree of image files"
            ) from error
        images = channels_first(torch.as_tensor(data.data))
        labels = torch.as_tensor(data.labels if hasattr(data, "labels") else data.targets, dtype=torch.long)
        parts.append(MemoryImages(images.contiguous(), labels))
    names = tuple(getattr(data, "classes", ()))
    return DataSplit(parts[0], parts[1], known.classes, known.mean, known.std, names=names)


def _resized(images: MemoryImages, size: int) -> MemoryImages:
    from torchvision.transforms import functional as TF

    batches = [TF.resize(batch, [size, size], antialias=True) for batch in images.images.split(1024)]
    return MemoryImages(torch.cat(batches), images.labels)
