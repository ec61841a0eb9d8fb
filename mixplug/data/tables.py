"""Tables of image files: a CSV file that says of each image its class and what it is for."""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mixplug.checks import check_choice, counted, expand_home, match_case
from mixplug.data.folders import refuse_unknown_classes, shown_root, warn_of_untested
from mixplug.data.images import FileImages
from mixplug.data.options import ImageOptions, LabelledOptions

COLUMNS = ("path", "label", "split")
SPLITS = ("train", "test", "unlabelled")


class TableRow(NamedTuple):
    """An image of a table.

    Attributes:
        path: Its file.
        label: Its class; empty where it is not known.
        split: 'train', 'test' or 'unlabelled'; empty where a table of labels has no such column.
    """

    path: Path
    label: str
    split: str


def read_table(options: LabelledOptions, key: str = "data") -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """The labelled images of the table ``root``: a CSV file in UTF-8 with the columns path, label and split.

    Paths are absolute or relative to the table's folder. Rows of the split 'train' and 'test' have a label, those of
    'unlabelled' have none and are not read here. Further columns are passed over.

    Args:
        options: Which table.
        key: What messages call the settings of these images.

    Returns:
        Training images, test images, the names of the classes (sorted as text) in the order of their labels.

    Raises:
        FileNotFoundError: the table or an image of it is missing.
        ValueError: it is no such table (the message names the line), there are fewer than two classes, no test images,
            or a test image is of a class that no training image is of.

    Warns:
        UserWarning: the test images lack a class of the training images.
    """
    file, rows = _rows_of(options, key)
    train, test = ([(n, row) for n, row in rows if row.split == split] for split in ("train", "test"))
    names = sorted({row.label for _, row in train})
    if len(names) < 2:
        found = f"one class, {names[0]!r}, in its rows" if names else "no rows"
        raise ValueError(f"{file} has {found} of the split 'train'; there must be at least two classes")
    if not test:
        raise ValueError(f"{file} has no rows of the split 'test': accuracy is measured on them; add some")
    classes = {name: number for number, name in enumerate(names)}
    for line, row in test:
        refuse_unknown_classes(f"{file}, line {line}", [row.label], classes)
    training, evaluation = (
        FileImages(
            tuple(row.path for _, row in part),
            torch.tensor([classes[row.label] for _, row in part]),
            options.image_size,
            key,
        )
        for part in (train, test)
    )
    warn_of_untested(evaluation.labels, names, f"the rows of the split 'test' of {file}", "the split 'train'")
    return training, evaluation, tuple(names)


def read_unlabelled_table(options: ImageOptions, key: str = "ssl_data") -> FileImages:
    """All images of a table but the test images; their labels are zeros.

    Arguments and errors are those of :func:`read_table`, but there may be no classes and no test images.
    """
    file, rows = _rows_of(options, key)
    paths = tuple(row.path for _, row in rows if row.split != "test")
    if not paths:
        raise ValueError(f"{file} has test images alone; add rows of the split 'train' or 'unlabelled'")
    return FileImages(paths, torch.zeros(len(paths), dtype=torch.long), options.image_size, key)


def write_table(path: Path, rows: Iterable[TableRow]) -> None:
    """Write a table for :func:`read_table`; paths of files below its folder are relative to it, others absolute.

    Raises:
        ValueError: the name of an image is no text in UTF-8.
    """
    folder = path.absolute().parent
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows:
                image = row.path.absolute()
                shown = image.relative_to(folder) if image.is_relative_to(folder) else image
                writer.writerow((shown, row.label, row.split))
    except UnicodeEncodeError as error:
        raise ValueError(f"{image!r} has a name that is not in UTF-8; rename the file") from error


def read_lines(
    file: Path, folders: Sequence[Path], path_names: Sequence[str] = ("path",), *, needs_split: bool = True
) -> list[tuple[int, TableRow]]:
    """The rows of a CSV file with their line numbers, each a file of its own that is there.

    Args:
        file: The CSV file, in UTF-8, with a header.
        folders: What paths that are not absolute are relative to: the first of them where there is such a file.
        path_names: What the column of paths may be called.
        needs_split: Whether there must be a column 'split'; without one it is empty, and images without a label are
            'unlabelled'.

    Raises:
        FileNotFoundError: the table or an image of it is missing.
        ValueError: it is not in UTF-8, empty or no such table; the message names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r}" + (": it is a folder" if file.is_dir() else ""))
    rows: list[tuple[int, TableRow]] = []
    try:
        # Spreadsheets begin a file in UTF-8 with a mark that is no part of the header.
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            places = _places(file, next(reader, []), path_names, needs_split)
            for fields in reader:
                if fields:
                    rows.append((reader.line_num, _row(f"{file}, line {reader.line_num}", fields, places, folders)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in UTF-8 ({error}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {reader.line_num}: {error}; each image has a line, fields between commas"
        ) from error
    if not rows:
        raise ValueError(f"{file} has a header and no rows; add a line for each image")
    _check_files(file, rows, folders)
    return rows


def _rows_of(options: ImageOptions, key: str) -> tuple[Path, list[tuple[int, TableRow]]]:
    file = expand_home(options.root)
    if not file.is_file():
        raise FileNotFoundError(
            f"{shown_root(options.root, key)} is no file; of an image_table it is the path of a CSV file with the "
            f"columns {','.join(COLUMNS)}"
        )
    return file, read_lines(file, [file.parent])


def _places(file: Path, header: list[str], path_names: Sequence[str], needs_split: bool) -> dict[str, int]:
    """The column of each of :data:`COLUMNS` that is there, and under '' the number of columns."""
    given = [name.strip().casefold() for name in header]
    places = {"": len(header)}
    for column, names in (("path", path_names), ("label", ("label",)), ("split", ("split",))):
        known = next((name for name in names if name in given), None)
        if known is not None:
            places[column] = given.index(known)
        elif column != "split" or needs_split:
            wanted = ",".join(COLUMNS if needs_split else (path_names[0], "label"))
            raise ValueError(
                f"{file} has no column {' or '.join(map(repr, names))}: its first line must be {wanted}, with commas, "
                f"got {','.join(header)!r}"
            )
    return places


def _row(where: str, fields: list[str], places: dict[str, int], folders: Sequence[Path]) -> TableRow:
    if len(fields) != places[""]:
        raise ValueError(
            f"{where} has {counted(len(fields), 'field')} and the header {places['']}; put what holds a comma between "
            f'double quotes, as in "a,b.png"'
        )
    path, label = fields[places["path"]], fields[places["label"]].strip()
    if not path:
        raise ValueError(f"{where}: the path is empty; name the image's file, or take the line away")
    candidates = [folder / expand_home(path) for folder in folders]
    image = next((candidate for candidate in candidates[:-1] if candidate.is_file()), candidates[-1])
    if "split" not in places:
        return TableRow(image, label, "" if label else "unlabelled")
    split = match_case(fields[places["split"]].strip(), SPLITS)
    check_choice(f"{where}: split", split, SPLITS)
    if split == "unlabelled" and label:
        raise ValueError(
            f"{where}: an image of the split 'unlabelled' has the label {label!r}, of which no use would be made; "
            f"leave it empty, or write train"
        )
    if split != "unlabelled" and not label:
        raise ValueError(f"{where}: an image of the split {split!r} has no label; give it one, or write unlabelled")
    return TableRow(image, label, split)


def _check_files(file: Path, rows: list[tuple[int, TableRow]], folders: Sequence[Path]) -> None:
    """Refuse images that are not there, and one by two paths, links among them."""
    missing, seen = [], dict[tuple[int, int], tuple[int, TableRow]]()
    for line, row in rows:
        try:
            found = row.path.stat()
        except (OSError, ValueError):  # the latter of a path with a null byte
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            missing.append((line, row.path))
            continue
        first, other = seen.setdefault((found.st_dev, found.st_ino), (line, row))
        if first != line:
            splits = {other.split, row.split} - {""}
            raise ValueError(
                f"{file}, line {line}: {str(row.path)!r} is the image of line {first} already"
                f"{' (' + ' and '.join(sorted(splits)) + ')' if len(splits) > 1 else ''}; take one of the lines away"
            )
    if missing:
        line, path = missing[0]
        raise FileNotFoundError(
            f"{file}, line {line}: there is no file {str(path)!r}; {len(missing)} of {counted(len(rows), 'file')} "
            f"{'is' if len(missing) == 1 else 'are'} missing; paths must be absolute or relative to "
            f"{' or '.join(str(folder.absolute()) for folder in folders)}"
        )
