"""The data-limitation subset: a random share of the training images (Li et al., section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from mixplug.checks import check_choice, check_real

SAMPLINGS = ("uniform", "stratified")


def draw(labels: Tensor, fraction: float, seed: int = 0, sampling: str = "uniform") -> Tensor:
    """Which images to keep, a function of the arguments.

    Args:
        labels: ``(N,)``, the class of each image.
        fraction: Share to keep, in (0, 1]; ``round(N * fraction)`` images are kept.
        seed: Of the draw.
        sampling: 'uniform' (Li et al.: "randomly select a fraction of p data points") or 'stratified': each class
            keeps its share, up to one image.

    Returns:
        Indices ``(n,)`` in random order; all in their own order where ``fraction`` is 1.

    Raises:
        TypeError: ``fraction`` is not a number.
        ValueError: it is outside of (0, 1] or leaves no image, or ``sampling`` is unknown.
    """
    check_real("data.fraction", fraction, 0, 1, low_open=True)
    check_choice("data.sampling", sampling, SAMPLINGS)
    count = len(labels)
    if fraction == 1:
        return torch.arange(count)
    kept = round(count * fraction)
    if kept < 1:
        raise ValueError(
            f"data.fraction={fraction} leaves none of the {count} training images; use at least {1 / count:.2g}"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if sampling == "uniform":
        return order[:kept]
    # An image's rank among those of its class, over the class's size: the first `kept` by it take equal shares.
    classes = labels[order]
    rank = torch.empty(count, dtype=torch.float64)
    for label in classes.unique():
        members = (classes == label).nonzero().squeeze(1)
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    # A stable sort keeps the random order among equals, so no class is favoured in what rounding leaves over.
    return order[rank.argsort(stable=True)[:kept]]
