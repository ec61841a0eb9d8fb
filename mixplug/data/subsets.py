"""The data-limitation subset: a random share of the training images (Li et al., section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from mixplug.checks import check_choice, check_real

SAMPLINGS = ("uniform", "stratified")


def draw(labels: Tensor, fraction: float, seed: int = 0, sampling: str = "uniform", key: str = "data") -> Tensor:
    """Which images to keep, a function of the arguments.

    Args:
        labels: ``(N,)``, the class of each image.
        fraction: Share to keep, in (0, 1]; ``round(N * fraction)`` images are kept.
        seed: Of the draw.
        sampling: 'uniform' (Li et al.: "randomly select a fraction of p data points") or 'stratified': each class
            keeps its share, up to one image (largest remainders).
        key: What messages call the settings of these images.

    Returns:
        Indices ``(n,)`` in random order; all in their own order where ``fraction`` is 1.

    Raises:
        TypeError: ``fraction`` is not a number.
        ValueError: it is outside of (0, 1] or leaves no image, or ``sampling`` is unknown.
    """
    check_real(f"{key}.fraction", fraction, 0, 1, low_open=True)
    check_choice(f"{key}.sampling", sampling, SAMPLINGS)
    count = len(labels)
    if fraction == 1:
        return torch.arange(count)
    kept = round(count * fraction)
    if kept < 1:
        raise ValueError(
            f"{key}.fraction={fraction} leaves none of the {count} training images; use at least {1 / count:.2g}"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if sampling == "uniform":
        return order[:kept]
    classes = labels[order]
    names = classes.unique()
    sizes = torch.stack([(classes == name).sum() for name in names]).double()
    share = sizes * (kept / count)
    counts = share.floor()
    # What rounding down leaves over goes to the classes that lost most by it, equals in random order.
    random = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    by_loss = random[(counts - share)[random].argsort(stable=True)]
    counts[by_loss[: kept - int(counts.sum())]] += 1
    members = [order[classes == name][: int(n)] for name, n in zip(names, counts, strict=True)]
    chosen = torch.cat(members)
    return chosen[torch.randperm(kept, generator=torch.Generator().manual_seed(seed))]
