"""Masked autoencoder: reconstruct the pixels of hidden patches (He et al., 2022).

What it does
    A light transformer (the decoder) predicts the pixels of every patch from the encoder's tokens of a random
    quarter of them. The loss is the mean squared error on the hidden patches.

Where it masks
    ``mask='features'`` is MixTraining's own (Li et al., appendix A.2): the encoder sees all patches, its output
    is cut to the visible ones. ``mask='input'`` is He et al.'s: the encoder sees the visible patches only, so a
    step costs about a quarter; in the MIX phase the classifier then reads the visible patches too (as in
    SupMAE). With encoder cost 1, decoder d and visible share v a step costs 1 + d or v + d.

In one pass or in two
    ``MAE(mask='input', fused=False)`` gives the classifier all patches in the MIX phase and runs the encoder a
    second time, on the visible ones, for the decoder: such a step costs 1 + v + d. In the SSL phase, without a
    classifier, it stays one pass, v + d. With ``MixTraining(rho=1, alpha=0.9, objective=MAE(mask='input',
    fused=False))`` every step is SSAT's, 0.1 * CE + 0.9 * MAE (Das et al., "Limited Data, Unlimited Potential: A
    Study on ViTs Augmented by Masked Autoencoders", WACV 2024).

Hyperparameters
    ``mask_ratio`` 0.75 and a decoder 2 deep as wide as the encoder (Li et al., appendix A.3). A
    ``Ramp(0.75, 0.0)`` over the MIX phase hands the classifier ever more of the image.

Caveats
    Plain pixels beat per-patch normalised ones on small images (see SMAE, IcarusWizard/MAE); the default is
    plain. Li et al. write that "the MAE loss is calculated only from unmasked patches", He et al. that it is
    from the masked ones; ``loss`` offers both, and 'all'.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest, Role, ViTBackbone
from mixplug.backbones.selection import random_tokens, random_visible, take_tokens
from mixplug.checks import check_bool, check_choice, check_int
from mixplug.objectives.base import Objective
from mixplug.objectives.collapse import embedding_std, watch_rank
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule, check_schedule, value_at


class Reconstruction(NamedTuple):
    """Images for pictures, each ``(B, C, H, W)`` in the model's own normalisation.

    Attributes:
        original: The images.
        masked: The same with hidden patches set to 0 (the data's mean, where it is normalised).
        reconstruction: The same with hidden patches as the decoder predicts them.
        prediction: The decoder's prediction of every patch.
    """

    original: Tensor
    masked: Tensor
    reconstruction: Tensor
    prediction: Tensor


class MAE(Objective):
    """Masked autoencoder on a timm ViT (He et al., 2022; Li et al., appendix A.2 and A.3).

    Args:
        mask: 'features' (Li et al.: the encoder sees all patches) or 'input' (He et al.: the visible ones).
        mask_ratio: Share of hidden patches in [0, 1): a number or a schedule, by default over MIX. At least
            one patch is always hidden and one visible.
        decoder_dim: Width of the decoder, a multiple of 4; None for the encoder's.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of a decoder block; None for the encoder's.
        norm_pix: Predict pixels normalised by each patch's own mean and variance.
        loss: Patches that count: 'masked', 'visible' or 'all'.
        fused: Whether the classifier and the decoder share one pass of the encoder in the MIX phase. False, for
            ``mask='input'`` alone, gives the classifier a pass over all patches and the decoder one over the
            visible ones.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range, or ``fused=False`` with ``mask='features'``.
    """

    def __init__(
        self,
        mask: str = "features",
        mask_ratio: Schedule = 0.75,
        decoder_dim: int | None = None,
        decoder_depth: int = 2,
        decoder_heads: int | None = None,
        norm_pix: bool = False,
        loss: str = "masked",
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.mask = check_choice("mask", mask, ("features", "input"))
        self.mask_ratio = check_schedule("mask_ratio", mask_ratio, 0, 1, high_open=True)
        self.decoder_dim = None if decoder_dim is None else check_int("decoder_dim", decoder_dim, 4)
        self.decoder_depth = check_int("decoder_depth", decoder_depth, 1)
        self.decoder_heads = None if decoder_heads is None else check_int("decoder_heads", decoder_heads, 1)
        if not isinstance(norm_pix, bool):
            raise TypeError(f"norm_pix must be True or False, got {norm_pix!r}")
        self.norm_pix = norm_pix
        self.loss = check_choice("loss", loss, ("masked", "visible", "all"))
        self.fused = check_bool("fused", fused)
        if mask == "features" and not fused:
            raise ValueError(
                "fused=False needs mask='input', got mask='features', with which the encoder sees all patches in any "
                "case: a second pass would repeat the first; use MAE(mask='input', fused=False), or leave fused=True"
            )
        self.single_pass = fused
        self._fit: tuple[int, ...] | None = None
        self._monitors: dict[str, Tensor] = {}

    @property
    def kind(self) -> str:
        """See the base class: the two maskings cost different passes, and two passes other ones than one."""
        return f"MAE ({self.mask})" if self.fused else f"MAE ({self.mask}, two passes)"

    def build(self, backbone: Backbone) -> MAE:
        """Create the decoder for ``backbone`` on its device and in its dtype; see the base class."""
        if not isinstance(backbone, ViTBackbone):
            raise TypeError(
                f"MAE hides patches from a timm VisionTransformer with a plain PatchEmbed, and this "
                f"{type(backbone.model).__name__} is none; use one, or an objective of two views, such as SimSiam() "
                f"or MoCoV3()"
            )
        rows, columns = backbone.patch_size
        fit = (backbone.embed_dim, backbone.num_prefix_tokens, rows, columns, backbone.in_chans, backbone.normalised)
        if self._fit is not None:
            if fit != self._fit:
                raise ValueError(f"this MAE was built for another backbone: {self._fit}, not {fit}; make a new one")
            return self
        dim = self.decoder_dim or backbone.embed_dim
        heads = self.decoder_heads or backbone.num_heads
        if dim % heads or dim % 4:
            raise ValueError(
                f"a decoder {dim} wide with {heads} heads cannot be: decoder_dim must be a multiple of decoder_heads "
                f"and of 4 (sine-cosine position embedding)"
            )
        if self.norm_pix and rows * columns * backbone.in_chans < 2:
            raise ValueError("norm_pix=True needs patches of at least 2 values to have a variance; these have 1")
        embed = backbone.vit.patch_embed
        if embed.strict_img_size and embed.num_patches == 1:
            raise ValueError(f"MAE hides patches, but {embed.img_size} is a single one: use a smaller patch_size")
        # timm moves the final norm behind the pooling for avg-pooled models: the tokens then come as the
        # residual stream left them, and the decoder brings the norm.
        self.encoder_norm = nn.Identity() if backbone.normalised else nn.LayerNorm(backbone.embed_dim, eps=1e-6)
        self.embed = nn.Linear(backbone.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)  # He et al.'s; timm's default differs by version
        self.blocks = nn.Sequential(
            *(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(self.decoder_depth))
        )
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, rows * columns * backbone.in_chans)
        self.apply(_init_weights)
        nn.init.normal_(self.mask_token, std=0.02)
        self.patch_size = backbone.patch_size
        self.num_prefix_tokens = backbone.num_prefix_tokens
        self._fit = fit
        like = next(backbone.vit.parameters())
        return self.to(device=like.device, dtype=like.dtype)

    def request(self, position: Position | Phase | str) -> PassRequest:
        """A random share of the tokens for ``mask='input'``, all for ``mask='features'``.

        With ``fused=False`` all in the MIX phase too, for the classifier.
        """
        position = Position.of(position)
        if self.mask == "input" and (self.fused or position.phase is not Phase.MIX):
            return self._request_visible(position)
        return PassRequest(
            position, all_tokens=True, native_patches=True, metrics={"mask_ratio": self._ratio(position)}
        )

    def forward(self, seen: BackbonePass) -> Tensor:
        """Mean squared error of the predicted patches (He et al., section 3), a scalar."""
        prediction, keep = self._predict(seen)
        # The tokens' mean rather than the model's own pooling, which may draw random numbers (dropout).
        features = seen.output.detach().mean(dim=1)
        self._monitors = {
            "embedding_std": embedding_std(features),
            **watch_rank(features, seen.request.position.step),
        }
        # The loss keeps float32 under autocast: squares of bfloat16 differences lose most of their digits.
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        target = patchify(seen.images.detach(), self.patch_size).to(prediction)
        if self.norm_pix:
            mean, std = _patch_statistics(target)
            target = (target - mean) / std
        error = (prediction - target).square().mean(dim=-1)
        if self.loss == "all":
            return error.mean()
        visible = torch.zeros_like(error).scatter(1, keep, 1.0)
        counts = visible if self.loss == "visible" else 1 - visible
        return (error * counts).sum() / counts.sum()

    def monitors(self) -> Mapping[str, Tensor]:
        """Signs of collapse, of the mean of each image's tokens; see the base class."""
        return self._monitors

    @torch.no_grad()
    def reconstruct(self, backbone: Backbone, images: Tensor, phase: Phase = Phase.SSL) -> Reconstruction:
        """Hide patches of ``images`` ``(B, C, H, W)`` as a pass of ``phase`` does, and fill them in.

        The masks come from torch's global generator: seed it to see the same ones again. Set the model to eval
        mode first if it has dropout.
        """
        position = Position.of(phase)
        # The decoder alone is asked, so that the classifier's pass can be left out.
        request = self.request(position) if self.fused else self._request_visible(position)
        seen = backbone.encode(images, request)
        prediction, keep = self._predict(seen)
        target = patchify(images, self.patch_size)
        if self.norm_pix:
            mean, std = _patch_statistics(target)
            prediction = prediction * std + mean
        hidden = torch.ones_like(target[..., :1]).scatter(1, keep.unsqueeze(-1), 0.0).bool()
        pictures = (
            target,
            target.masked_fill(hidden, 0.0),
            torch.where(hidden, prediction.to(target), target),
            prediction,
        )
        return Reconstruction(*(unpatchify(p, self.patch_size, seen.grid) for p in pictures))

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        names = ["mask", "mask_ratio", "decoder_dim", "decoder_depth", "decoder_heads", "norm_pix", "loss"]
        if not self.fused:  # left out where it is not, for checkpoints from before there was a choice
            names.append("fused")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _request_visible(self, position: Position) -> PassRequest:
        """A pass on a random share of the patches."""
        ratio = self._ratio(position)
        select = random_tokens(1 - ratio, hidden=1)
        return PassRequest(position, select=select, native_patches=True, metrics={"mask_ratio": ratio})

    def _ratio(self, position: Position) -> float:
        return value_at(self.mask_ratio, position, "mix")

    def _predict(self, seen: BackbonePass) -> tuple[Tensor, Tensor]:
        """Predicted patches ``(B, N, pixels)`` and the indices ``(B, n)`` of the visible ones."""
        if self._fit is None:
            raise RuntimeError("this MAE has no decoder yet: call build(backbone) first")
        if not self.fused and seen.keep is None:
            select = self._request_visible(seen.request.position).select
            seen = seen.encode(seen.images, Role.QUERY, select)
        rows, columns = seen.grid
        prefix, patches = seen.output.split([self.num_prefix_tokens, seen.output.shape[1] - self.num_prefix_tokens], 1)
        keep = seen.keep
        if keep is None:
            ratio = self._ratio(seen.request.position)
            keep = random_visible(len(patches), rows * columns, patches.device, ratio=ratio)
            patches = take_tokens(patches, keep)
        embedded = self.embed(self.encoder_norm(torch.cat([prefix, patches], dim=1)))
        prefix, patches = embedded.split([prefix.shape[1], patches.shape[1]], 1)
        index = keep.unsqueeze(-1).expand_as(patches)
        canvas = self.mask_token.to(patches).expand(len(patches), rows * columns, -1)
        position = build_sincos2d_pos_embed([rows, columns], self.mask_token.shape[-1], device=patches.device)
        canvas = canvas.scatter(1, index, patches) + position.to(patches)
        decoded = self.norm(self.blocks(torch.cat([prefix, canvas], dim=1)))
        return self.predict(decoded[:, prefix.shape[1] :]), keep


def patchify(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """``(B, C, H, W)`` to ``(B, N, rows * columns * C)``: one row for each patch, in row-major order of the grid."""
    batch, channels, height, width = images.shape
    rows, columns = patch_size
    cut = images.reshape(batch, channels, height // rows, rows, width // columns, columns)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patchify` for a ``grid`` of rows and columns of patches."""
    batch, _, pixels = patches.shape
    rows, columns = patch_size
    channels = pixels // (rows * columns)
    cut = patches.reshape(batch, *grid, rows, columns, channels).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(batch, channels, grid[0] * rows, grid[1] * columns)


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch's pixels, as in He et al.'s code."""
    mean = patches.mean(dim=-1, keepdim=True)
    return mean, (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def _init_weights(module: nn.Module) -> None:
    """He et al.'s initialisation of the decoder."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
