"""Patches of another size than a vision transformer was built for (FlexiViT: Beyer et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from timm.layers import Format
from timm.layers.patch_embed import PatchEmbedResamplerFixedOrigSize
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

PatchSizer = Callable[[int, int], int]
"""``(height, width) -> pixels``: the side of a patch for images of that size."""


def fitting_sizes(height: int, width: int) -> list[int]:
    """The sides of patches, in pixels, that cut images of ``height`` x ``width`` without rest."""
    return [side for side in range(1, min(height, width) + 1) if height % side == 0 and width % side == 0]


class PatchScaler:
    """Lets a transformer cut its images into patches of another size for one pass.

    The weights of the patch embedding are resampled by the pseudo-inverse of a resize, and the position embedding is
    interpolated to the other grid, both by timm. Gradients reach the native weights.

    Args:
        vit: The transformer, with square patches and a plain convolution that embeds them.

    Raises:
        TypeError: its patches cannot be scaled.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        embed = vit.patch_embed
        rows, columns = embed.patch_size
        if type(embed.proj) is not nn.Conv2d or rows != columns:
            raise TypeError(
                f"patches of another size need a plain convolution of square patches, and this patch embedding is a "
                f"{type(embed.proj).__name__} of {rows}x{columns}; leave PatchScaling out"
            )
        self.vit, self.native = vit, rows
        self._resample = PatchEmbedResamplerFixedOrigSize((rows, columns))
        self._saved: tuple[bool, Format, bool] | None = None

    def check(self, side: int, height: int, width: int) -> None:
        """Refuse patches that do not cut the images.

        Raises:
            ValueError: ``side`` does not divide ``height`` and ``width``; the message names what does.
        """
        if side not in fitting_sizes(height, width):
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {side} pixels; sizes that fit are "
                f"{fitting_sizes(height, width)}"
            )

    def begin(self, side: int) -> None:
        """From now on patches are ``side`` pixels high and wide."""
        self.end()
        embed = self.vit.patch_embed
        self._saved = (embed.flatten, embed.output_fmt, self.vit.dynamic_img_size)
        embed.proj.forward = partial(self._project, side=side)
        # What timm does where the size of images changes: the position embedding follows the grid.
        embed.flatten, embed.output_fmt = False, Format.NHWC
        self.vit.dynamic_img_size = True  # type: ignore[misc]  # final for TorchScript alone

    def end(self) -> None:
        """Patches are native again."""
        if self._saved is not None:
            embed = self.vit.patch_embed
            embed.flatten, embed.output_fmt, self.vit.dynamic_img_size = self._saved  # type: ignore[misc]
            del embed.proj.forward
            self._saved = None

    def _project(self, images: Tensor, side: int) -> Tensor:
        proj = self.vit.patch_embed.proj
        # timm's resampling cannot run where costs are counted, on tensors without values; this has as many products.
        resample = _resample_without_values if proj.weight.is_meta else self._resample
        weight = resample(proj.weight, [side, side])
        return F.conv2d(images, weight, proj.bias, stride=side)


def _resample_without_values(weight: Tensor, size: list[int]) -> Tensor:
    rows, columns = size
    products = weight.flatten(2) @ weight.new_empty(weight[0, 0].numel(), rows * columns)
    return products.unflatten(2, (rows, columns))
