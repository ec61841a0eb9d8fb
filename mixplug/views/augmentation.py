"""Augmentations of a whole batch at once, wherever it lies, each the same as torchvision's on every image.

What is random is an argument: the same numbers give the same images on all devices.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def beside(images: Tensor, numbers: Tensor) -> Tensor:
    """``numbers``, drawn on the CPU, on the images' device, without having a GPU finish what it is doing first."""
    return numbers.to(images.device, non_blocking=images.device.type == "cuda")


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
    top, left = beside(images, corners)
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
    chosen = torch.arange(len(images), device=images.device) + len(images) * beside(images, mirrored)
    return both.index_select(0, chosen)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes as floats in [0, 1], less ``mean``, over ``std``: ``ToTensor()`` and ``Normalize``, on CPUs to the bit.

    Args:
        images: ``(B, C, H, W)``, uint8.
        mean: ``(C, 1, 1)``, on the images' device.
        std: ``(C, 1, 1)``, above 0, on the images' device.
    """
    return images.float().div_(255).sub_(mean).div_(std)


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Images of another size: torchvision's ``Resize``, bilinear and antialiased, of float images.

    Args:
        images: ``(B, C, H, W)``, floats.
        size: Height and width, each at least 1, or one number for both.
    """
    size = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == size:
        return images
    if images.device.type == "meta":  # where operations are counted there are no pixels
        return images.new_empty(*images.shape[:2], *size)
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def resized_crop(images: Tensor, windows: Tensor, size: tuple[int, int], mirrored: Tensor | None = None) -> Tensor:
    """A window of each image brought to ``size``: torchvision's ``resized_crop``, bilinear and antialiased.

    One sampling crops, resizes and mirrors. Resizing is linear along each axis, so all of it is two matrix products,
    with matrices that differ from image to image: of 64 images of 32x32 8 times faster on a CPU than one by one. From
    ``_LARGE`` pixels on the zeros in those matrices cost a CPU more than a call for each image does.

    Args:
        images: ``(B, C, H, W)``, float32.
        windows: ``(4, B)``, whole numbers: first rows, first columns, heights and widths, all inside of the images.
        size: Height and width of the result, each at least 1.
        mirrored: ``(B,)``, booleans: which of them to mirror left to right; None for none.
    """
    batch, channels, height, width = images.shape
    if images.device.type == "cpu" and max(height * width, size[0] * size[1]) >= _LARGE:
        resized = images.new_empty(batch, channels, *size)
        for index, (top, left, tall, wide) in enumerate(windows.T.tolist()):
            window = images[index : index + 1, :, top : top + tall, left : left + wide]
            one = F.interpolate(window, size, mode="bilinear", antialias=True)[0]
            resized[index] = one.flip(-1) if mirrored is not None and mirrored[index] else one
        return resized
    top, left, window_height, window_width = beside(images, windows)
    rows = _resizing(top, window_height, height, size[0])
    columns = _resizing(left, window_width, width, size[1])
    if mirrored is not None:
        columns = torch.where(beside(images, mirrored)[:, None, None], columns.flip(1), columns)
    narrow = torch.bmm(images.reshape(batch, channels * height, width), columns.transpose(1, 2))
    return rows[:, None] @ narrow.view(batch, channels, height, size[1])


def shrink_into(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image brought to its box in an image of its own size: bilinear, without antialiasing.

    Args:
        images: ``(B, C, H, W)``, floats.
        boxes: ``(4, B)``, whole numbers: first rows, first columns, heights and widths, all inside of the images.

    Returns:
        ``(B, C, H, W)``, of the images' type; what lies outside of the boxes means nothing.
    """
    # Half precision is too coarse for places and for products.
    pixels = images.to(torch.promote_types(images.dtype, torch.float32))
    top, left, box_height, box_width = beside(images, boxes)
    places = images.new_empty(len(images), *images.shape[-2:], 2, dtype=pixels.dtype)
    places[..., 0] = _places(left, box_width, images.shape[-1], pixels.dtype)[:, None]
    places[..., 1] = _places(top, box_height, images.shape[-2], pixels.dtype)[..., None]
    return F.grid_sample(pixels, places, padding_mode="border", align_corners=False).to(images.dtype)


def _places(start: Tensor, length: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """``(B, size)``: where in the whole axis each pixel of it is taken from, in [-1, 1], as ``grid_sample`` counts."""
    pixels = torch.arange(0.5, size, device=start.device, dtype=dtype) - start[:, None]
    return (pixels * (2 / length.clamp_min(1).to(dtype))[:, None] - 1).clamp_(-1, 1)


_LARGE = 64 * 64
"""Pixels from which on a CPU resizes image by image."""


def _resizing(start: Tensor, length: Tensor, size: int, target: int) -> Tensor:
    """``(B, target, size)``: how much each pixel of an axis weighs in each pixel of its resized window."""
    step = (length.float() / target)[:, None, None]
    pixels = torch.arange(size, device=start.device, dtype=torch.float32) - start[:, None]
    centres = torch.arange(0.5, target, device=start.device, dtype=torch.float32)[:, None] * step
    distances = (pixels[:, None] + 0.5 - centres).abs()
    weights = (1 - distances / step.clamp_min(1)).clamp_min_(0)
    weights *= ((pixels >= 0) & (pixels < length[:, None]))[:, None]  # nothing from outside of the window
    return weights / weights.sum(-1, keepdim=True)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Each image times a factor of its own: torchvision's ``adjust_brightness``.

    Args:
        images: ``(B, C, H, W)``, floats in [0, 1].
        factors: ``(B,)``, at least 0.
    """
    return (images * _by_image(images, factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Each image's distance from its own mean grey times a factor: torchvision's ``adjust_contrast``.

    Args:
        images: ``(B, C, H, W)``, floats in [0, 1]; without three channels, the mean is that of all of them.
        factors: ``(B,)``, at least 0.
    """
    grey = to_grey(images) if images.shape[1] == 3 else images
    factors = _by_image(images, factors)
    return (images * factors).add_(grey.mean((1, 2, 3), keepdim=True) * (1 - factors)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Each pixel's distance from its grey times a factor: torchvision's ``adjust_saturation``.

    Args:
        images: ``(B, 3, H, W)``, floats in [0, 1].
        factors: ``(B,)``, at least 0.
    """
    factors = _by_image(images, factors)
    return torch.addcmul(to_grey(images).mul_(1 - factors), images, factors).clamp_(0, 1)


def to_grey(images: Tensor) -> Tensor:
    """``(B, 1, H, W)``: the brightness of colours, with the weights of torchvision's ``rgb_to_grayscale``.

    Args:
        images: ``(B, 3, H, W)``, floats.
    """
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Colours turned along the colour circle: torchvision's ``adjust_hue`` with a shift for each image.

    Neither saturation nor anything of the six parts of the circle is computed or looked up.

    Args:
        images: ``(B, 3, H, W)``, floats in [0, 1].
        turns: ``(B,)``, parts of the circle, of any sign.
    """
    red, green, blue = images.unbind(1)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(least)
    # With colours stretched to [0, 1] the hue is 1 + green + blue - red where green is above blue, in sixths of the
    # circle, and as much the other way round where it is below. Greys have no hue, and any keeps them as they are.
    hue = (green + blue).sub_(red).sub_(least).div_(chroma.clamp_min(_NO_COLOUR)).add_(1)
    hue = hue.copysign_(green - blue).add_(6 * beside(images, turns)[:, None, None])
    hue.sub_(6 * (hue / 6).floor_())  # remainder_ takes a CPU four times as long
    shifted = torch.empty_like(images, memory_format=torch.contiguous_format)
    # How much of each colour is in a hue falls and rises linearly with the distance from the colour's place.
    torch.addcmul(least, (hue - 3).abs_().sub_(1).clamp_(0, 1), chroma, out=shifted[:, 0])
    torch.addcmul(least, (hue - 2).abs_().neg_().add_(2).clamp_(0, 1), chroma, out=shifted[:, 1])
    torch.addcmul(least, hue.sub_(4).abs_().neg_().add_(2).clamp_(0, 1), chroma, out=shifted[:, 2])
    return shifted


_NO_COLOUR = torch.finfo(torch.float32).tiny


def blur(images: Tensor, sigmas: Tensor, kernel: int) -> Tensor:
    """Each image blurred by a Gaussian of its own: torchvision's ``gaussian_blur``.

    Along one axis and then along the other, and only as far as a weight is above 1e-6 of the kernel's sum.

    Args:
        images: ``(B, C, H, W)``, float32, higher and wider than half of ``kernel``.
        sigmas: ``(B,)``, standard deviations in pixels, above 0, on the CPU.
        kernel: Length of the kernel in pixels, odd.
    """
    radius = min(kernel // 2, math.ceil(_REACH * float(sigmas.max())))
    offsets = torch.arange(radius + 1, dtype=torch.float32, device="cpu")
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights /= 2 * weights.sum(1, keepdim=True) - 1  # all but the one in the middle count twice
    taps = beside(images, weights).T[..., None, None, None]
    for axis, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        length = images.shape[axis]
        padded = F.pad(images, padding, mode="reflect")
        images = padded.narrow(axis, radius, length) * taps[0]
        both = torch.empty_like(images)
        for offset in range(1, radius + 1):
            torch.add(*(padded.narrow(axis, radius + side, length) for side in (-offset, offset)), out=both)
            images.addcmul_(both, taps[offset])
    return images


_REACH = 5.0
"""Standard deviations beyond which a Gaussian blur's weights are left out: less than 1e-6 of their sum together."""


def solarise(images: Tensor, threshold: float) -> Tensor:
    """Bright pixels inverted: torchvision's ``solarize``.

    Args:
        images: ``(B, C, H, W)``, floats in [0, 1].
        threshold: From which value on.
    """
    # To choose by weights of 0 and 1 is exact, and 5 times faster on a CPU than by torch.where.
    return torch.lerp(images, 1 - images, (images >= threshold).float())


def _by_image(images: Tensor, numbers: Tensor) -> Tensor:
    return beside(images, numbers).view(-1, 1, 1, 1)
