"""Which patch tokens of an image the encoder sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mixplug.checks import check_int, check_real

TokenSelector = Callable[[int, int, torch.device], Tensor]
"""``(batch, patches, device) -> (batch, kept)``: indices of the patch tokens that are kept."""


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather ``tokens`` ``(B, N, D)`` at ``index`` ``(B, n)`` to ``(B, n, D)``."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def random_tokens(share: float, *, hidden: int = 0) -> TokenSelector:
    """A selector of a random ``floor(patches * share)`` patches of each image, another draw for each.

    He et al.'s shuffle: the first of a random order, drawn from torch's global generator of the device.

    Args:
        share: Of the patches, in [0, 1]; at least one is always kept.
        hidden: How many are hidden at least.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; when called, an image has no more patches than ``hidden``.
    """
    length = _as_length(check_real("share", share, 0, 1))
    return partial(_random_share, share=length, hidden=check_int("hidden", hidden, 0))


def random_visible(batch: int, patches: int, device: torch.device, *, ratio: float) -> Tensor:
    """Indices ``(batch, n)`` of a random ``n = floor(patches * (1 - ratio))`` patches of each image.

    n is held in [1, patches - 1], so that there is always something to see and something to predict.

    Raises:
        ValueError: an image has a single patch.
    """
    return random_tokens(1 - ratio, hidden=1)(batch, patches, device)


def _as_length(share: float) -> Tensor:
    """``share`` in millionths, as the length of a tensor without elements.

    torch.compile keeps lengths symbolic, but takes numbers that it finds by way of a module for constants: a ramp
    would recompile at each step.
    """
    return torch.empty(round(1e6 * share), 0)


def _random_share(batch: int, patches: int, device: torch.device, *, share: Tensor, hidden: int) -> Tensor:
    if patches <= hidden:
        raise ValueError(f"an image of {patches} patch(es) has nothing to hide: use smaller patches or larger images")
    kept = min(max((patches * share.shape[0] + patches) // 1_000_000, 1), patches - hidden)
    return torch.rand(batch, patches, device=device).argsort(dim=1)[:, :kept]
