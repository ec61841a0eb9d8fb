"""Mixing within a batch: each image with its partner, the one opposite in the reversed batch, by a share of its own.

Functions of images and a generator, on the images' device and without a loop over images. Numbers are drawn on the CPU,
so the same generator state gives the same mix on any device, and what was drawn is known without waiting for one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixplug.checks import check_choice, check_int, check_range, check_real
from mixplug.views.augmentation import beside, shrink_into


@dataclass(frozen=True)
class Mixed:
    """A mixed batch.

    Attributes:
        images: ``(B, C, H, W)``, each mixed with its partner.
        partners: ``(B,)``, their indices, on the CPU. A partner's partner is the image; the middle one of an odd batch
            is its own.
        lam: ``(B,)``, how much of each is its own, in [0, 1], float64 on the CPU; of pasted areas in whole pixels.
        mixer: What mixed it.
        drawn: ``(B,)``, ``lam`` as it was drawn, before there were pixels.
    """

    images: Tensor
    partners: Tensor
    lam: Tensor
    mixer: Mixer
    drawn: Tensor

    def mix_likewise(self, images: Tensor, generator: torch.Generator | None = None) -> Mixed:
        """Mix other views of the same images with the same partners and shares, but boxes of their own.

        Args:
            images: ``(B, C, H', W')``; where they are of another size, areas are whole pixels of that.
            generator: On the CPU; None for torch's own.
        """
        return self.mixer.mix(images, self.drawn, generator)


class Mixer(ABC):
    """A way to mix: ``mixer(images, generator) -> Mixed``.

    Args:
        alpha: Shares are drawn from Beta(alpha, alpha), above 0; 1 is uniform.
        lam: 'sample' draws a share for each image, 'batch' one for all.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, lam: str = "sample") -> None:
        self.alpha = check_real("alpha", alpha, 0, math.inf, low_open=True, high_open=True)
        self.lam = check_choice("lam", lam, ("sample", "batch"))

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Mixed:
        """Mix each image with its partner.

        Args:
            images: ``(B, C, H, W)``, floats.
            generator: On the CPU; None for torch's own.

        Raises:
            TypeError: images are no tensor of floats.
            ValueError: they are not ``(B, C, H, W)``, or of a size that cannot be mixed so.
        """
        _check_images(images)
        return self.mix(images, self._draw(len(images), generator), generator)

    def mix(self, images: Tensor, drawn: Tensor, generator: torch.Generator | None = None) -> Mixed:
        """Mix by shares ``(B,)`` in [0, 1], on the CPU, that are given; the rest is as in a call."""
        _check_images(images)
        if not isinstance(drawn, Tensor) or drawn.shape != (len(images),) or not ((drawn >= 0) & (drawn <= 1)).all():
            raise ValueError(f"shares must be a tensor ({len(images)},) of numbers in [0, 1], got {drawn!r}")
        partners = partners_of(len(images))
        if images.device.type == "meta":  # where operations are counted there are no pixels
            return Mixed(torch.empty_like(images), partners, drawn, self, drawn)
        others = images.index_select(0, beside(images, partners))
        mixed, lam = self._mix(images, others, drawn, generator)
        return Mixed(mixed, partners, lam, self, drawn)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        drawn = 1 if self.lam == "batch" else count
        parts = torch.full((drawn, 2), float(self.alpha), dtype=torch.float64, device="cpu")
        # What torch.distributions.Beta draws from, which takes no generator.
        return torch._sample_dirichlet(parts, generator)[:, 0].expand(count)

    @abstractmethod
    def _mix(
        self, images: Tensor, others: Tensor, drawn: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The mixed images, and how much of each is its own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Mixup(Mixer):
    """``lam * x + (1 - lam) * partner`` (Zhang et al., 2018)."""

    def _mix(
        self, images: Tensor, others: Tensor, drawn: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        share = beside(images, drawn.to(images.dtype)).view(-1, 1, 1, 1)
        return torch.lerp(others, images, share), drawn


class CutMix(Mixer):
    """A box of the partner in its own place (Yun et al., 2019), wholly inside, of ``sqrt(1 - lam)`` of either side."""

    def _mix(
        self, images: Tensor, others: Tensor, drawn: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        boxes = _draw_boxes(drawn, images, generator)
        return _exchange(images, others, _inside(boxes, images)), _area_left(boxes, images)


class ResizeMix(Mixer):
    """The whole partner, made smaller (bilinear), pasted somewhere (Qin et al., 2020).

    Args:
        alpha: As of every mixer.
        lam: As of every mixer.
        limits: The share is drawn between these, in (0, 1]: (0.1, 0.9) in SDMP's released code. The box has
            ``sqrt(1 - lam)`` of either side; Qin et al. draw that from [0.1, 0.8] instead.
    """

    def __init__(self, alpha: float = 1.0, lam: str = "sample", limits: tuple[float, float] = (0.1, 0.9)) -> None:
        super().__init__(alpha, lam)
        self.limits = check_range("limits", limits, 1.0)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        low, high = self.limits
        return low + (high - low) * super()._draw(count, generator)

    def _mix(
        self, images: Tensor, others: Tensor, drawn: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        boxes = _draw_boxes(drawn, images, generator)
        pasted = shrink_into(others, boxes)
        return _exchange(images, pasted, _inside(boxes, images)), _area_left(boxes, images)


class PatchMix(Mixer):
    """Random whole patches of the partner in their own places, so that a vision transformer's tokens are pure.

    The idea is TokenMix's (Liu et al., 2022), without its attention maps.

    Args:
        patch: Side of a patch in pixels, at least 1, which must divide the images' sides.
        alpha: As of every mixer.
        lam: As of every mixer.
    """

    def __init__(self, patch: int, alpha: float = 1.0, lam: str = "sample") -> None:
        super().__init__(alpha, lam)
        self.patch = check_int("patch", patch, 1)

    def _mix(
        self, images: Tensor, others: Tensor, drawn: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {self.patch}; give PatchMix a patch "
                f"that divides both"
            )
        rows, columns = height // self.patch, width // self.patch
        count = ((1 - drawn) * rows * columns).round().long()
        order = torch.rand(len(images), rows * columns, generator=generator, device="cpu").argsort(1).argsort(1)
        chosen = beside(images, order < count[:, None]).view(-1, 1, rows, columns)
        chosen = chosen.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return _exchange(images, others, chosen), 1 - count.double() / (rows * columns)


class RandomMixer:
    """One of several mixers, drawn for each batch.

    Args:
        mixers: Those to draw from.
        weights: How often each is drawn, relative to the others, at least 0 and not all 0; None for equally often.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there are no mixers, or the weights are not as many or out of range.
    """

    def __init__(self, mixers: Sequence[Mixer], weights: Sequence[float] | None = None) -> None:
        if not isinstance(mixers, Sequence):
            raise TypeError(f"mixers must be a list of mixers, such as [Mixup()], got {mixers!r}")
        if not mixers:
            raise ValueError("mixers must be at least one, such as [Mixup()], got none")
        for mixer in mixers:
            if not isinstance(mixer, Mixer):
                raise TypeError(f"mixers must be mixers, such as Mixup(), got {mixer!r}")
        weights = [1.0] * len(mixers) if weights is None else weights
        if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != len(mixers):
            raise ValueError(f"the mixers' weights must be {len(mixers)} numbers, one for each, got {weights!r}")
        for weight in weights:
            check_real("a mixer's weight", weight, 0, math.inf, high_open=True)
        if not any(weights):
            raise ValueError(f"the mixers' weights must not all be 0, got {weights!r}")
        self.mixers, self.weights = tuple(mixers), tuple(float(weight) for weight in weights)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Mixed:
        """Draw a mixer and have it mix; see :meth:`Mixer.__call__`."""
        if len(self.mixers) == 1:
            return self.mixers[0](images, generator)
        index = torch.multinomial(torch.tensor(self.weights, device="cpu"), 1, generator=generator)
        return self.mixers[int(index)](images, generator)


MIXERS: dict[str, type[Mixer]] = {"mixup": Mixup, "cutmix": CutMix, "resizemix": ResizeMix, "patchmix": PatchMix}
"""By name."""


def partners_of(count: int) -> Tensor:
    """``(count,)``: each image's partner, the one opposite in the reversed batch (Ren et al., 2022, section 3.1)."""
    return torch.arange(count - 1, -1, -1, device="cpu")


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images to mix must be a tensor of floats (B, C, H, W), got {got}; normalise them first")
    if images.ndim != 4:
        raise ValueError(f"images to mix must be (B, C, H, W), got {tuple(images.shape)}")


def _exchange(images: Tensor, others: Tensor, where: Tensor) -> Tensor:
    """``images`` with pixels of ``others`` at those places: exact, and faster on a CPU than torch.where."""
    return torch.lerp(images, others, where.to(images.dtype))


def _draw_boxes(drawn: Tensor, images: Tensor, generator: torch.Generator | None) -> Tensor:
    """``(4, B)``: first row and column, height and width of boxes of 1 - ``drawn`` of the area, wholly inside."""
    size = torch.tensor(images.shape[-2:], device="cpu")[:, None]
    sides = ((1 - drawn).clamp_min(0).sqrt() * size).round().long()
    room = size - sides
    corners = (torch.rand(2, len(drawn), generator=generator, dtype=torch.float64, device="cpu") * (room + 1)).long()
    return torch.cat([corners.minimum(room), sides])


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """``(B, 1, H, W)``: whether a pixel lies in its image's box."""
    top, left, height, width = beside(images, boxes)[..., None]
    row, column = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    rows, columns = (row >= top) & (row < top + height), (column >= left) & (column < left + width)
    return rows[:, None, :, None] & columns[:, None, None, :]


def _area_left(boxes: Tensor, images: Tensor) -> Tensor:
    return 1 - (boxes[2] * boxes[3]).double() / (images.shape[-2] * images.shape[-1])
