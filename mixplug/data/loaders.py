"""Small images kept whole in memory, on the training device if wanted, and augmented there a batch at a time.

Per-image transforms in worker processes are the usual bottleneck for small images. Here a batch is cut, mirrored and
normalised by a few operations on all of it, wherever the images lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, default_collate

from mixplug.checks import check_int, check_mean, check_std
from mixplug.data.processes import rank_and_processes
from mixplug.views.augmentation import crop, flip, normalise, resize


class ImageLoader(DataLoader):
    """Batches ``[images, labels]`` out of a tensor of uint8 images, for a Trainer or a hand-written loop.

    It is a ``DataLoader`` whose batches are made in this process, on ``device``: images ``(B, C, H, W)``, float32, cut,
    mirrored, normalised and resized in this order, with their labels. Composer moves them if its own device is another.

    **Length.** ``len(loader)`` is the number of batches that this process gets in a pass, and ``batch_size`` the images
    of each (Composer's default microbatch). What is kept is a byte per pixel, not copied if it lies on ``device``
    already, and during a pass 8 bytes for each image of the process.

    **Order.** ``loader.sampler`` is a ``DistributedSampler``, with one process too: of the order of an epoch each of P
    processes gets every P-th image. A pass is a function of the seed and the epoch. Composer says which epoch it is (in
    evaluation, the number of the batch), mixplug which one of SSL data; in a hand-written loop :meth:`set_epoch` does,
    and without it passes count themselves, 0, 1, 2, ... Random windows and flips are drawn for the images of all
    processes, so those of a total batch do not depend on P. No global generator is read or changed.

    **The end of a pass.** With ``drop_last=False`` every image is seen and the last batch may be smaller. If P does not
    divide the images, the order is filled up from its beginning, so that all processes have equally many: in training
    up to P - 1 images are repeated. Composer's evaluation leaves the repetitions out, so metrics count each image
    once; its ``predict`` does not. With ``drop_last=True`` no image is seen twice and all batches are full: those that
    are left over, others in each shuffled epoch, are not seen.

    **Resumption.** A batch is a function of the seed, the epoch and its place in the pass, not of the batches before.
    Composer resumes in the middle of any epoch by making the batches before again, and goes on with the very next one,
    with mixplug's algorithms or without; a hand-written loop does so by ``set_epoch(epoch)`` and
    ``itertools.islice(loader, batch, None)``.

    **Not supported.** Worker processes, which it does without, and what changes the data set itself: Composer's
    ``RandAugment`` and ``AugMix`` say so.

    Args:
        images: ``(N, C, H, W)``, uint8.
        labels: ``(N, ...)``, on any device.
        batch_size: Images of a batch in each process.
        mean: What is subtracted from images in [0, 1], one number in [0, 1] for each channel (sequence, array, tensor).
        std: What they are then divided by, each in (0, 1].
        shuffle: A new order in each epoch; else the order of ``images``.
        crop_padding: Pixels of black around an image out of which a random window of its size is cut; 0 for none.
        flip: Mirror each image left to right with probability 1/2.
        size: Height and width to resize to (bilinear, antialiased), None for the images' own.
        drop_last: Leave out what fills no batch in each process.
        device: Where images are kept and batches made, None for where ``images`` are.
        seed: Of order and augmentation, at least 0.

    Raises:
        TypeError: ``images`` is not a uint8 tensor, ``labels`` no tensor, or a number has the wrong type.
        ValueError: shapes do not match, or a number is out of range.
        RuntimeError: when iterated over, the number of processes is not that of when the loader was built.

    Example:
        >>> images, labels = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
        >>> loader = ImageLoader(images, labels, 4, mean=(0.3,), std=(0.3,), shuffle=True, crop_padding=4, flip=True)
        >>> [tuple(batch.shape) for batch, _ in loader]
        [(4, 1, 28, 28), (4, 1, 28, 28), (2, 1, 28, 28)]
    """

    sampler: DistributedSampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        crop_padding: int = 0,
        flip: bool = False,
        size: int | None = None,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        _check_data(images, labels)
        channels = images.shape[1]
        check_int("batch_size", batch_size, 1)
        self.crop_padding = check_int("crop_padding", crop_padding, 0)
        self.flip = flip
        self.size = None if size is None else check_int("size", size, 1)
        self.seed = check_int("seed", seed, 0)
        self.images, self.labels = images.to(device), labels.to(device)
        self.mean = _to_broadcast(check_mean("mean", mean, channels)).to(self.images.device)
        self.std = _to_broadcast(check_std("std", std, channels)).to(self.images.device)
        data = TensorDataset(self.images, self.labels)
        rank, processes = rank_and_processes()
        # The sampler adds the epoch to its seed: mixed, so that seed 1 does not begin with the second epoch of seed 0.
        sampler: DistributedSampler = DistributedSampler(
            data, processes, rank, shuffle, _mix(self.seed), drop_last=drop_last
        )
        super().__init__(data, batch_size, sampler=sampler, drop_last=drop_last, collate_fn=self._collate)
        if not len(self):
            raise ValueError(
                f"drop_last leaves no batch of {batch_size} in the {len(sampler)} images of each process; use smaller "
                f"batches or drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``, at least 0; those after it go on counting."""
        self.sampler.set_epoch(check_int("epoch", epoch, 0))

    def __iter__(self) -> Iterator[list[Tensor]]:  # type: ignore[override]
        sampler = self.sampler
        if rank_and_processes() != (sampler.rank, sampler.num_replicas):
            raise RuntimeError(
                f"this ImageLoader was built for process {sampler.rank} of {sampler.num_replicas}, but this is process "
                f"{rank_and_processes()[0]} of {rank_and_processes()[1]}; build it after torch.distributed is "
                f"initialised, or start the processes with composer or torchrun"
            )
        epoch = sampler.epoch
        order = torch.tensor(list(sampler), device=self.images.device)
        sampler.epoch = epoch + 1
        return self._pass(epoch, order)

    def _pass(self, epoch: int, order: Tensor) -> Iterator[list[Tensor]]:
        generator = torch.Generator()
        for batch, index in enumerate(order.split(self.batch_size)[: len(self)]):
            generator.manual_seed(_mix(self.seed, epoch, 1 + batch))  # 0 would be as _mix(self.seed) in epoch 0
            images = self._augment(self.images.index_select(0, index), generator)
            yield [self._finish(images), self.labels.index_select(0, index)]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def drawn(below: int, count: int) -> Tensor:
            """Random numbers for the images of all processes, and of them this one's."""
            numbers = torch.randint(below, (count, len(images) * self.sampler.num_replicas), generator=generator)
            return numbers[:, self.sampler.rank :: self.sampler.num_replicas]

        if self.crop_padding:
            images = crop(images, self.crop_padding, drawn(2 * self.crop_padding + 1, 2))
        if self.flip:
            images = flip(images, drawn(2, 1)[0].bool())
        return images

    def _finish(self, images: Tensor) -> Tensor:
        batch = normalise(images, self.mean, self.std)
        return batch if self.size is None else resize(batch, self.size)

    def _collate(self, samples: list[Any]) -> list[Tensor]:
        """Samples of ``dataset`` as a batch without augmentation: what shows others the batches' shapes and types."""
        images, labels = default_collate(samples)
        return [self._finish(images), labels]


def _check_data(images: Tensor, labels: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images must be a uint8 tensor (N, C, H, W), got {getattr(images, 'dtype', type(images))}")
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be (N, C, H, W) with at least one image, got {tuple(images.shape)}")
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor (N, ...), got {type(labels).__name__}; use torch.tensor(labels)")
    if not labels.ndim or len(labels) != len(images):
        raise ValueError(f"there must be a label for each of the {len(images)} images, got {tuple(labels.shape)}")


def _to_broadcast(numbers: Sequence[float]) -> Tensor:
    """``(C, 1, 1)``, to broadcast over images."""
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def _mix(*numbers: int) -> int:
    """A seed that is a function of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
