"""What an SSL objective may ask of an encoder, and the adapter for timm's vision transformers.

An adapter lets the user's own ``model.forward`` run once and keeps what the pass leaves behind: the images the
encoder saw, its tokens and which tokens those are. Between :meth:`ViTBackbone.watch` blocks the model behaves as
if the adapter were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import PatchDropout, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixplug.phases import Phase

TokenSelector = Callable[[int, int, torch.device], Tensor]


@dataclass
class PassRequest:
    """What an objective needs from one forward pass.

    Args:
        phase: The phase the pass belongs to.
        progress: Progress of that phase in [0, 1].
        select: ``(batch, patches, device) -> (batch, kept)`` indices of the patch tokens that the encoder shall
            see, or None for all of them.
        view: ``(B, C, H, W) -> (B, C, H', W')``: what the encoder shall see instead of the batch's images, or
            None for the images as they are.
        metrics: Numbers worth logging (mask ratio, momentum).
    """

    phase: Phase
    progress: float = 0.0
    select: TokenSelector | None = None
    view: Callable[[Tensor], Tensor] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.phase = Phase(self.phase)


@dataclass
class BackbonePass:
    """What one forward pass over a ViT left behind.

    Args:
        request: What was asked of the pass.
        encode: Runs the encoder once more, for objectives that need further views: ``(images, request=None)``
            to a new :class:`BackbonePass`.
        source: The model's images before ``request.view``, ``(B, C, H, W)``.
        images: The images that the encoder saw, ``(B, C, H, W)``.
        tokens: The encoder's output, prefix tokens first, ``(B, P + n, D)``.
        keep: Indices of the n patch tokens in row-major order of the grid, ``(B, n)``; None if all.
        grid: Rows and columns of the patch grid.
        runs: How often the model ran its encoder; a usable pass has exactly 1.
    """

    request: PassRequest
    encode: Callable[..., BackbonePass]
    source: Tensor = None  # type: ignore[assignment]
    images: Tensor = None  # type: ignore[assignment]
    tokens: Tensor = None  # type: ignore[assignment]
    keep: Tensor | None = None
    grid: tuple[int, int] = (0, 0)
    runs: int = 0


class ViTBackbone:
    """Adapter for a timm ``VisionTransformer``: selects tokens and keeps what the pass leaves behind.

    timm's ``forward_features`` runs ``patch_embed -> _pos_embed -> patch_drop -> norm_pre -> blocks -> norm``.
    The adapter puts a selector in the place of ``patch_drop`` and listens at ``patch_embed`` and ``norm``, so no
    line of timm's forward is copied. Parameters, buffers and their names stay what they are.

    Args:
        vit: The transformer, with any of class token, register tokens, token/avg/map pooling, learned, frozen or
            no position embedding, ``dynamic_img_size``, gradient checkpointing and number of input channels.

    Attributes:
        embed_dim: Width D of the tokens.
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
        # timm's parallel blocks hold several attentions, or are one.
        heads = (getattr(module, "num_heads", None) for module in vit.blocks.modules())
        self.num_heads: int = next(count for count in heads if count is not None)
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        # Composer's BlurPool and SqueezeExcite put modules that hold the convolution in its place.
        self.in_chans: int = next(m for m in vit.patch_embed.proj.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.normalised: bool = not isinstance(vit.norm, nn.Identity)
        self._pass: BackbonePass | None = None
        self._training = True
        self._hooks: list[RemovableHandle] = []
        self.attach()

    @property
    def attached(self) -> bool:
        """Whether this adapter listens to the transformer."""
        return isinstance(self.vit.patch_drop, _TokenSelection) and self.vit.patch_drop.backbone is self

    def attach(self) -> None:
        """Listen to the transformer, in the place of any other adapter."""
        vit = self.vit
        if self.attached:
            return
        if isinstance(vit.patch_drop, _TokenSelection):
            vit.patch_drop.backbone.detach()
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
        heads = (vit.attn_pool, vit.fc_norm, vit.head)
        excluded = {id(p) for head in heads if head is not None for p in head.parameters()}
        excluded |= {id(p) for p in getattr(vit, "head_dist", nn.Identity()).parameters()}
        return [p for p in vit.parameters() if id(p) not in excluded]

    @contextmanager
    def watch(self, request: PassRequest) -> Iterator[BackbonePass]:
        """Serve ``request`` in the one forward pass inside of the block, and yield what that pass leaves behind.

        Example:
            >>> with backbone.watch(objective.request(Phase.MIX)) as seen:  # doctest: +SKIP
            ...     logits = model(images)
            >>> loss = objective(seen)  # doctest: +SKIP

        Raises:
            RuntimeError: the block did not run the encoder exactly once.
        """
        seen = self.start(request)
        try:
            yield seen
        except BaseException:
            self._pass = None
            raise
        self.stop()

    def start(self, request: PassRequest) -> BackbonePass:
        """Begin what :meth:`watch` does, for callers that cannot use a ``with`` block."""
        if not self.attached:
            raise RuntimeError(
                "this ViTBackbone is not attached to its model: it was detached, or replaced by a newer one; use that "
                "one, or attach() this one"
            )
        self._pass = BackbonePass(request, encode=self.encode)
        self._training = self.vit.training
        return self._pass

    def stop(self) -> BackbonePass:
        """End what :meth:`start` began and return what the pass left behind."""
        seen, self._pass = self._pass, None
        if seen is None:
            raise RuntimeError("ViTBackbone.stop() without a start()")
        if seen.runs != 1:
            raise RuntimeError(
                f"the model ran its backbone {seen.runs} times in one forward pass; MixTraining needs exactly one "
                f"pass that both heads share (Li et al., Fig. 3)"
            )
        return seen

    def encode(self, images: Tensor, request: PassRequest | None = None) -> BackbonePass:
        """Run the encoder alone on ``images`` ``(B, C, H, W)``, by default on all of their tokens."""
        with self.watch(request or PassRequest(Phase.SSL)) as seen:
            self.vit.forward_features(images)
        return seen

    def _before_patch_embed(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.vit.training is not self._training:
            self._pass = None  # left by a training step that was interrupted: this is an evaluation
        seen = self._pass
        if seen is None:
            return None
        seen.source = seen.images = args[0]
        if seen.request.view is not None:
            seen.images = seen.request.view(args[0])
        height, width = seen.images.shape[-2:]
        rows, columns = self.patch_size
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

    def _select(self, tokens: Tensor) -> Tensor:
        seen = self._pass
        if seen is None or seen.request.select is None:
            return tokens
        prefix = self.num_prefix_tokens
        batch, length, _ = tokens.shape
        seen.keep = seen.request.select(batch, length - prefix, tokens.device)
        return torch.cat([tokens[:, :prefix], take_tokens(tokens[:, prefix:], seen.keep)], dim=1)

    def _after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._pass is not None:
            self._pass.tokens = output
            self._pass.runs += 1


def backbone_of(model: nn.Module, path: str | None = None) -> ViTBackbone:
    """The adapter for the one vision transformer inside of ``model``, made on the first call.

    Args:
        model: Any module that is or holds a timm ``VisionTransformer``.
        path: Dotted name of the transformer inside of ``model`` (as in ``named_modules``), if it holds several.

    Raises:
        TypeError: there is no vision transformer, or ``path`` names something else.
        ValueError: there are several and ``path`` is None, or there is nothing at ``path``.
    """
    modules = dict(model.named_modules())
    if path is not None:
        if path not in modules:
            names = [name for name, module in modules.items() if isinstance(module, VisionTransformer)]
            raise ValueError(f"backbone={path!r} is no submodule of {type(model).__name__}; it holds {names}")
        vit = modules[path]
        if not isinstance(vit, VisionTransformer):
            raise TypeError(f"backbone={path!r} is a {type(vit).__name__}, not a timm VisionTransformer")
    else:
        found = {name: module for name, module in modules.items() if isinstance(module, VisionTransformer)}
        if not found:
            raise TypeError(
                f"{_describe(model)} holds no timm VisionTransformer, which this objective needs; build one with "
                f"timm.create_model('vit_tiny_patch16_224', ...)"
            )
        if len(found) > 1:
            raise ValueError(
                f"the model holds {len(found)} vision transformers, {sorted(found)}: name one by backbone="
            )
        vit = next(iter(found.values()))
    if isinstance(vit.patch_drop, _TokenSelection):
        return vit.patch_drop.backbone
    return ViTBackbone(vit)


def detach_backbones(model: nn.Module) -> None:
    """Detach every adapter in ``model``, copies of it (averaged models) included."""
    for module in list(model.modules()):
        if isinstance(module, _TokenSelection):
            module.backbone.detach()


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather ``tokens`` ``(B, N, D)`` at ``index`` ``(B, n)`` to ``(B, n, D)``."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


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


def _describe(model: nn.Module) -> str:
    inner = getattr(model, "module", None)
    name = type(model).__name__
    return f"{name} (of {type(inner).__name__})" if isinstance(inner, nn.Module) else name
