"""Self-supervised data: batches stripped of their labels, and a reproducible stream of mixing partners."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler


class UnlabelledBatches:
    """A data loader's batches as ``[images, zeros]``, whatever came with the images.

    Args:
        loader: Batches of images ``(B, C, H, W)`` alone or ``(images, anything)``.

    Raises:
        TypeError: ``loader`` cannot be iterated over.
        ValueError: ``loader`` is empty.
    """

    def __init__(self, loader: Iterable) -> None:
        if not isinstance(loader, Iterable):
            raise TypeError(
                f"ssl_dataloader must give batches when iterated over, like a DataLoader; got {type(loader).__name__}"
            )
        if length_of(loader) == 0:
            raise ValueError("the ssl_dataloader is empty: it has no batches; give it data or turn off drop_last")
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, SequentialSampler):
            warnings.warn(
                "the ssl_dataloader is not shuffled, so each image is mixed with the same partner in every epoch; "
                "build it with shuffle=True",
                stacklevel=2,
            )
        self.loader = loader
        self.batch_size = getattr(loader, "batch_size", None)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in self.loader:
            images = images_of(batch)
            yield [images, torch.zeros(len(images), dtype=torch.long, device=images.device)]

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler the epoch, as Composer does for a DataLoader."""
        for holder in (getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)):
            sampler = getattr(holder, "sampler", holder)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def __repr__(self) -> str:
        return f"{type(self.loader).__name__}({length_of(self.loader)} batches)"


class PartnerStream:
    """Partners for one epoch's images: passes over unlabelled data, drawn with random numbers of its own.

    The stream is a function of ``seed`` and ``epoch``: it can be opened again in mid-epoch with :meth:`skip`,
    and leaves the global random generators as it found them.

    Args:
        data: The unlabelled batches, passed over as often as it takes.
        epoch: The epoch of the labelled data.
        seed: The run's seed on this rank.
    """

    def __init__(self, data: UnlabelledBatches, epoch: int, seed: int) -> None:
        self.epoch = epoch
        self._data = data
        self._passes = 0
        self._batches: Iterator[list[Tensor]] = iter(())
        self._waiting: Tensor | None = None
        stream_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        self._random_state = _random_state_of(stream_seed)

    def draw(self, count: int) -> Tensor:
        """The next ``count`` images, ``(count, C, H, W)``.

        Raises:
            ValueError: the data gave no batch.
        """
        parts = [] if self._waiting is None else [self._waiting]
        have = sum(len(part) for part in parts)
        with self._own_randomness():
            while have < count:
                parts.append(self._next_batch())
                have += len(parts[-1])
        images = parts[0] if len(parts) == 1 else torch.cat(parts)
        self._waiting = images[count:] if have > count else None
        return images[:count]

    def skip(self, count: int) -> None:
        """Pass over ``count`` images."""
        if count:
            self.draw(count)

    def _next_batch(self) -> Tensor:
        for _ in range(2):
            for images, _labels in self._batches:
                return images
            # A prime keeps the passes of one epoch apart from the first passes of the next ones.
            self._data.set_epoch(self.epoch + 1_000_003 * self._passes)
            self._batches = iter(self._data)
            self._passes += 1
        raise ValueError("the ssl_dataloader is empty: it gave no batch")

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        outside = _get_random_state()
        _set_random_state(self._random_state)
        try:
            yield
        finally:
            self._random_state = _get_random_state()
            _set_random_state(outside)


def images_of(batch: Any) -> Tensor:
    """The images of a batch that is a tensor, or a tuple or list that begins with one.

    Raises:
        TypeError: it is something else.
    """
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor):
        raise TypeError(
            f"an SSL batch must be a tensor of images or begin with one, (images, ...); got {type(batch).__name__}"
        )
    return images


def length_of(loader: Any) -> int | None:
    """Batches of a pass, or None if the loader does not know."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _random_state_of(seed: int) -> tuple[Any, ...]:
    python = random.Random(seed).getstate()
    numpy = np.random.RandomState(seed).get_state()
    return python, numpy, torch.Generator().manual_seed(seed).get_state()


def _get_random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_random_state(state: tuple[Any, ...]) -> None:
    python, numpy, cpu = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
