"""The images of a fit: which to learn from, which to judge by, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixplug.checks import counted
from mixplug.data.discovery import FoundImages
from mixplug.data.images import digest_of, file_size, read_square
from mixplug.data.subsets import is_small_validation, split_validation
from mixplug.data.tables import TableRow

_FLATTERING = "The method was chosen by them too, so its accuracy is a little flattering."


def split_images(found: FoundImages, seed: int) -> tuple[list[TableRow], list[TableRow], str]:
    """The images of the pilots and of the last training, each with those to judge by, and that in words."""
    labelled = [row for row in found.rows if row.split in ("", "train")]
    test, others = of_split(found.rows, "test"), of_split(found.rows, "unlabelled")
    labels = [row.label for row in labelled]
    held = split_validation(labels, seed)
    if not len(held):
        raise ValueError(
            f"{found.folder} has {counted(len(labelled), 'labelled image')} of {len(found.classes)} classes, too few "
            f"to hold some out by which methods are judged; label five at least, and two of a class"
        )
    out = set(held.tolist())
    training = [row._replace(split="train") for n, row in enumerate(labelled) if n not in out]
    validation = [row._replace(split="test") for n, row in enumerate(labelled) if n in out]
    pilots = [*training, *validation, *others]
    share = f"{counted(len(held), 'labelled image')} of {len(labelled)}, held out"
    if is_small_validation(labels, held):
        share += ", so few that close methods cannot be told apart"
    if not test:
        return (
            pilots,
            pilots,
            f"There are no test images: pilots and the last model are judged by {share}. " + _FLATTERING,
        )
    last = f"the last model, trained on all, by {counted(len(test), 'test image')}"
    rows = [*(row._replace(split="train") for row in labelled), *test, *others]
    return pilots, rows, f"Pilots are judged by {share}; {last}."


def of_split(rows: Sequence[TableRow], split: str) -> list[TableRow]:
    """The rows of a split."""
    return [row for row in rows if row.split == split]


def describe_images(found: FoundImages) -> str:
    """What a folder holds, in a sentence."""
    counts = {split: len(of_split(found.rows, split)) for split in ("test", "unlabelled")}
    fewest, most = min(found.classes.values()), max(found.classes.values())
    per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return (
        f"{found.folder.resolve().name}: {sum(found.classes.values())} labelled images of {len(found.classes)} classes "
        f"({per_class} of each), {counts['test']} to test on, {counts['unlabelled']} without labels; about "
        f"{found.width} x {found.height} pixels"
    )


def are_grey(paths: Sequence[Path]) -> bool:
    """Whether all of some images have no colours."""
    for path in paths:
        red, green, blue = (band.tobytes() for band in read_square(path, None).split())
        if not red == green == blue:
            return False
    return True


def describe_rows(rows: Sequence[TableRow]) -> str:
    """Of files and labels: of others of them a fit is another one."""
    facts = ((str(row.path.resolve()), file_size(row.path), row.label, row.split) for row in rows)
    return f"files and labels {digest_of(facts)}"
