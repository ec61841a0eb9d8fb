"""Trees of image files: a folder for each class, or TinyImageNet's validation folder with its annotation file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from mixplug.data.images import FileImages
from mixplug.data.options import ImageOptions, LabelledOptions

ANNOTATIONS = "val_annotations.txt"
TEST_NAMES = ("test", "val", "valid", "validation")


def read_folder(options: LabelledOptions, key: str = "data") -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """The images of ``root/train`` and ``root/test``; files and folders whose name begins with '.' are passed over.

    Args:
        options: Which folders. That of training images has a folder for each class (images may lie deeper in it), that
            of test images the same classes, or TinyImageNet's ``val_annotations.txt``, which gives each file's class.
        key: What messages call the settings of these images.

    Returns:
        Training images, test images, the names of the classes in the order of their labels.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: there are fewer than two classes, or the test images have a class that the training images lack.

    Warns:
        UserWarning: the test images are the training images, or lack a class of them.
    """
    root, train, test, size = Path(options.root).expanduser(), options.train, options.test, options.image_size
    folder = root / train
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{key}.root={str(root)!r} has no folder {train!r}; image_folder wants {root / train}/CLASS/IMAGE and "
            f"{root / (test or 'test')}/CLASS/IMAGE (set {key}.root, {key}.train and {key}.test)"
        )
    names = _folders_in(folder)
    if not names:
        raise FileNotFoundError(f"{folder} has no folder for each class; image_folder wants {folder}/CLASS/IMAGE")
    if len(names) < 2:
        raise ValueError(f"{folder} has one class, {names[0]!r}; there must be at least two, a folder for each")
    classes = {name: number for number, name in enumerate(names)}
    held_out = root / test if test else _find_test(root, classes, key)
    if not held_out.is_dir():
        raise FileNotFoundError(f"{key}.root={str(root)!r} has no folder {test!r} of test images; set {key}.test")
    if held_out.resolve() == folder.resolve():
        warnings.warn(
            f"{key}.test={test!r} is the folder of the training images: accuracy on them says nothing about new ones; "
            f"set {key}.test to a folder of other images",
            stacklevel=2,
        )
    training, evaluation = (_images_of(tree, classes, size, key) for tree in (folder, held_out))
    empty, unseen = (_lacking(images, names) for images in (training, evaluation))
    if empty:
        raise FileNotFoundError(
            f"{folder / empty[0]} holds no images ({', '.join(IMG_EXTENSIONS)}), so its class could not be learned; "
            f"add some or take the folder away"
        )
    if unseen:
        warnings.warn(
            f"{held_out} has no images of {len(unseen)} of the {len(names)} classes of {folder} "
            f"({', '.join(unseen[:5])}{' ...' if len(unseen) > 5 else ''}): accuracy says nothing about these",
            stacklevel=2,
        )
    return training, evaluation, tuple(names)


def read_unlabelled(options: ImageOptions, key: str = "ssl_data") -> FileImages:
    """All images anywhere below ``root/train``, or below ``root`` where it has no such folder; their labels are zeros.

    Files and folders whose name begins with '.' are passed over.

    Args:
        options: Which folder.
        key: What messages call the settings of these images.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
    """
    root = Path(options.root).expanduser()
    folder = root / options.train
    if not folder.is_dir() and options.train == "train":
        folder = root
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of images; set {key}.root and {key}.train")
    paths = [
        Path(parent, name)
        for parent, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(IMG_EXTENSIONS)
    ]
    paths = [path for path in paths if not _hidden(path, folder)]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)}); set {key}.root")
    return FileImages(tuple(paths), torch.zeros(len(paths), dtype=torch.long), options.image_size, key)


def _folders_in(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _find_test(root: Path, classes: dict[str, int], key: str) -> Path:
    for name in TEST_NAMES:
        folder = root / name
        if (folder / ANNOTATIONS).is_file() or any((folder / label).is_dir() for label in classes):
            return folder
    raise FileNotFoundError(
        f"{key}.root={str(root)!r} has no test images with labels in any of {list(TEST_NAMES)}: accuracy is measured "
        f"on them; add such a folder, with the classes of the training images, or set {key}.test to its name"
    )


def _images_of(folder: Path, classes: dict[str, int], size: int | None, key: str) -> FileImages:
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        samples = _annotated(annotations, classes)
    else:
        _refuse_unknown_classes(folder, _folders_in(folder), classes)
        found = make_dataset(str(folder), classes, IMG_EXTENSIONS, allow_empty=True)
        samples = [(Path(path), label) for path, label in found if not _hidden(Path(path), folder)]
    if not samples:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    paths, labels = zip(*samples, strict=True)
    return FileImages(paths, torch.tensor(labels), size, key)


def _lacking(images: FileImages, names: list[str]) -> list[str]:
    """The classes without an image."""
    present = set(images.labels.tolist())
    return [name for number, name in enumerate(names) if number not in present]


def _annotated(annotations: Path, classes: dict[str, int]) -> list[tuple[Path, int]]:
    """TinyImageNet's validation images: lines of file name, class and bounding box, with tabs between."""
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{annotations} is not in UTF-8 ({error}); write it as UTF-8 text") from error
    samples = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) < 2:
            raise ValueError(f"{annotations}, line {number}: must be FILE, tab, CLASS ...; got {line!r}")
        _refuse_unknown_classes(annotations, [fields[1]], classes)
        samples.append((annotations.parent / "images" / fields[0], classes[fields[1]]))
    return samples


def _refuse_unknown_classes(where: Path, found: list[str], classes: dict[str, int]) -> None:
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise ValueError(
            f"{where} has the class {unknown[0]!r}, which the training images lack (they have {len(classes)} classes: "
            f"{', '.join(list(classes)[:5])}{' ...' if len(classes) > 5 else ''}); both must have the same"
        )
