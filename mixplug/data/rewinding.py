"""A data loader whose next pass is one that began earlier: what a run resumed in mid-epoch needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from mixplug.data.randomness import random_state, set_random_state
from mixplug.data.streams import stream_of


def order_of(loader: Any) -> dict[str, Any]:
    """What decides the order and the random transforms of ``loader``'s next pass, as tensors and primitives."""
    return {"random": random_state(), "generators": [g.get_state() for g in generators_of(loader)]}


def set_generators(loader: Any, states: list[torch.Tensor]) -> None:
    """Put back the generators that are ``loader``'s own."""
    for generator, state in zip(generators_of(loader), states, strict=False):
        generator.set_state(state)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the loader and its samplers which epoch the next pass is, if they can be told."""
    for holder in samplers_of(loader):
        if hasattr(holder, "set_epoch"):
            holder.set_epoch(epoch)


def samplers_of(loader: Any) -> list[Any]:
    """The loader and its samplers: whatever may have an epoch or a generator to set."""
    outer = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    return [holder for holder in (*outer, getattr(outer[2], "sampler", None)) if holder is not None]


def is_sharded(loader: Any) -> bool:
    """Whether several processes get images of their own; what is no DataLoader of map-style data sees to it itself."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return True
    return any(isinstance(holder, DistributedSampler) for holder in samplers_of(loader))


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random generators that a loader or its samplers were given, each once."""
    held = (getattr(holder, "generator", None) for holder in samplers_of(loader))
    return list({id(g): g for g in held if isinstance(g, torch.Generator)}.values())


class RewoundLoader:
    """``loader``, whose passes all begin with the order that :func:`order_of` found at the start of an epoch.

    Args:
        loader: The loader to pass over.
        order: Its order at the start of the epoch.
        epoch: That epoch, for samplers that are told it.
        again: Batches at the beginning that were trained before.
        after: The random numbers (None if somebody else sees to them) and the loader's generators after those.
    """

    def __init__(
        self,
        loader: Any,
        order: dict[str, Any],
        epoch: int,
        again: int,
        after: tuple[dict[str, Any] | None, list[torch.Tensor]],
    ) -> None:
        self.loader = loader
        self.order = order
        self.epoch = epoch
        self.again = again
        self.after = after

    def __iter__(self) -> Iterator[Any]:
        set_epoch(self.loader, self.epoch)
        stream = stream_of(self.loader)
        if stream is not None:
            stream.next_epoch = self.epoch
        set_random_state(self.order["random"])
        set_generators(self.loader, self.order["generators"])
        for count, batch in enumerate(self.loader, start=1):
            if count == self.again:  # now: Composer may ask for no more than these
                random, generators = self.after
                set_generators(self.loader, generators)
                if random is not None:
                    set_random_state(random)
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
