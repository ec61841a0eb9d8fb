"""Hand-written training steps: the same arithmetic as mixplug's without a line of it, to measure what mixplug costs.

Only torch and timm, as one would write them for one project: a timm ViT, images of one size, one device.

Maskings (``mask``)
    'features': the encoder sees all patches, the decoder a visible share of its output (Li et al., appendix A.2).
    'input': the encoder sees the visible patches alone (He et al.); in the MIX phase the classifier reads them too.
    'two passes': as 'input', but in the MIX phase the classifier has a pass of its own over all patches. With
    ``alpha=0.9`` in MIX throughout it is SSAT's joint training (Das et al., "Limited Data, Unlimited Potential: A Study
    on ViTs Augmented by Masked Autoencoders", WACV 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn


class PlainMAE(nn.Module):
    """Decoder and loss of a masked autoencoder: as wide as the encoder, MSE on hidden patches.

    Args:
        vit: The encoder.
        mask_ratio: Share of hidden patches, in (0, 1).
        depth: Blocks.
    """

    position: Tensor

    def __init__(self, vit: VisionTransformer, mask_ratio: float = 0.75, depth: int = 2) -> None:
        super().__init__()
        dim, grid = vit.embed_dim, vit.patch_embed.grid_size
        self.patch_size = vit.patch_embed.patch_size
        self.prefix = vit.num_prefix_tokens
        self.patches = grid[0] * grid[1]
        self.visible = int(self.patches * (1 - mask_ratio))
        if not 1 <= self.visible < self.patches:
            raise ValueError(
                f"mask_ratio={mask_ratio} leaves {self.visible} of {self.patches} patches visible; choose one that "
                f"leaves some visible and some hidden"
            )
        # timm's avg-pooled models have their final norm behind the pooling, so the tokens come without.
        unnormed = isinstance(vit.norm, nn.Identity)
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6) if unnormed else nn.Identity()
        self.embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(Block(dim, vit.blocks[0].attn.num_heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, self.patch_size[0] * self.patch_size[1] * vit.patch_embed.proj.in_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.register_buffer("position", build_sincos2d_pos_embed(list(grid), dim), persistent=False)

    def draw(self, images: Tensor) -> Tensor:
        """Indices ``(B, n, 1)`` of a random share of each image's patches."""
        noise = torch.rand(len(images), self.patches, device=images.device)
        return noise.argsort(dim=1)[:, : self.visible, None]

    def cut(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Leave of all tokens ``(B, P + N, D)`` the prefix and the visible patches, ``(B, P + n, D)``."""
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        return torch.cat([prefix, patches.gather(1, visible.expand(-1, -1, tokens.shape[-1]))], dim=1)

    def forward(self, tokens: Tensor, visible: Tensor, images: Tensor) -> Tensor:
        """The loss of ``images`` ``(B, C, H, W)`` from the encoder's tokens ``(B, P + n, D)`` of visible patches."""
        tokens = self.embed(self.encoder_norm(tokens))
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        canvas = self.mask_token.to(tokens.dtype).expand(len(tokens), self.patches, -1)
        canvas = canvas.scatter(1, visible.expand_as(patches), patches) + self.position.to(tokens.dtype)
        decoded = self.norm(self.blocks(torch.cat([prefix, canvas], dim=1)))
        prediction = self.predict(decoded[:, self.prefix :])
        error = F.mse_loss(prediction, self.patchify(images), reduction="none").mean(dim=-1)
        hidden = torch.ones_like(error).scatter(1, visible.squeeze(-1), 0.0)
        return (error * hidden).sum() / hidden.sum()

    def patchify(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to one row of pixels for each patch, ``(B, N, rows * columns * C)``."""
        batch, channels, height, width = images.shape
        rows, columns = self.patch_size
        cut = images.reshape(batch, channels, height // rows, rows, width // columns, columns)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.patches, -1)


def encode_visible(model: VisionTransformer, decoder: PlainMAE, images: Tensor, visible: Tensor) -> Tensor:
    """The encoder's tokens ``(B, P + n, D)`` of the visible patches alone: timm's ``forward_features`` and a cut."""
    tokens = model._pos_embed(model.patch_embed(images))
    return model.norm(model.blocks(model.norm_pre(decoder.cut(tokens, visible))))


def plain_step(
    model: VisionTransformer,
    decoder: PlainMAE | None,
    images: Tensor,
    labels: Tensor,
    phase: str,
    alpha: float = 0.5,
    mask: str = "features",
) -> Tensor:
    """The loss of a batch: ``ssl``, ``alpha * ssl + (1 - alpha) * CE`` or ``CE`` (Li et al., Eq. 3).

    Args:
        model: The classifier.
        decoder: The autoencoder's; None will do for the SL phase.
        images: ``(B, C, H, W)``.
        labels: Classes, ``(B,)``.
        phase: 'ssl', 'mix' or 'sl'.
        alpha: Weight of the self-supervised loss in MIX.
        mask: 'features', 'input' or 'two passes'.

    Returns:
        A scalar.

    Raises:
        ValueError: there is no such phase or masking, or no decoder where one is needed.
    """
    if phase == "sl":
        return F.cross_entropy(model(images), labels)
    if phase not in ("ssl", "mix") or mask not in ("features", "input", "two passes") or decoder is None:
        raise ValueError(
            f"phase must be 'ssl', 'mix' or 'sl', mask 'features', 'input' or 'two passes', and all but 'sl' need a "
            f"decoder; got phase={phase!r}, mask={mask!r}, decoder={type(decoder).__name__}"
        )
    visible = decoder.draw(images)
    if mask == "features":
        tokens = model.forward_features(images)
        ssl = decoder(decoder.cut(tokens, visible), visible, images)
    else:
        tokens = encode_visible(model, decoder, images, visible)
        ssl = decoder(tokens, visible, images)
    if phase == "ssl":
        return ssl
    logits = model(images) if mask == "two passes" else model.forward_head(tokens)
    return alpha * ssl + (1 - alpha) * F.cross_entropy(logits, labels)


def plain_steps(
    model: VisionTransformer,
    decoder: PlainMAE | None,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    phase: str,
    alpha: float = 0.5,
    mask: str = "features",
    autocast: torch.dtype | None = None,
) -> Iterator[float]:
    """Train for a step on each of ``batches``, and yield its loss.

    Args:
        model: See :func:`plain_step`, as is each of those that follow and are not here.
        decoder: See there.
        batches: Images and labels, moved to the model's device.
        optimizer: Of the model's and the decoder's parameters.
        phase: See there.
        alpha: See there.
        mask: See there.
        autocast: ``torch.bfloat16`` for automatic mixed precision, None for none.

    Raises:
        ValueError: ``autocast`` is another type: float16 would need a scaled loss.
    """
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"autocast must be None or torch.bfloat16 (there is no scaling of gradients), got {autocast}")
    device = next(model.parameters()).device
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            loss = plain_step(model, decoder, images, labels, phase, alpha, mask)
        loss.backward()
        optimizer.step()
        yield loss.item()
