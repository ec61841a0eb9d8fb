"""Stems for small images: networks made for 224 pixels throw most of a 32-pixel image away in their first layers."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def small_image_stem(model: M) -> M:
    """Let a residual network of timm's or torchvision's take small images as they are, and return it.

    Its first convolution becomes one of 3x3 pixels with stride 1 and new weights, and its max-pooling goes, as Chen et
    al. (SimCLR, 2020, appendix B.9) and Chen and He (SimSiam, 2021, appendix D) do for CIFAR-10. On 32x32 pixels the
    last map of a ResNet-18 is then 4x4 instead of 1x1.

    Args:
        model: A model with a convolution ``conv1`` and a pooling ``maxpool``, changed in place.

    Raises:
        TypeError: it has none, as networks with other stems have.
    """
    conv, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(pool, (nn.MaxPool2d, nn.Identity)):
        raise TypeError(
            f"{type(model).__name__} has no single convolution conv1 followed by a max-pooling maxpool to exchange, as "
            f"ResNet-18 has; choose its resolution where it is made, such as patch_size=2 for a ConvNeXt or a ViT"
        )
    new = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = new.to(conv.weight)
    model.maxpool = nn.Identity()
    return model
