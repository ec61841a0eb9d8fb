"""Self-supervised data: batches stripped of their labels, in an order that a resumed run can repeat."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from mixplug.data.batches import images_of, length_of
from mixplug.data.order import stream_of
from mixplug.data.passes import repeatable_pass
from mixplug.data.pieces import Pieces


class UnlabelledBatches:
    """A data loader's batches as ``[images, zeros]``, whatever came with the images.

    Each pass draws its random numbers (shuffling, augmentation) from a stream of its own, set by :meth:`begin`:
    it can be repeated, and leaves the global random generators as it found them.

    Args:
        loader: Batches of images ``(B, C, H, W)`` alone or ``(images, anything)``.

    Raises:
        TypeError: ``loader`` cannot be iterated over.
        ValueError: ``loader`` is empty.
    """

    def __init__(self, loader: Iterable) -> None:
        if not isinstance(loader, Iterable) or isinstance(loader, (str, bytes, Mapping)):
            raise TypeError(
                f"ssl_dataloader must give batches when iterated over, like a DataLoader; got {type(loader).__name__}"
            )
        if isinstance(loader, Iterator):
            raise TypeError(
                f"ssl_dataloader is a {type(loader).__name__}, which can be passed over only once; give a DataLoader "
                f"or a list of batches, which each epoch can pass over again"
            )
        if length_of(loader) == 0:
            raise ValueError("the ssl_dataloader is empty: it has no batches; give it data or turn off drop_last")
        if _unshuffled(loader):
            warnings.warn(
                "the ssl_dataloader is not shuffled, so each image is mixed with the same partner in every epoch; "
                "build it (or its StreamingDataset) with shuffle=True",
                stacklevel=2,
            )
        self.loader = loader
        self.batch_size = getattr(loader, "batch_size", None)
        self.blank_label: Any = torch.zeros((), dtype=torch.long)
        """What stands in for the label of each image: zeros, here one class."""
        self._stream = (0, 0, 0)

    def begin(self, seed: int, epoch: int, again: int = 0) -> None:
        """Choose the random numbers of the next pass: ``again`` counts further passes within one epoch."""
        self._stream = (seed, epoch, again)

    def __iter__(self) -> Iterator[list[Tensor]]:
        empty = True
        for batch in repeatable_pass(self.loader, *self._stream):
            empty = False
            images = images_of(batch)
            yield [images, tree_map(partial(_repeat, images=images), self.blank_label)]
        if empty:
            raise ValueError("the ssl_dataloader is empty: it gave no batch")

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self.loader).__name__}({length_of(self.loader)} batches)"


class PartnerStream:
    """Partners for the labelled images of one epoch: a function of the seed and the epoch.

    Args:
        data: The unlabelled batches, passed over as often as it takes.
        seed: The run's seed on this rank.
        epoch: The epoch of the labelled data.
    """

    def __init__(self, data: UnlabelledBatches, seed: int, epoch: int) -> None:
        self.epoch = epoch
        self._pieces = Pieces(self._pass_over(data, seed, epoch))

    def draw(self, count: int) -> Tensor:
        """The next ``count`` images, ``(count, C, H, W)``."""
        return self._pieces.draw(count)

    def skip(self, count: int) -> None:
        """Pass over ``count`` images."""
        self._pieces.skip(count)

    @staticmethod
    def _pass_over(data: UnlabelledBatches, seed: int, epoch: int) -> Iterator[Tensor]:
        # Not 0: a sampler seeded by epoch would give labelled data as long as this the very same order, and each
        # image the same partner in every epoch.
        for again in itertools.count(1):
            data.begin(seed, epoch, again)
            for images, _labels in data:
                yield images


def _unshuffled(loader: Any) -> bool:
    stream = stream_of(loader)
    if stream is not None:
        return getattr(stream, "shuffle", None) is False
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    return isinstance(sampler, SequentialSampler) or (isinstance(sampler, DistributedSampler) and not sampler.shuffle)


def _repeat(blank: Tensor, images: Tensor) -> Tensor:
    """``blank`` for each of the images."""
    return torch.zeros(len(images), *blank.shape, dtype=blank.dtype, device=images.device)
