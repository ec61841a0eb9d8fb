"""The data-limitation subset: a random share of the training images (Li et al., section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixplug.checks import check_choice, check_int, check_real, counted

SAMPLINGS = ("uniform", "stratified")


def draw(labels: Tensor, fraction: float, seed: int = 0, sampling: str = "uniform", key: str = "data") -> Tensor:
    """Which images to keep, a function of the arguments.

    Args:
        labels: ``(N,)``, the class of each image.
        fraction: Share to keep, in (0, 1]; ``round(N * fraction)`` images are kept.
        seed: Of the draw.
        sampling: 'uniform' (Li et al.: "randomly select a fraction of p data points") or 'stratified': each class
            keeps its share, up to one image (largest remainders), and at least one where there are enough for all.
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
            f"{key}.fraction={fraction} leaves none of {counted(count, 'training image')}; use at least {1 / count:.2g}"
        )
    return _draw(labels, kept, seed, sampling)


def draw_labels(labels: Tensor, count: int, seed: int = 0, sampling: str = "uniform", key: str = "data") -> Tensor:
    """Which ``count`` images to keep; else as :func:`draw`, whose draw of as many it is.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: it is not from 1 to the number of images, or ``sampling`` is unknown.
    """
    if check_int(f"{key}.labels", count, 1) > len(labels):
        raise ValueError(f"{key}.labels must be at most {len(labels)}, all training images there are, got {count}")
    check_choice(f"{key}.sampling", sampling, SAMPLINGS)
    return _draw(labels, count, seed, sampling)


def draw_per_class(labels: Tensor, count: int, seed: int = 0, key: str = "data") -> Tensor:
    """Which images to keep, ``count`` of each class, in random order.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: it is below 1, or a class has fewer images.
    """
    names, sizes = labels.unique(return_counts=True)
    if check_int(f"{key}.per_class", count, 1) > int(sizes.min()):
        raise ValueError(
            f"{key}.per_class must be at most {int(sizes.min())}, all training images of class "
            f"{int(names[sizes.argmin()])}, got {count}"
        )
    return _draw(labels, count * len(names), seed, "stratified", [count] * len(names))


def split_validation(labels: Sequence[str] | Sequence[int] | Tensor, seed: int = 0, share: float = 0.2) -> Tensor:
    """Which labelled images to hold out of training to choose by, a function of the arguments.

    Classes are held out by their shares (largest remainders), at least one image of each where that many are held out,
    and one at least stays in training: of a class with one image none is held out. Whether these are enough to choose
    by says :func:`is_small_validation`.

    Args:
        labels: The class of each image, numbers or names; or a tensor ``(N,)``.
        seed: Of the draw.
        share: Share to hold out, in (0, 1).

    Returns:
        Indices ``(n,)``, ascending; empty where ``labels`` are too few.

    Raises:
        TypeError: ``share`` is not a number.
        ValueError: it is outside of (0, 1).
    """
    check_real("share", share, 0, 1, low_open=True, high_open=True)
    classes = _numbered(labels)
    if round(len(classes) * share) < 1:
        return torch.empty(0, dtype=torch.long)
    held = draw(classes, share, seed, "stratified")
    whole = [c for c in classes.unique() if (classes[held] == c).sum() == (classes == c).sum()]
    stays = [int((classes[held] == c).nonzero()[0]) for c in whole]
    return held[[place for place in range(len(held)) if place not in stays]].sort().values


def is_small_validation(labels: Sequence[str] | Sequence[int] | Tensor, held_out: Tensor) -> bool:
    """Whether images held out are too few to choose by: below 50 in all, or below 2 of a class.

    Of 50 images an accuracy has a standard error of up to 7 points.

    Args:
        labels: The class of each image, as of :func:`split_validation`.
        held_out: What that returned.
    """
    classes = _numbered(labels)
    counts = torch.bincount(classes[held_out], minlength=len(classes.unique()))
    return len(held_out) < 50 or int(counts.min()) < 2


def _numbered(labels: Sequence[str] | Sequence[int] | Tensor) -> Tensor:
    """Classes as numbers from 0, in their own order."""
    plain = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    numbers = {label: number for number, label in enumerate(sorted({*plain}))}
    return torch.tensor([numbers[label] for label in plain], dtype=torch.long)


def _draw(labels: Tensor, kept: int, seed: int, sampling: str, counts: list[int] | None = None) -> Tensor:
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if sampling == "uniform":
        return order[:kept]
    classes = labels[order]
    names = classes.unique()
    if counts is None:
        sizes = torch.stack([(classes == name).sum() for name in names]).double()
        counts = _shares(sizes, kept, seed)
    members = [order[classes == name][:n] for name, n in zip(names, counts, strict=True)]
    chosen = torch.cat(members)
    return chosen[torch.randperm(kept, generator=torch.Generator().manual_seed(seed))]


def _shares(sizes: Tensor, kept: int, seed: int) -> list[int]:
    """``kept`` images divided among classes of these sizes."""
    share = sizes * (kept / sizes.sum())
    counts = share.floor()
    # What rounding down leaves over goes to the classes that lost most by it, equals in random order.
    random = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    by_loss = random[(counts - share)[random].argsort(stable=True)]
    counts[by_loss[: kept - int(counts.sum())]] += 1
    # A class without any image could not be learned: the largest give it one.
    for empty in random[counts[random] == 0][: kept - len(sizes) + int((counts == 0).sum())].tolist():
        counts[counts.argmax()] -= 1
        counts[empty] += 1
    return [int(n) for n in counts]
