"""``mixplug predict``."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from mixplug.checks import check_choice, check_int, expand_home
from mixplug.lab.cli.console import make_console, print_table
from mixplug.lab.cli.options import Commands
from mixplug.lab.pages.columns import Column, Table


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "predict",
        help="classify images by an exported model",
        epilog="example: mixplug predict runs/digits/train/model.safetensors photos --top 3",
    )
    command.add_argument("model", type=expand_home, metavar="MODEL", help="what mixplug export wrote")
    command.add_argument(
        "images", type=expand_home, nargs="+", metavar="IMAGES", help="image files, and folders of them"
    )
    command.add_argument("--top", type=int, default=1, metavar="N", help="the N likeliest classes (default: 1)")
    command.add_argument("--csv", type=expand_home, metavar="FILE", help="write them there instead of printing a table")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at once (default: 64)")
    command.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read files (default: 0)")
    command.add_argument("--device", help="cpu, gpu or mps (default: gpu where there is one)")
    command.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="that makes a model of your own"
    )
    return command


def run(options: argparse.Namespace) -> None:
    """Predict, and print the table or write the file."""
    top = check_int("--top", options.top, 1)
    check_int("--batch-size", options.batch_size, 1)
    check_int("--workers", options.workers, 0)
    if options.device is not None:
        check_choice("--device", options.device, ("cpu", "gpu", "mps"))
    if options.csv is not None and not options.csv.parent.is_dir():
        raise FileNotFoundError(f"--csv {options.csv}: there is no folder {str(options.csv.parent)!r}")
    import torch

    from mixplug.backbones.predicting import find_images, load_classifier, predict
    from mixplug.lab.recipes.files import find_modules_in

    find_modules_in(Path.cwd(), options.imports)
    classifier = load_classifier(options.model, options.imports)
    device = options.device or ("gpu" if torch.cuda.is_available() else "cpu")
    classifier.model.to("cuda" if device == "gpu" else device)
    paths = find_images(options.images)
    found = predict(classifier, paths, options.batch_size, options.workers)
    titles = ["image", "task", "rank", "class", "probability"]
    rows = [
        (str(path), task, str(rank), classifier.spec.classes[task][best], f"{probability:.4f}")
        for number, path in enumerate(paths)
        for task, probabilities in found.items()
        for rank, (probability, best) in enumerate(
            zip(*(part.tolist() for part in probabilities[number].topk(min(top, probabilities.shape[1]))), strict=True),
            start=1,
        )
    ]
    shown = [title for title in titles if (title != "task" or len(found) > 1) and (title != "rank" or top > 1)]
    columns = {title: [row[titles.index(title)] for row in rows] for title in shown}
    if options.csv is None:
        words = ("image", "task", "class")
        table = Table([Column(title.capitalize(), cells, words=title in words) for title, cells in columns.items()])
        print_table(make_console(), table)
        return
    with options.csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    print(f"The classes of {len(paths)} image{'s' if len(paths) > 1 else ''} are in {options.csv}")
