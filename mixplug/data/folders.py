"""Trees of image files: a folder for each class, or TinyImageNet's validation folder with its annotation file."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from mixplug.data.images import FileImages

ANNOTATIONS = "val_annotations.txt"
TEST_NAMES = ("test", "val", "valid", "validation")


def read_folder(
    root: str | Path, train: str = "train", test: str = "", size: int | None = None
) -> tuple[FileImages, FileImages, int]:
    """The images of ``root/train`` and ``root/test``.

    Args:
        root: The folder that holds both.
        train: Name of the training images' folder, which has a folder for each class (images may lie deeper in it).
        test: Name of the test images' folder: with the same classes, or TinyImageNet's, where ``val_annotations.txt``
            gives each file's class. Empty for the first of 'test', 'val', 'valid' and 'validation' that has labels.
        size: What to bring images to, see :class:`mixplug.data.images.FileImages`.

    Returns:
        Training images, test images, number of classes.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: the test images have a class that the training images lack.
    """
    root = Path(root).expanduser()
    folder = root / train
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data.root={str(root)!r} has no folder {train!r}; image_folder wants {root / train}/CLASS/IMAGE and "
            f"{root / (test or 'test')}/CLASS/IMAGE (set data.root, data.train and data.test)"
        )
    try:
        _, classes = find_classes(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no folder for each class: {error}") from error
    held_out = root / test if test else _find_test(root, classes)
    if not held_out.is_dir():
        raise FileNotFoundError(f"data.root={str(root)!r} has no folder {test!r} of test images; set data.test")
    return _images_of(folder, classes, size), _images_of(held_out, classes, size), len(classes)


def _find_test(root: Path, classes: dict[str, int]) -> Path:
    for name in TEST_NAMES:
        folder = root / name
        if (folder / ANNOTATIONS).is_file() or any((folder / label).is_dir() for label in classes):
            return folder
    raise FileNotFoundError(
        f"data.root={str(root)!r} has no test images with labels in any of {list(TEST_NAMES)}: accuracy is measured on "
        f"them; add such a folder, with the classes of the training images, or set data.test to its name"
    )


def _images_of(folder: Path, classes: dict[str, int], size: int | None) -> FileImages:
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        samples = _annotated(annotations, classes)
    else:
        _refuse_unknown_classes(folder, sorted(f.name for f in folder.iterdir() if f.is_dir()), classes)
        samples = make_dataset(str(folder), classes, IMG_EXTENSIONS, allow_empty=True)
    if not samples:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    paths, labels = zip(*samples, strict=True)
    return FileImages(tuple(map(Path, paths)), torch.tensor(labels), size)


def _annotated(annotations: Path, classes: dict[str, int]) -> list[tuple[str, int]]:
    """TinyImageNet's validation images: lines of file name, class and bounding box, with tabs between."""
    samples = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) < 2:
            raise ValueError(f"{annotations}, line {number}: must be FILE, tab, CLASS ...; got {line!r}")
        _refuse_unknown_classes(annotations, [fields[1]], classes)
        samples.append((str(annotations.parent / "images" / fields[0]), classes[fields[1]]))
    return samples


def _refuse_unknown_classes(where: Path, found: list[str], classes: dict[str, int]) -> None:
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise ValueError(
            f"{where} has the class {unknown[0]!r}, which the training images lack (they have {len(classes)} classes: "
            f"{', '.join(list(classes)[:5])}{' ...' if len(classes) > 5 else ''}); both must have the same"
        )
