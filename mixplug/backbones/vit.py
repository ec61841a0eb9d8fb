"""The adapter for timm's plain vision transformers: it can choose the tokens that the encoder sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import PatchDropout, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixplug.backbones.base import Backbone, BackbonePass
from mixplug.backbones.patches import PatchScaler
from mixplug.backbones.selection import take_tokens


class ViTBackbone(Backbone):
    """Adapter for a timm ``VisionTransformer``: selects tokens and keeps what the pass leaves behind.

    timm's ``forward_features`` runs ``patch_embed -> _pos_embed -> patch_drop -> norm_pre -> blocks -> norm``.
    The adapter puts a selector in the place of ``patch_drop`` and listens at ``patch_embed`` and ``norm``, so no
    line of timm's forward is copied. Parameters, buffers and their names stay what they are.

    Args:
        vit: The transformer, with any of class token, register tokens, token/avg/map pooling, learned, frozen or
            no position embedding, ``dynamic_img_size``, gradient checkpointing and number of input channels.

    Attributes:
        embed_dim: Width D of the tokens and of the pooled features.
        num_heads: Attention heads of a block.
        num_prefix_tokens: Class and register tokens P before the patch tokens.
        patch_size: Height and width of a patch in pixels.
        in_chans: Channels of an image.
        normalised: Whether the tokens come out of a final norm (timm moves it behind the pooling for avg).

    Raises:
        TypeError: not a timm ``VisionTransformer``, or its patch embedding is not a plain ``PatchEmbed``.
        ValueError: ``patch_drop_rate > 0`` or ``dynamic_img_pad``, which hide which patch a token stands for, or
            an image size that the patch size does not divide.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        _check_vit(vit)
        self.vit = vit
        self.embed_dim: int = vit.embed_dim
        self.num_features: int = vit.embed_dim
        # timm's parallel blocks hold several attentions, or are one.
        heads = (getattr(module, "num_heads", None) for module in vit.blocks.modules())
        self.num_heads: int = next(count for count in heads if count is not None)
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        # Composer's BlurPool and SqueezeExcite put modules that hold the convolution in its place.
        self.in_chans: int = next(m for m in vit.patch_embed.proj.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.normalised: bool = not isinstance(vit.norm, nn.Identity)
        self._hooks: list[RemovableHandle] = []
        self._scaler: PatchScaler | None = None
        super().__init__(vit)

    @property
    def attached(self) -> bool:
        """Whether this adapter listens to the transformer."""
        return adapter_of(self.vit) is self

    def attach(self) -> None:
        """Listen to the transformer, in the place of any other adapter."""
        vit = self.vit
        if self.attached:
            return
        other = adapter_of(vit)
        if other is not None:
            other.detach()
        self._hooks = [
            vit.patch_embed.register_forward_pre_hook(self._before_patch_embed),
            vit.norm.register_forward_hook(self._after_norm),
        ]
        vit.patch_drop = _TokenSelection(self)  # type: ignore[assignment]

    def detach(self) -> None:
        """Leave the transformer as timm made it."""
        if self.attached:
            self.vit.patch_drop = nn.Identity()  # type: ignore[assignment]
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that lead to the tokens: all but pooling, the norm behind it and the classifier."""
        vit = self.vit
        heads = (vit.attn_pool, vit.fc_norm, *self.classifiers())
        excluded = {id(p) for head in heads if head is not None for p in head.parameters()}
        return [p for p in vit.parameters() if id(p) not in excluded]

    selects_tokens = True

    def stride(self) -> int:
        """See the base class."""
        return math.lcm(*self.patch_size)

    def pool(self, output: Tensor) -> Tensor:
        """See the base class."""
        return self._pooled(self.vit.forward_head(output, pre_logits=True))

    def features_of(self, images: Tensor) -> Tensor:
        """See the base class."""
        return self.pool(self.vit.forward_features(images))

    def classifiers(self) -> list[nn.Module]:
        """See the base class."""
        heads = (self.vit.head, getattr(self.vit, "head_dist", None))
        return [head for head in heads if head is not None]

    def _run(self, images: Tensor) -> None:
        self.vit.forward_features(images)

    def _before_patch_embed(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        seen = self._begun()
        if seen is None:
            return None
        self._enter(seen, args[0])
        height, width = seen.images.shape[-2:]
        rows, columns = self._patch_size_for(seen, height, width)
        if height % rows or width % columns:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {rows}x{columns}; use sizes that "
                f"the patch size divides"
            )
        embed = self.vit.patch_embed
        if embed.strict_img_size and embed.img_size not in (None, (height, width)):
            raise ValueError(
                f"images of {height}x{width} pixels come to a model built for {embed.img_size}; build it with "
                f"dynamic_img_size=True if sizes change (ProgressiveResizing), or resize the images"
            )
        seen.grid = (height // rows, width // columns)
        return (seen.images, *args[1:])

    def _patch_size_for(self, seen: BackbonePass, height: int, width: int) -> tuple[int, int]:
        if seen.request.patch is None:
            return self.patch_size
        self._scaler = self._scaler or PatchScaler(self.vit)
        side = seen.request.patch(height, width)
        self._scaler.check(side, height, width)
        if side != self._scaler.native:
            self._scaler.begin(side)
        return side, side

    def abandon(self) -> None:
        """See the base class."""
        super().abandon()
        self._end_scaling()

    def _end_scaling(self) -> None:
        if self._scaler is not None:
            self._scaler.end()

    def _select(self, tokens: Tensor) -> Tensor:
        seen = self._watching()
        if seen is None or seen.request.select is None:
            return tokens
        prefix = self.num_prefix_tokens
        batch, length, _ = tokens.shape
        seen.keep = seen.request.select(batch, length - prefix, tokens.device)
        return torch.cat([tokens[:, :prefix], take_tokens(tokens[:, prefix:], seen.keep)], dim=1)

    def _after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        seen = self._watching()
        if seen is None:
            return None
        self._end_scaling()
        return self._leave(seen, output)


def adapter_of(module: nn.Module) -> ViTBackbone | None:
    """The adapter that stands in the place of the transformer's ``patch_drop``."""
    selection = getattr(module, "patch_drop", None)
    return selection.backbone if isinstance(selection, _TokenSelection) else None


class _TokenSelection(nn.Module):
    """Stands in the place of ``vit.patch_drop``: the identity unless its adapter watches a pass."""

    def __init__(self, backbone: ViTBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tokens: Tensor) -> Tensor:
        return self.backbone._select(tokens)

    def extra_repr(self) -> str:
        return "mixplug: identity outside of training steps"


def _check_vit(vit: nn.Module) -> None:
    if not isinstance(vit, VisionTransformer):
        raise TypeError(f"expected a timm VisionTransformer, got {type(vit).__name__}")
    embed = vit.patch_embed
    if not isinstance(embed, PatchEmbed):
        raise TypeError(
            f"the transformer's patch embedding is a {type(embed).__name__}; only timm's plain PatchEmbed keeps one "
            f"token for each patch of pixels"
        )
    if not len(vit.blocks):
        raise ValueError("the transformer has no blocks; build it with depth of at least 1")
    if isinstance(vit.patch_drop, PatchDropout):
        raise ValueError(
            "the transformer drops patches by itself (patch_drop_rate > 0), which hides the patches its tokens stand "
            "for; build it with patch_drop_rate=0"
        )
    if embed.dynamic_img_pad:
        raise ValueError("dynamic_img_pad=True pads images with pixels that no target has; build the model without it")
    if embed.img_size is not None and any(s % p for s, p in zip(embed.img_size, embed.patch_size, strict=True)):
        raise ValueError(
            f"patches of {embed.patch_size} pixels do not divide the model's images of {embed.img_size}; choose "
            f"img_size as a multiple of patch_size"
        )
