"""Pictures of what a classifier takes for something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from mixplug.data.images import read_square

_EACH = 6
"""Images of a pair of classes."""


@dataclass(frozen=True)
class Mistakes:
    """What a classifier says of images that it did not learn from.

    Attributes:
        paths: The images, N files.
        labels: ``(N,)``, what they are.
        probabilities: ``(N, classes)``, what the classifier says.
        names: Of the classes.
    """

    paths: Sequence[Path]
    labels: Tensor
    probabilities: Tensor
    names: Sequence[str]

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float((self.probabilities.argmax(1) == self.labels).double().mean())

    def confused(self, count: int) -> list[tuple[str, str, list[int]]]:
        """The pairs of classes that are taken for each other most: the true one, the other, and which images."""
        said = self.probabilities.argmax(1).tolist()
        pairs = Counter((true, other) for true, other in zip(self.labels.tolist(), said, strict=True) if true != other)
        both = list(zip(self.labels.tolist(), said, strict=True))
        return [
            (self.names[pair[0]], self.names[pair[1]], [index for index, found in enumerate(both) if found == pair])
            for pair, _ in pairs.most_common(count)
        ]

    def worst(self, count: int) -> list[int]:
        """The images that it is wrong about and surest of."""
        sure, said = self.probabilities.max(1)
        wrong = (said != self.labels).nonzero().flatten().tolist()
        return sorted(wrong, key=lambda index: -float(sure[index]))[:count]


def draw_confused(mistakes: Mistakes, count: int = 5) -> Figure | None:
    """The most confused pairs of classes, a row of images each; None where nothing is confused."""
    pairs = mistakes.confused(count)
    if not pairs:
        return None
    figure = Figure(figsize=(1.1 * _EACH + 3.2, 1.15 * len(pairs)), dpi=130, layout="constrained")
    grid = figure.subplots(len(pairs), _EACH, squeeze=False)
    for line, (true, other, which) in zip(grid, pairs, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, index in zip(line, which, strict=False):
            axes.set_axis_on()
            _show(axes, mistakes.paths[index])
        label = f"{true}, taken for\n{other}: {len(which)} times"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    return figure


def draw_worst(mistakes: Mistakes, count: int = 12) -> Figure | None:
    """The images that the classifier is wrong about and surest of; None where it is right about all."""
    which = mistakes.worst(count)
    if not which:
        return None
    columns = min(6, len(which))
    rows = -(-len(which) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(which) :]:
        axes.set_axis_off()
    for axes, index in zip(grid, which, strict=False):
        _show(axes, mistakes.paths[index])
        sure, said = mistakes.probabilities[index].max(0)
        true = mistakes.names[int(mistakes.labels[index])]
        title = f"{true}\n{mistakes.names[int(said)]}, {100 * float(sure):.0f}%"
        axes.set_title(title, fontsize=7, parse_math=False)
    return figure


def _show(axes: Any, path: Path) -> None:
    axes.imshow(read_square(path, None))
    axes.set_xticks([])
    axes.set_yticks([])
