"""MedMNIST's flat images with one class each (Yang et al., MedMNIST v2, Scientific Data 2023), out of its own files."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from mixplug.checks import expand_home
from mixplug.data.folders import shown_root
from mixplug.data.images import MemoryImages, channels_first
from mixplug.data.options import ImageOptions

PREFIX = "medmnist_"
SIZES = (28, 64, 128, 224)
"""Sizes of which there are files."""

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
_NAMES = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast"),
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": (
        *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
        *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
        "Thick Ascending Limb",
    ),
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
}
MEDMNIST = tuple(PREFIX + name for name in _NAMES)

_VOLUMES = ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")
OTHER_TASKS = {
    f"{PREFIX}chestmnist": "has several labels for an image",
    f"{PREFIX}retinamnist": "has grades with an order for labels",
    **{f"{PREFIX}{name}mnist3d": "has volumes for images" for name in _VOLUMES},
}
"""Its other sets, and why they are none for a classifier of images."""


def medmnist_file(options: ImageOptions) -> Path:
    """The file that images of the size that is asked for are in: one of their own, or else that of 28 pixels."""
    size = options.image_size if options.image_size in SIZES[1:] else None
    name = options.dataset.removeprefix(PREFIX)
    return expand_home(options.root) / f"{name}{'' if size is None else f'_{size}'}.npz"


def read_medmnist(options: ImageOptions, key: str = "data") -> tuple[MemoryImages, MemoryImages, tuple[str, ...]]:
    """Training and test images; MedMNIST's validation images are not used. All are kept in memory.

    Args:
        options: Which set, where its files are, and of which size; the package fetches one with ``download``, and
            repeats that if it is damaged.
        key: What messages call the settings of these images.

    Returns:
        Training images, test images, the names of the classes in the order of their labels.

    Raises:
        FileNotFoundError: the file is not there; the message says how to get it.
        ImportError: it is to be fetched, and the package is not there.
        OSError: it could not be fetched.
        ValueError: it is no file of MedMNIST's.
    """
    file, names = medmnist_file(options), _NAMES[options.dataset.removeprefix(PREFIX)]
    if options.download:
        _fetch(file, options, key)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file.name} is not in {shown_root(options.root, key)}; set {key}.download=true to have the package "
            f"medmnist fetch it, or set {key}.root to where it is"
        )
    try:
        with np.load(file) as arrays:
            train, test = (_images_of(arrays, split, len(names)) for split in ("train", "test"))
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise ValueError(
            f"{file} cannot be read as a file of MedMNIST's ({' '.join(str(error).split())}); take it away and set "
            f"{key}.download=true"
        ) from error
    return train, test, names


def _images_of(arrays: np.lib.npyio.NpzFile, split: str, classes: int) -> MemoryImages:
    images, labels = torch.from_numpy(arrays[f"{split}_images"]), torch.from_numpy(arrays[f"{split}_labels"])
    if images.dtype != torch.uint8 or labels.shape not in ((len(images), 1), (len(images),)):
        raise ValueError(f"{split}: images are {images.dtype} {tuple(images.shape)}, labels {tuple(labels.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{split}: labels are from {int(labels.min())} to {int(labels.max())}, of {classes} classes")
    return MemoryImages(channels_first(images), labels.reshape(-1).long())


def _fetch(file: Path, options: ImageOptions, key: str) -> None:
    try:
        import medmnist
    except ImportError as error:
        raise ImportError(
            f"{key}.download=true of {options.dataset} needs the package medmnist: pip install 'mixplug[medmnist]'",
            name="medmnist",
        ) from error
    name, _, size = file.stem.partition("_")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = getattr(medmnist, medmnist.INFO[name]["python_class"])
        kind(split="test", root=str(file.parent), size=int(size or 28), download=True)
    except (RuntimeError, OSError) as error:
        raise OSError(
            f"medmnist could not fetch {file.name} into {shown_root(options.root, key)} "
            f"({' '.join(str(error).split())}); connect to the internet, or put the file there from elsewhere and "
            f"leave {key}.download out"
        ) from error
