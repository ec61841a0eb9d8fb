"""Which images, and how they are made into batches: options said once, for Python and for recipes. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

OF_FILES = ("image_folder", "image_table")
"""Data sets that are image files of the user's own."""


@dataclass
class ImageOptions:
    """Images of a data set; see :func:`mixplug.data.datasets.load_unlabelled`, which checks them.

    Attributes:
        dataset: 'digits' (scikit-learn's, 8x8, nothing to download), 'cifar10', 'cifar100', 'svhn', 'fashion_mnist'
            (torchvision's), 'medmnist_pathmnist' and others of MedMNIST's, 'image_folder', 'image_table', or 'noise'
            (random pixels and labels in CIFAR-10's shape, to measure costs on).
        root: Folder of the data: torchvision's root, or what holds an image_folder's trees; of an image_table the CSV
            file.
        download: Have torchvision or medmnist fetch data that is missing.
        train: For an image_folder, the name of its training tree.
        image_size: Height and width to bring images to; None for their own.
        fraction: Share of the training images to keep, in (0, 1]; see :func:`mixplug.data.subsets.draw`.
        sampling: How it is drawn: 'uniform' (the paper's) or 'stratified'.
        mean: What to subtract from images in [0, 1], a number for each channel; None for the stated statistics
            (ImageNet's for an image_folder and an image_table, 0.5 for MedMNIST's).
        std: What to divide them by then.
        crop_padding: Pixels of black around a training image, out of which a random window is cut; 0 for none.
        flip: Mirror each training image with probability 1/2.
        in_memory: Decode images of an image_folder or image_table once in a process and keep them as uint8; None where
            they take less than 4 GiB. Else workers read them.
    """

    dataset: str = "digits"
    root: str = "data"
    download: bool = False
    train: str = "train"
    image_size: Optional[int] = None  # noqa: UP045  (OmegaConf reads these types)
    fraction: float = 1.0
    sampling: str = "uniform"
    mean: Optional[list[float]] = None  # noqa: UP045
    std: Optional[list[float]] = None  # noqa: UP045
    crop_padding: int = 0
    flip: bool = False
    in_memory: Optional[bool] = None  # noqa: UP045


@dataclass
class SSLOptions(ImageOptions):
    """Images for self-supervised learning, in recipes.

    Attributes:
        same: Those of ``data``, all of its training images however few it keeps the labels of, treated alike; of the
            options above only ``fraction`` may be given then.
        epoch: How long an epoch of the SSL phase is: 'data', a pass over these images, or 'labelled', as many batches
            as one over the labelled ones has.
    """

    same: bool = False
    epoch: str = "data"


@dataclass
class LabelledOptions(ImageOptions):
    """Images with labels, and others to test on; see :func:`mixplug.data.datasets.load_dataset`, which checks them.

    Attributes:
        test: For an image_folder, the name of its test tree; empty for the first of test, val, valid and validation
            that has labels.
        labels: How many training images to keep, in place of ``fraction``; drawn as ``sampling`` says.
        per_class: How many of each class to keep, in place of ``fraction``.
    """

    test: str = ""
    labels: Optional[int] = None  # noqa: UP045
    per_class: Optional[int] = None  # noqa: UP045
