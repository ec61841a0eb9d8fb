"""Of several views of each image, the pair that an objective finds hardest (Kocyigit et al., 2022, Eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hardest_pair(
    views: Sequence[Tensor], pairs: Sequence[tuple[int, int]], scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's views of its pair with the highest score; of equal ones the first.

    Args:
        views: ``(B, C, H, W)`` each.
        pairs: Numbers of two views each.
        scores: ``(pairs, B)``, how hard each pair is for each image.

    Returns:
        The first and the second view of the pairs, ``(B, C, H, W)`` each, and which pair it is, ``(B,)``.
    """
    chosen = scores.argmax(dim=0)
    first, second = torch.tensor(pairs, device=chosen.device).T
    every, image = torch.stack(list(views)), torch.arange(scores.shape[1], device=chosen.device)
    return every[first[chosen], image], every[second[chosen], image], chosen


def selection_overhead(views: int, select_size: int, size: int, cost: float = 6.0) -> float:
    """What choosing costs on top of a step by Eq. 11, ``m * r_sel^2 / (r^2 * C)``: 0.054 for 4 views at 64 of 224.

    Args:
        views: How many there are, m.
        select_size: Side of the images by which pairs are scored, in pixels.
        size: Side of the images that are trained on.
        cost: Of a step, in forward passes of an image; two with gradient are 6.
    """
    return views * select_size**2 / (size**2 * cost)
