"""Counting operations without computing anything: on tensors that have shapes but no values (torch's meta device)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixplug.backbones.base import Backbone, PassRequest
from mixplug.backbones.selection import random_tokens
from mixplug.schedules.phases import Phase, Position


class _OneModule(nullcontext[None]):
    """Takes all that is computed for one module's."""

    parents = frozenset({"Global"})


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count the floating-point operations of the block: matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    # Nobody asks which module computes what, and telling it takes hooks that torch.autograd.grad refuses.
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]
    # The counter knows no attention kernel of the CPU; as plain products it is the same number everywhere.
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield counter


def encoder_flops(backbone: Backbone, shape: tuple[int, int, int], share: float = 1.0, gradient: bool = False) -> float:
    """Floating-point operations of a pass over the encoder, for one image.

    Args:
        backbone: The adapter of the encoder.
        shape: Channels, height and width of the image.
        share: Of the patch tokens that the encoder sees, in (0, 1]; below 1 for vision transformers alone.
        gradient: Whether the backward pass counts too: about 3 times as much.
    """
    copied = copy.deepcopy(backbone)
    copied.model.to("meta")
    copied.attach()
    request = PassRequest(Position(Phase.SL), select=None if share == 1 else random_tokens(share))
    with counting_flops() as counter, torch.set_grad_enabled(gradient):
        output = copied.encode(torch.zeros(2, *shape, device="meta"), request).output
        if gradient:
            output.sum().backward()
    return counter.get_total_flops() / 2
