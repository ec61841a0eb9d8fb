"""Batches of any size out of a stream of batches of other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Pieces:
    """Cuts a stream of batches anew.

    Args:
        batches: Tensors, or tuples, lists and mappings of tensors, with a first dimension of samples in common; all of
            one structure. It should not end before what is asked for is drawn.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._waiting: list[list[Tensor]] = []
        self._structure: Any = None

    def draw(self, count: int) -> Any:
        """The next ``count`` samples, as a batch."""
        while sum(len(parts[0]) for parts in self._waiting) < count:
            self._waiting.append(self._next())
        joined = [torch.cat(parts) for parts in zip(*self._waiting, strict=True)]
        self._waiting = [[part[count:] for part in joined]]
        return tree_unflatten([part[:count] for part in joined], self._structure)

    def skip(self, count: int) -> None:
        """Pass over ``count`` samples, holding no more than a batch of them."""
        while count:
            parts = self._waiting.pop(0) if self._waiting else self._next()
            if len(parts[0]) > count:
                self._waiting.insert(0, [part[count:] for part in parts])
            count -= min(count, len(parts[0]))

    def _next(self) -> list[Tensor]:
        batch = next(self._batches)
        parts, self._structure = tree_flatten(batch)
        if not parts or not all(isinstance(part, Tensor) and part.ndim for part in parts):
            kinds = sorted({type(part).__name__ for part in parts})
            raise TypeError(f"a batch to be cut must consist of tensors with a sample in each row, got {kinds}")
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                f"a batch to be cut must have as many rows in each tensor, got {[tuple(part.shape) for part in parts]}"
            )
        return parts
