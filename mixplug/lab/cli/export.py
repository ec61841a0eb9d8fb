"""``mixplug export``."""

from __future__ import annotations

import argparse

from mixplug.checks import expand_home
from mixplug.lab.cli.options import Commands, check_checkpoint


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "export",
        help="write the model of a training as one file, for mixplug predict",
        epilog="example: mixplug export runs/digits/train",
    )
    command.add_argument(
        "training", type=expand_home, metavar="RUN", help="the folder of a training, or one of its checkpoints"
    )
    command.add_argument(
        "--out",
        type=expand_home,
        metavar="FILE",
        help="a .safetensors file (default: model*, beside the checkpoint)",
    )
    return command


def run(options: argparse.Namespace) -> None:
    """Export, and say what the model is and how to use it."""
    checkpoint = options.training / "checkpoint.pt" if options.training.is_dir() else options.training
    made = options.training / "model.safetensors"
    if options.training.is_dir() and not checkpoint.exists() and made.exists():
        raise FileNotFoundError(f"{options.training} holds no checkpoint.pt, but a model that is exported: {made}")
    check_checkpoint(checkpoint)
    out = options.out or checkpoint.with_name(f"{checkpoint.stem.replace('checkpoint', 'model')}.safetensors")
    from mixplug.backbones.exporting import export
    from mixplug.backbones.predicting import load_classifier, read_description

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}.part{out.suffix}")
    try:
        spec, needs = read_description(export(checkpoint, part))
        if not needs:
            load_classifier(part)  # a file that could not be used is none
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    for task, names in spec.classes.items():
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"{task + ': ' if task else ''}{len(names)} classes ({shown})")
    sides = " x ".join(map(str, spec.shape[1:]))
    print(f"{spec.name}, images of {sides} pixels and {spec.shape[0]} channel{'s' if spec.shape[0] > 1 else ''}")
    allowed = f" --import {needs}" if needs else ""
    if needs:
        print(f"It is made by {spec.name}: whoever loads it needs the module {needs!r}")
    print(f"The model is {out}; mixplug predict {out} IMAGES...{allowed}")
