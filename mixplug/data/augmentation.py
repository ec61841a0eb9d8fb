"""Augmentations of a whole batch at once, wherever it lies, each the same as torchvision's on every image.

What is random is an argument: the same numbers give the same images on all devices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, padding: int, corners: Tensor) -> Tensor:
    """A window of each image's own size out of the image with ``padding`` black pixels around it.

    With ``corners`` uniform in [0, 2 * padding], torchvision's ``RandomCrop(size, padding)``.

    Args:
        images: ``(B, C, H, W)``, of any type.
        padding: Pixels on each side, at least 0.
        corners: ``(2, B)``, integers: the windows' first rows and first columns.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4).contiguous()
    by_image, by_channel, by_row, _ = padded.stride()
    top, left = corners.to(images.device)
    image, channel, row = (torch.arange(count, device=images.device) for count in (batch, channels, height))
    windows = image * by_image + top * by_row + left
    starts = windows[:, None, None] + channel[:, None] * by_channel + row * by_row
    # Every run of `width` pixels, as a view: to choose among them copies rows, not pixels (4 times faster on a CPU).
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    return runs.index_select(0, starts.flatten()).view(images.shape)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Some of the images mirrored left to right.

    With ``mirrored`` true for each with probability 1/2, torchvision's ``RandomHorizontalFlip()``.

    Args:
        images: ``(B, C, H, W)``, of any type.
        mirrored: ``(B,)``, booleans.
    """
    # Choosing from both is faster on a CPU than torch.where or writing some images over.
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(
        0, torch.arange(len(images), device=images.device) + len(images) * mirrored.to(images.device)
    )


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes as floats in [0, 1], less ``mean``, over ``std``: ``ToTensor()`` and ``Normalize``, on CPUs to the bit.

    Args:
        images: ``(B, C, H, W)``, uint8.
        mean: ``(C, 1, 1)``, on the images' device.
        std: ``(C, 1, 1)``, above 0, on the images' device.
    """
    return images.float().div_(255).sub_(mean).div_(std)


def resize(images: Tensor, size: int) -> Tensor:
    """Images of ``size`` times ``size`` pixels: torchvision's ``Resize``, bilinear and antialiased, of float images.

    Args:
        images: ``(B, C, H, W)``, floats.
        size: Height and width, at least 1.
    """
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
