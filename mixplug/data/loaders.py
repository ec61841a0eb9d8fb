"""Small images kept whole in memory, on the training device if wanted, and augmented there a batch at a time.

Per-image transforms in worker processes are the usual bottleneck for small images. Here a batch is cut, mirrored and
normalised by a few operations on all of it, wherever the images lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.checks import check_int


class ImageLoader:
    """Batches ``(images, labels)`` out of a tensor of uint8 images, for a Trainer or a hand-written loop.

    Each pass is a function of the seed and its epoch: passes count themselves, or :meth:`set_epoch` says. Within a pass
    each batch draws from a generator of its own, so nothing else that is random is disturbed, and a pass can be left
    and taken up again at any batch.

    With several processes (``torch.distributed``), each gets every N-th image of the shuffled order. As with
    ``DistributedSampler``, the order is filled up from its beginning until N divides it, so no image is lost and all
    processes have equally many batches.

    Args:
        images: ``(N, C, H, W)``, uint8.
        labels: ``(N, ...)``, on any device.
        batch_size: Images of a batch in each process.
        mean: What is subtracted from images in [0, 1], one number for each channel.
        std: What they are then divided by.
        shuffle: A new order in each epoch; else the order of ``images``.
        crop_padding: Pixels of black around an image out of which a random window of its size is cut; 0 for none.
        flip: Mirror each image left to right with probability 1/2.
        size: Height and width to resize to (bilinear, antialiased), None for the images' own.
        drop_last: Leave out the last batch of a pass if it is smaller.
        device: Where images are kept and batches made.
        seed: Of order and augmentation.

    Raises:
        TypeError: ``images`` is not a uint8 tensor or a number has the wrong type.
        ValueError: shapes do not match, or a number is out of range.
    """

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
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            raise TypeError(f"images must be a uint8 tensor (N, C, H, W), got {getattr(images, 'dtype', type(images))}")
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must be (N, C, H, W) with at least one image, got {tuple(images.shape)}")
        if len(labels) != len(images):
            raise ValueError(f"there must be a label for each image: {len(images)} images, {len(labels)} labels")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != images.shape[1]:
                raise ValueError(
                    f"{name} must have a number for each of the {images.shape[1]} channels, got {values!r}"
                )
        if min(std) <= 0:
            raise ValueError(f"std must be above 0 for each channel, got {std!r}")
        self.images = images.to(device)
        self.labels = labels.to(device)
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.crop_padding = check_int("crop_padding", crop_padding, 0)
        self.flip = flip
        self.size = None if size is None else check_int("size", size, 1)
        self.drop_last = drop_last
        self.seed = check_int("seed", seed, 0)
        # One multiplication and one addition turn a byte into a normalised float.
        shift, scale = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
        self._factor = (1 / (255 * scale)).to(self.images.device)
        self._offset = (-shift / scale).to(self.images.device)
        self._epoch = 0
        if not len(self):
            raise ValueError(
                f"drop_last leaves no batch of {batch_size} in the {self._share()} images of each process; use smaller "
                f"batches or drop_last=False"
            )

    @property
    def num_samples(self) -> int:
        """Images of a pass in this process."""
        return len(self) * self.batch_size if self.drop_last else self._share()

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``."""
        self._epoch = epoch

    def __len__(self) -> int:
        batches, rest = divmod(self._share(), self.batch_size)
        return batches + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        rank, processes = rank_and_processes()
        order = self._order(epoch, rank, processes)
        generator = torch.Generator()
        for batch in range(len(self)):
            generator.manual_seed(_mix(self.seed, epoch, 1 + batch * processes + rank))
            index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [self._make(index, generator), self.labels[index]]

    def _share(self) -> int:
        return -(-len(self.images) // rank_and_processes()[1])

    def _order(self, epoch: int, rank: int, processes: int) -> Tensor:
        count = len(self.images)
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        filled = order.repeat(-(-processes // count) + 1)[: self._share() * processes]
        return filled[rank::processes].to(self.images.device)

    def _make(self, index: Tensor, generator: torch.Generator) -> Tensor:
        images = self.images.index_select(0, index)
        if self.crop_padding:
            images = crop(images, self.crop_padding, generator)
        if self.flip:
            images = flip(images, generator)
        batch = images.float().mul_(self._factor).add_(self._offset)
        if self.size is not None and batch.shape[-2:] != (self.size, self.size):
            batch = F.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)
        return batch


def crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """A random window of each image's own size out of the image with ``padding`` black pixels around it.

    The same in distribution as torchvision's ``RandomCrop(size, padding)`` on each image.

    Args:
        images: ``(B, C, H, W)``, on any device.
        padding: Pixels on each side.
        generator: Of the CPU, so that all devices see the same windows.
    """
    batch, channels, height, width = images.shape
    offsets = 2 * padding + 1
    top, left = torch.randint(offsets, (2, batch), generator=generator).to(images.device)
    padded = F.pad(images, (padding,) * 4)
    by_image, by_channel, by_row, by_column = padded.stride()
    # All windows as a view: to choose among them copies rows of pixels, not pixels.
    windows = padded.as_strided(
        (batch, offsets, offsets, channels, height, width),
        (by_image, by_row, by_column, by_channel, by_row, by_column),
    )
    return windows[torch.arange(batch, device=images.device), top, left]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability 1/2, as torchvision's ``RandomHorizontalFlip()`` does.

    Args:
        images: ``(B, C, H, W)``, on any device.
        generator: Of the CPU, so that all devices mirror the same images.
    """
    chosen = torch.rand(len(images), generator=generator).lt(0.5).nonzero().squeeze(1).to(images.device)
    return images.index_copy(0, chosen, images.index_select(0, chosen).flip(-1))


def _mix(*numbers: int) -> int:
    """A seed that is a function of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def rank_and_processes() -> tuple[int, int]:
    """This process's number among those of ``torch.distributed``, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
