"""Trees of image files: a folder for each class, or TinyImageNet's validation folder with its annotation file."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from mixplug.checks import counted, expand_home
from mixplug.data.images import FileImages
from mixplug.data.options import ImageOptions, LabelledOptions

ANNOTATIONS = "val_annotations.txt"
TEST_NAMES = ("test", "val", "valid", "validation")

COMPANIONS = (".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".py", ".mat", ".db", ".ini")
"""Endings of files that lie beside images and that nobody takes for one."""


def read_folder(options: LabelledOptions, key: str = "data") -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """The images of ``root/train`` and ``root/test``; files and folders whose name begins with '.' are passed over.

    A folder that links lead to several times is read once.

    Args:
        options: Which folders. That of training images has a folder for each class (images may lie deeper in it), that
            of test images the same classes, or TinyImageNet's ``val_annotations.txt``, which gives each file's class.
        key: What messages call the settings of these images.

    Returns:
        Training images, test images, the names of the classes in the order of their labels.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: there are fewer than two classes, the test images have a class that the training images lack, or
            two classes are one folder by a link.

    Warns:
        UserWarning: the test images are the training images, or lack a class of them; or files are passed over for
            their ending, or since they lie outside of a class folder.
    """
    root, train, test, size = expand_home(options.root), options.train, options.test, options.image_size
    folder = root / train
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{shown_root(root, key)} has no folder {train!r}; image_folder wants {root / train}/CLASS/IMAGE and "
            f"{root / (test or 'test')}/CLASS/IMAGE (set {key}.root, {key}.train and {key}.test)"
        )
    names = folders_in(folder)
    if not names:
        raise FileNotFoundError(f"{folder} has no folder for each class; image_folder wants {folder}/CLASS/IMAGE")
    if len(names) < 2:
        raise ValueError(f"{folder} has one class, {names[0]!r}; there must be at least two, a folder for each")
    classes = {name: number for number, name in enumerate(names)}
    held_out = root / test if test else find_test(root, classes)
    if held_out is None:
        raise FileNotFoundError(
            f"{shown_root(root, key)} has no test images with labels in any of {list(TEST_NAMES)}: accuracy is "
            f"measured on them; add such a folder, with the classes of the training images, or set {key}.test to its "
            f"name"
        )
    if not held_out.is_dir():
        raise FileNotFoundError(f"{shown_root(root, key)} has no folder {test!r} of test images; set {key}.test")
    if held_out.resolve() == folder.resolve():
        warnings.warn(
            f"{key}.test={test!r} is the folder of the training images: accuracy on them says nothing about new ones; "
            f"set {key}.test to a folder of other images",
            stacklevel=2,
        )
    trees = Tree(folder), Tree(held_out)
    training, evaluation = (_images_of(tree, classes, size, key) for tree in trees)
    shared = [trees[1].read[identity] for identity in trees[1].read if identity in trees[0].read]
    if shared and held_out.resolve() != folder.resolve():
        warnings.warn(
            f"{shared[0]} is, by a link, a folder of the training images: accuracy on them says nothing about new ones",
            stacklevel=2,
        )
    if empty := _lacking(training.labels, names):
        raise FileNotFoundError(
            f"{folder / empty[0]} holds no images ({', '.join(IMG_EXTENSIONS)}), so its class could not be learned; "
            f"add some or take the folder away"
        )
    warn_of_untested(evaluation.labels, names, str(held_out), str(folder))
    return training, evaluation, tuple(names)


def read_unlabelled(options: ImageOptions, key: str = "ssl_data") -> FileImages:
    """All images anywhere below ``root/train``, or below ``root`` where it has no such folder; their labels are zeros.

    Files and folders whose name begins with '.' are passed over, and a folder that links lead to several times is read
    once.

    Args:
        options: Which folder.
        key: What messages call the settings of these images.

    Raises:
        FileNotFoundError: a folder is missing or holds no images.

    Warns:
        UserWarning: files are passed over for their ending.
    """
    root = expand_home(options.root)
    folder = root / options.train
    if not folder.is_dir() and options.train == "train":
        folder = root
    if not folder.is_dir():
        inside = "" if folder == root else f" has no folder {options.train!r}: {folder.absolute()}"
        raise FileNotFoundError(
            f"{shown_root(root, key)}{inside} is no folder of images; set {key}.root and {key}.train"
        )
    tree = Tree(folder)
    paths = tree.images_in(folder)
    tree.warn_of_others()
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)}); set {key}.root")
    return FileImages(tuple(paths), torch.zeros(len(paths), dtype=torch.long), options.image_size, key)


def shown_root(root: str | Path, key: str) -> str:
    """``data.root='photos'`` for messages, and where that is."""
    where = expand_home(root)
    return f"{key}.root={str(root)!r}" + ("" if where.is_absolute() else f" ({where.absolute()})")


class Tree:
    """A folder of images, each folder in it read once, and what of it was passed over.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[tuple[int, int], Path] = {}
        self.other_endings: Counter[str] = Counter()
        # A link to what holds the folder would lead back into it, and on the way to images of other kinds.
        self._around = {identity_of(outer) for outer in (folder.resolve(), *folder.resolve().parents)}

    def images_in(self, folder: Path) -> list[Path]:
        """The images anywhere in ``folder``, in the order of their folders' names and then their own."""
        if folder != self.folder:
            self._enter(folder)
        found = []
        for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
            folders[:] = [
                name for name in sorted(folders) if not name.startswith(".") and self._enter(Path(parent, name))
            ]
            names = [name for name in names if not name.startswith(".")]
            images = [name for name in names if _is_image(name)]
            if len(images) < len(names):
                endings = (Path(name).suffix.lower() for name in names if not _is_image(name))
                self.other_endings.update(ending for ending in endings if ending not in COMPANIONS)
            found.append((parent, sorted(images)))
        return [Path(parent, name) for parent, images in sorted(found) for name in images]

    def entered_as(self, folder: Path) -> Path | None:
        """The path that this folder was read by already, or that holds the whole tree; None for another."""
        identity = identity_of(folder)
        return folder.resolve() if identity in self._around else self.read.get(identity)

    def _enter(self, folder: Path) -> bool:
        identity = identity_of(folder)
        if identity in self.read or identity in self._around:
            return False
        self.read[identity] = folder
        return True

    def warn_of_others(self) -> None:
        """Say how many files were passed over for their ending."""
        if self.other_endings:
            endings = ", ".join(f"{ending or 'none'}: {n}" for ending, n in self.other_endings.most_common(8))
            warnings.warn(
                f"{self.folder}: {counted(self.other_endings.total(), 'file')} passed over for the ending ({endings}); "
                f"images end in {', '.join(IMG_EXTENSIONS)}: convert or rename them, or take them away",
                stacklevel=3,
            )


def identity_of(path: Path) -> tuple[int, int]:
    """What a folder or file is, by whatever path."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def _refuse(error: OSError) -> None:
    """What :func:`os.walk` would pass over, such as a folder that may not be read."""
    raise error


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in ``folder``, sorted."""
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def find_test(root: Path, classes: Iterable[str]) -> Path | None:
    """The first folder of :data:`TEST_NAMES` in ``root`` that has labels of these classes, if there is one."""
    for folder in map(root.joinpath, TEST_NAMES):
        if (folder / ANNOTATIONS).is_file() or any((folder / label).is_dir() for label in classes):
            return folder
    return None


def _images_of(tree: Tree, classes: dict[str, int], size: int | None, key: str) -> FileImages:
    folder = tree.folder
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        samples, place = read_annotations(annotations, classes), folder / "images"
        what = f"without a line in {ANNOTATIONS}"
    else:
        names = folders_in(folder)
        refuse_unknown_classes(folder, names, classes)
        samples, place, what = [], folder, "outside of a class folder"
        for name in names:
            if (first := tree.entered_as(folder / name)) is not None:
                raise ValueError(
                    f"{folder / name} is, by a link, the folder {first}, and its images would be of two classes; take "
                    f"one of the two away"
                )
            samples += [(path, classes[name]) for path in tree.images_in(folder / name)]
    tree.warn_of_others()
    taken = {path.name for path, _ in samples if path.parent == place}
    loose = sorted(f.name for f in (place.iterdir() if place.is_dir() else ()) if _is_image(f.name))
    loose = [name for name in loose if name not in taken and name[0] != "." and not (place / name).is_dir()]
    if loose:
        warnings.warn(
            f"{place}: {counted(len(loose), 'image')} {what} passed over ({', '.join(loose[:3])}"
            f"{' ...' if len(loose) > 3 else ''})",
            stacklevel=2,
        )
    if not samples:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    paths, labels = zip(*samples, strict=True)
    return FileImages(paths, torch.tensor(labels), size, key)


def warn_of_untested(labels: Tensor, names: list[str], test: str, train: str) -> None:
    """Say which of the classes ``names`` of the training images ``train`` the test images of ``test`` are none of."""
    if unseen := _lacking(labels, names):
        warnings.warn(
            f"{test} has no images of {len(unseen)} of the {len(names)} classes of {train} "
            f"({', '.join(unseen[:5])}{' ...' if len(unseen) > 5 else ''}): accuracy says nothing about these",
            stacklevel=3,
        )


def _lacking(labels: Tensor, names: list[str]) -> list[str]:
    """The classes without an image."""
    present = set(labels.tolist())
    return [name for number, name in enumerate(names) if number not in present]


def read_annotations(annotations: Path, classes: dict[str, int]) -> list[tuple[Path, int]]:
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
        refuse_unknown_classes(annotations, [fields[1]], classes)
        samples.append((annotations.parent / "images" / fields[0], classes[fields[1]]))
    return samples


def refuse_unknown_classes(where: Path | str, found: list[str], classes: Collection[str]) -> None:
    """Raise where ``found`` has a class that is none of the ``classes`` of the training images."""
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise ValueError(
            f"{where} has the class {unknown[0]!r}, which the training images lack (they have {len(classes)} classes: "
            f"{', '.join(list(classes)[:5])}{' ...' if len(classes) > 5 else ''}); both must have the same"
        )
