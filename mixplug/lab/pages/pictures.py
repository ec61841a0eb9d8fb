"""Pictures of images: reconstructions, and the views of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from mixplug.objectives import Reconstruction


def reconstructions(methods: Mapping[str, Reconstruction]) -> Figure:
    """Originals, what the models saw of them, and what each finished model makes of it (Li et al., Fig. 4)."""
    first = next(iter(methods.values()))
    rows = {
        "original": first.original,
        "masked": first.masked,
        **{label: pictures.reconstruction for label, pictures in methods.items()},
    }
    low, high = float(first.original.min()), float(first.original.max())
    count = len(first.original)
    figure = Figure(figsize=(1.1 * count + 2.2, 1.15 * len(rows)), dpi=130, layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (label, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            _show(axes, (image - low) / max(high - low, 1e-12))
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def views(columns: Mapping[str, Tensor], notes: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Images and what random views make of them: a row for each image, draws of a kind side by side.

    Args:
        columns: By heading ``(draws, images, C, H, W)``, in [0, 1]; heights and widths may differ between headings.
        notes: By heading what to write to the right of each image.
    """
    blocks = list(columns.values())
    rows, draws = blocks[0].shape[1], [len(block) for block in blocks]
    # A column of nothing between headings.
    widths = [width for count in draws for width in (*[1.0] * count, 0.2)][:-1]
    figure = Figure(figsize=(1.05 * sum(widths) + 0.1, 1.05 * rows + 0.4), dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    first = 0
    for title, block in columns.items():
        for draw, images in enumerate(block, start=first):
            for row, image in enumerate(images):
                axes = figure.add_subplot(grid[row, draw])
                _show(axes, image)
                if row == 0 and draw == first:
                    axes.set_title(title, fontsize=9, loc="left")
                if notes and title in notes:
                    axes.yaxis.set_label_position("right")
                    axes.set_ylabel(notes[title][row], rotation=0, ha="left", va="center", fontsize=7)
        first += len(block) + 1
    return figure


def _show(axes: Any, image: Tensor) -> None:
    """An image ``(C, H, W)`` in [0, 1]: colours if it has three channels, else their mean."""
    pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    if pixels.shape[-1] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
