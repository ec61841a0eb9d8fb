"""What a folder of a user's own images holds: labels, classes, sizes, and what has no label."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mixplug.checks import counted, expand_home
from mixplug.data.folders import (
    ANNOTATIONS,
    TEST_NAMES,
    Tree,
    find_test,
    folders_in,
    identity_of,
    read_annotations,
    refuse_unknown_classes,
)
from mixplug.data.images import size_of
from mixplug.data.tables import TableRow, read_lines

UNLABELLED_NAMES = ("unlabelled", "unlabeled")

_LAYOUTS = (
    "put images into FOLDER/CLASS/IMAGE or FOLDER/train/CLASS/IMAGE, or name their classes in a CSV file with the "
    "columns path,label"
)


@dataclass(frozen=True)
class FoundImages:
    """What a folder holds.

    Attributes:
        folder: The folder.
        rows: Its images. Their split is 'train', 'test' or 'unlabelled'; empty for all labelled ones where nothing says
            which are to test on.
        classes: How many labelled images there are to learn from (test images are none of them), by class; sorted.
        width: In pixels, the median of a sample of at most 200 images, by their headers.
        height: The same.
    """

    folder: Path
    rows: tuple[TableRow, ...] = field(repr=False)
    classes: dict[str, int]
    width: int
    height: int

    @property
    def channels(self) -> int:
        """3: files that are grey are read as RGB too."""
        return 3


def find_labelled_images(folder: str | Path, labels: str | Path | None = None) -> FoundImages:
    """Look at a folder of images, with labels in its tree or in a table.

    Trees: ``FOLDER/train/CLASS/IMAGE``, or ``FOLDER/CLASS/IMAGE``; in either case with test images where an
    image_folder has them (``FOLDER/test/CLASS/IMAGE``, or val, valid, validation). Images anywhere in
    ``FOLDER/unlabelled`` and those lying directly in FOLDER have no label.

    Args:
        folder: The folder.
        labels: A CSV file in UTF-8 with the columns path (or file, or image) and label, perhaps split; paths are
            absolute or relative to ``folder`` or else to the file's own. Every image below ``folder`` that it does not
            name has no label, whatever its place.

    Raises:
        FileNotFoundError: there is no such folder or file, it holds no images, a class folder holds none, or the table
            names one that is not there (the message names the line).
        ValueError: no image has a label, there are fewer than two classes, the table is none, or test images are of a
            class that the training images lack.

    Warns:
        UserWarning: images are passed over for their place, or files for their ending.
    """
    root = expand_home(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(folder)!r} ({root.absolute()}); name the one with your images"
        )
    tree = Tree(root)
    images = tree.images_in(root)
    tree.warn_of_others()
    rows = _by_place(root, images) if labels is None else _by_table(root, images, expand_home(labels))
    if not rows:
        raise FileNotFoundError(f"{root} holds no images; {_LAYOUTS}")
    counts = Counter(row.label for row in rows if row.split in ("train", ""))
    if not counts:
        raise ValueError(f"{root}: none of its {counted(len(rows), 'image')} has a label to learn from; {_LAYOUTS}")
    if len(counts) < 2:
        raise ValueError(
            f"{root}: its labelled images have one class, {next(iter(counts))!r}; {_LAYOUTS}: two at least"
        )
    sizes = [size_of(row.path) for row in rows[:: -(-len(rows) // 200)]]
    height, width = (statistics.median_low(lengths) for lengths in zip(*sizes, strict=True))
    return FoundImages(root, tuple(rows), dict(sorted(counts.items())), width, height)


def _by_place(root: Path, images: list[Path]) -> list[TableRow]:
    """Images with the labels that their folders say."""
    has_train = (root / "train").is_dir() and bool(folders_in(root / "train"))
    top = root / "train" if has_train else root
    names = [name for name in folders_in(top) if has_train or name.casefold() not in UNLABELLED_NAMES]
    test = find_test(root, names if has_train else [name for name in names if name not in TEST_NAMES])
    classes = [name for name in names if has_train or test is None or name != test.name]
    for name in classes if not has_train else ():
        if name.casefold() in ("train", *TEST_NAMES):
            raise ValueError(
                f"{root / name} has no folder for each class and is none by its name; {_LAYOUTS}. What has no label "
                f"belongs into {root / UNLABELLED_NAMES[0]}; if it is a class, rename it"
            )
    annotations = test and test / ANNOTATIONS
    annotated = {}
    if annotations and annotations.is_file():
        numbers = {name: number for number, name in enumerate(classes)}
        annotated = {path: classes[number] for path, number in read_annotations(annotations, numbers)}
    elif test is not None:
        refuse_unknown_classes(test, folders_in(test), classes)

    split = "train" if has_train or test is not None else ""
    rows, elsewhere = [], []
    for path in images:
        inside = path.relative_to(root).parts
        if len(inside) == 1 or inside[0].casefold() in UNLABELLED_NAMES:
            rows.append(TableRow(path, "", "unlabelled"))
        elif path in annotated:
            rows.append(TableRow(path, annotated[path], "test"))
        elif test is not None and inside[0] == test.name:
            if annotated or len(inside) < 3:
                elsewhere.append(path)
            else:
                rows.append(TableRow(path, inside[1], "test"))
        elif top in path.parents and len(path.relative_to(top).parts) > 1:
            rows.append(TableRow(path, path.relative_to(top).parts[0], split))
        else:
            elsewhere.append(path)
    learned = {row.label for row in rows if row.split == split}
    if learned and (empty := [name for name in classes if name not in learned]):
        raise FileNotFoundError(
            f"{top / empty[0]} holds no images that are not read elsewhere, so its class could not be learned; add "
            f"some or take the folder away"
        )
    if elsewhere:
        shown = ", ".join(str(path.relative_to(root)) for path in elsewhere[:3])
        warnings.warn(
            f"{root}: {counted(len(elsewhere), 'image')} outside of a class folder passed over ({shown}"
            f"{' ...' if len(elsewhere) > 3 else ''}); put what has no label into {root / UNLABELLED_NAMES[0]}",
            stacklevel=3,
        )
    return rows


def _by_table(root: Path, images: list[Path], file: Path) -> list[TableRow]:
    """Images with the labels that a table says; what it does not name has none."""
    lines = read_lines(file, [root, file.parent], ("path", "file", "image"), needs_split=False)
    classes = sorted({row.label for _, row in lines if row.split in ("train", "")})
    for line, row in lines:
        if row.split == "test":
            refuse_unknown_classes(f"{file}, line {line}", [row.label], classes)
    named = {identity_of(row.path) for _, row in lines}
    others = [TableRow(path, "", "unlabelled") for path in images if identity_of(path) not in named]
    return [row for _, row in lines] + others
