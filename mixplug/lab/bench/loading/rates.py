"""Images per second of two ways to the same batches, measured by turns; what the benchmarks have in common."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from mixplug.checks import check_int
from mixplug.lab.runs.environment import describe_environment


@dataclass(frozen=True)
class Rates:
    """Images per second, repeat by repeat.

    Attributes:
        ours: Of mixplug's way.
        theirs: Of torchvision.
        name: What ours is called.
    """

    ours: list[float]
    theirs: list[float]
    name: str = "ImageLoader"

    @property
    def ratios(self) -> list[float]:
        """How many times faster ours was, in each repeat."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def lines(self) -> list[str]:
        """Medians and quartiles, in words."""
        rows = (
            (self.name, self.ours, ",.0f", " images/s"),
            ("torchvision, PIL", self.theirs, ",.0f", " images/s"),
            ("ratio", self.ratios, ".1f", ""),
        )
        return [f"{name:<17} {_spread(values, form, unit)}" for name, values, form, unit in rows]


def by_turns(ours: Iterable, theirs: Iterable, repeats: int, device: torch.device, name: str = "ImageLoader") -> Rates:
    """Pass over both by turns, once each before the clock runs, so that whatever else the machine does meets both.

    Args:
        ours: Batches, each a sequence of tensors of equally many images or labels.
        theirs: Those of torchvision.
        repeats: Passes over each.
        device: Where the batches have to be.
        name: What ours is called.
    """
    for loader in (ours, theirs):
        _rate(loader, device)
    rates = [[_rate(loader, device) for loader in (ours, theirs)] for _ in range(repeats)]
    first, second = zip(*rates, strict=True)
    return Rates(list(first), list(second), name)


@dataclass(frozen=True)
class Settings:
    """What a benchmark is asked for on the command line.

    Attributes:
        images: Number of images in a pass.
        size: Their height and width.
        batch_size: Images of a batch.
        repeats: Passes over each.
        device: Where the batches have to be.
        at_least: The median ratio below which it fails, None for none.
    """

    images: int
    size: int
    batch_size: int
    repeats: int
    device: torch.device
    at_least: float | None


def add_settings(parser: argparse.ArgumentParser, images: int) -> None:
    """Give a benchmark's command line its options.

    Args:
        parser: Of the command line.
        images: How many images a pass has by default.
    """
    parser.add_argument("--images", type=int, default=images, help="images in a pass (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="their height and width (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="passes over each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the batches have to be (default: %(default)s)")
    parser.add_argument("--at-least", type=float, metavar="RATIO", help="fail if the median ratio is below this")


def read_settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Settings:
    """The settings in ``options``; what is wrong with them ends the command with exit code 2."""
    try:
        numbers = [check_int(f"--{name}", getattr(options, name.replace("-", "_")), 1) for name in _NUMBERS]
        device = torch.device(options.device)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: there is no GPU; use --device cpu")
    images, size, batch_size, repeats = numbers
    return Settings(images, size, batch_size, repeats, device, options.at_least)


def conclude(rates: Rates, settings: Settings) -> int:
    """Print what was measured, and where; 1 if the ratio is below what was asked for, else 0."""
    print("\n".join(rates.lines()))
    print(_environment())
    if settings.at_least is not None and np.median(rates.ratios) < settings.at_least:
        print(f"the ratio is below {settings.at_least:g}", file=sys.stderr)
        return 1
    return 0


_NUMBERS = ("images", "size", "batch-size", "repeats")


def _rate(loader: Iterable[Sequence[torch.Tensor]], device: torch.device) -> float:
    start, count = time.perf_counter(), 0
    for batch in loader:
        moved = [part.to(device) for part in batch]
        count += len(moved[0])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - start)


def _spread(values: Sequence[float], form: str, unit: str) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:{form}}{unit} (quartiles {low:{form}} to {high:{form}})"


def _environment() -> str:
    described = describe_environment()
    machine, versions = described["machine"], described["versions"]
    parts = [machine["processor"], f"{machine['cores']} cores", f"threads used: {machine['threads']}", machine["gpu"]]
    parts += [f"torch {versions['torch']}", *(f"{name} {version(name)}" for name in ("torchvision", "pillow"))]
    return ", ".join([*filter(None, parts), described["date"]])
