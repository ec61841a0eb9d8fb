"""Passes over any data loader that can be repeated, because each draws its random numbers from a stream of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mixplug.data.loaders import ImageLoader
from mixplug.data.order import (
    generators_of,
    random_state,
    seeded_state,
    set_epoch,
    set_generators,
    set_random_state,
    stream_of,
)


def repeatable_pass(loader: Iterable, seed: int, epoch: int, again: int = 0) -> Iterator[Any]:
    """The batches of one pass over ``loader``, which leaves all random generators as it found them, its own too.

    Args:
        loader: A DataLoader or whatever else gives batches. Whatever of it has ``set_epoch``, a generator of its own
            or a streaming data set is told which pass this is.
        seed: Of the random numbers that it draws (shuffling, augmentation); an ImageLoader has its own.
        epoch: The epoch.
        again: Counts further passes within one epoch.
    """
    # A prime keeps the further passes of one epoch apart from the passes of the next ones.
    order = epoch + 1_000_003 * again
    if isinstance(loader, ImageLoader):  # draws from generators of its own, so there is nothing to keep apart
        loader.set_epoch(order)
        yield from loader
        return
    own = OwnRandomness(int(np.random.SeedSequence((seed, epoch, again)).generate_state(1)[0]), generators_of(loader))
    with own.in_force():
        stream = stream_of(loader)
        if stream is not None:
            stream.next_epoch = order
        set_epoch(loader, order)
        batches = iter(loader)
    while True:
        with own.in_force():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


class OwnRandomness:
    """Python's, numpy's and torch's (CPU) random numbers, apart from the global ones, and those of ``generators``."""

    def __init__(self, seed: int, generators: Sequence[torch.Generator] = ()) -> None:
        self._state = seeded_state(seed)
        self._generators = generators
        self._states = [torch.Generator(g.device).manual_seed(seed).get_state() for g in generators]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Swap these in for the global ones, and back."""
        outside, theirs = random_state(), [generator.get_state() for generator in self._generators]
        set_random_state(self._state)
        self._set_generators(self._states)
        try:
            yield
        finally:
            self._state, self._states = random_state(), [generator.get_state() for generator in self._generators]
            set_random_state(outside)
            self._set_generators(theirs)

    def _set_generators(self, states: Sequence[torch.Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)


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
