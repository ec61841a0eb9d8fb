"""What the processes of a distributed run have to tell each other."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_processes() -> tuple[int, int]:
    """This process's number and how many there are: by the process group or, before there is one, by what launched."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def world_size() -> int:
    """Number of processes, 1 if there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 if there is no process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@torch.no_grad()
def gathered(values: Tensor) -> Tensor:
    """The ``values`` ``(B, ...)`` of all processes in order of rank, ``(W * B, ...)``; they carry no gradient.

    All processes must have as many.
    """
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def gathered_with_gradient(values: Tensor) -> Tensor:
    """What :func:`gathered` returns, with a gradient: each process's values get that of the losses of all processes."""
    return values if world_size() == 1 else _Gathering.apply(values)


class _Gathering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return gathered(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0].contiguous()).chunk(world_size())[rank()]


@torch.no_grad()
def summed(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
