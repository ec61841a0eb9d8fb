"""Mixing functions: how one batch is made of SL and SSL images (Li et al., Eq. 2)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mixplug.checks import check_real


class MixingFunction(Protocol):
    """g(D_ssl, D_sl) on a batch: any callable of this shape may be plugged in.

    Args:
        x_sl: Labelled images, ``(B, C, H, W)``; their labels stay the batch's labels.
        x_ssl: One self-supervised partner for each image, same shape.
        lam: Share of ``x_sl`` in [0, 1].

    Returns:
        The batch to train on, ``(B, C, H, W)``.
    """

    def __call__(self, x_sl: Tensor, x_ssl: Tensor, lam: float) -> Tensor:
        """Mix."""
        ...


def mixup_ssl(x_sl: Tensor, x_ssl: Tensor | None = None, lam: float = 0.5) -> Tensor:
    """``lam * x_sl + (1 - lam) * x_ssl`` (Li et al., Eq. 2; they use lam = 0.5).

    For equal data sets the paper sets ``g(D_ssl, D_sl) = D_sl``: without partners, or with the batch itself
    as its partners, ``x_sl`` is returned as it is.

    Args:
        x_sl: Labelled images, floating point, ``(B, C, H, W)``.
        x_ssl: Partners of the same shape, or None.
        lam: Share of ``x_sl`` in [0, 1].

    Raises:
        TypeError: images are integers (normalise them first).
        ValueError: the shapes differ or ``lam`` is outside of [0, 1].
    """
    check_real("lam", lam, 0, 1)
    if x_ssl is None or x_ssl is x_sl:
        return x_sl
    if x_ssl.shape != x_sl.shape:
        raise ValueError(
            f"images to mix must have one shape: the SL images are {tuple(x_sl.shape)}, the SSL images "
            f"{tuple(x_ssl.shape)}; resize one of the data sets"
        )
    if not (x_sl.is_floating_point() and x_ssl.is_floating_point()):
        raise TypeError(
            f"images to mix must be floating point, got {x_sl.dtype} (SL) and {x_ssl.dtype} (SSL); normalise "
            f"them in the data set first"
        )
    return lam * x_sl + (1 - lam) * x_ssl.to(x_sl)
