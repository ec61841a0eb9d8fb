"""Labelled and unlabelled batches that go together, in an order that a resumed run can repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from mixplug.data.passes import repeatable_pass
from mixplug.data.pieces import Pieces
from mixplug.data.unlabelled import UnlabelledBatches


class SideBySideBatches:
    """Labelled batches, one for each batch of unlabelled images, which waits in :attr:`images`.

    A pass is one over the unlabelled data. The labelled data is passed over as often as that takes, a new order each
    time, so within a pass each labelled image comes as often as any other, or once more.

    Args:
        unlabelled: The unlabelled batches.
        labelled: Batches of the labelled data, of any size; tensors, or tuples, lists and mappings of them.
        labelled_per_step: Labelled images of a batch.

    Attributes:
        images: The unlabelled images that go with the batch that came last, ``(B', C, H, W)``.
    """

    def __init__(self, unlabelled: UnlabelledBatches, labelled: Iterable, labelled_per_step: int) -> None:
        self.unlabelled, self.labelled = unlabelled, labelled
        self.labelled_per_step = labelled_per_step
        self.batch_size = labelled_per_step
        self.images: Tensor | None = None
        self._stream = (0, 0)

    def begin(self, seed: int, epoch: int) -> None:
        """Choose the random numbers of the next pass."""
        self._stream = (seed, epoch)

    def __iter__(self) -> Iterator[Any]:
        seed, epoch = self._stream
        pieces = Pieces(self._labelled_batches(seed, epoch))
        self.unlabelled.begin(seed, epoch)
        for images, _blank in self.unlabelled:
            self.images = images
            yield pieces.draw(self.labelled_per_step)

    def _labelled_batches(self, seed: int, epoch: int) -> Iterator[Any]:
        for again in itertools.count(1):
            empty = True
            for batch in repeatable_pass(self.labelled, seed, epoch, again):
                empty = False
                yield batch
            if empty:
                raise ValueError("the train_dataloader is empty: it gave no batch")

    def __len__(self) -> int:
        return len(self.unlabelled)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.unlabelled!r}, labelled_per_step={self.labelled_per_step})"
