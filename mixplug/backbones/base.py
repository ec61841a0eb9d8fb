"""What an SSL objective may ask of an encoder.

An adapter lets the user's own ``model.forward`` run once and keeps what the pass leaves behind: the images the
encoder saw and its output. Between :meth:`Backbone.watch` blocks the model behaves as if the adapter were not there.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixplug.backbones.modes import batch_norms
from mixplug.backbones.patches import PatchSizer
from mixplug.backbones.selection import TokenSelector
from mixplug.schedules.phases import Phase, Position
from mixplug.views.augmentation import resize


class Role(str, Enum):
    """What a pass over the encoder is for: by this, amendments choose the passes that they change.

    ``SHARED`` is the model's own pass. ``QUERY`` is a further one with gradient, ``KEY`` one without (a momentum
    encoder's, or behind a stopped gradient), ``LOCAL`` that of DINO's small crops, and ``SCORE`` one without gradient
    by which a step chooses its views.
    """

    SHARED = "shared"
    QUERY = "query"
    KEY = "key"
    LOCAL = "local"
    SCORE = "score"

    def __str__(self) -> str:
        return self.value


ImageSizer = Callable[[int, int, "Backbone"], tuple[int, int]]
"""``(height, width, backbone) -> (height, width)``: what images of that size are brought to."""


@dataclass
class PassRequest:
    """What one pass over the encoder shall be shown, assembled by several.

    The objective asks for a view or tokens, and amendments (token dropout, a resolution) change it by its role: see
    :class:`mixplug.training.encoder_pass.EncoderPass`.

    Args:
        position: Where in the training the pass is; a phase alone stands for its beginning.
        role: What the pass is for.
        select: ``(batch, patches, device) -> (batch, kept)`` indices of the patch tokens that the encoder shall
            see, or None for all of them. Vision transformers only.
        all_tokens: Whether who asks needs every patch token, so that nobody else may choose.
        patch: ``(height, width) -> pixels``, the side of the patches that images of that size are cut into, or None
            for native ones.
        native_patches: Whether who asks needs native patches, so that nobody else may choose.
        view: ``(images, seen) -> (B, C, H', W')``: what the encoder shall see instead of the batch's images ``(B, C, H,
            W)``, which ``seen`` is the pass of; None for the images as they are.
        size: ``(height, width, backbone) -> (height, width)``: what images of that size are brought to, or None for
            their own. Views are made at it, and what comes in another size is resized. Further passes of the step are
            shown images that are of it already.
        magnitude: Of an objective's views, None for their own.
        jitter: What the strengths of their colour jitter are multiplied by, at least 0.
        choose: ``(objective, seen) -> (view 0, view 1)``: how an objective of two views finds its views, or None for
            two that are made at random. In the MIX phase view 0 is what the classifier sees.
        append: ``() -> (B', C, H, W)`` or None: further images that the encoder sees in the model's own pass, after
            the model's own, which sees nothing of them; asked when those come to it. None for none.
        pass_on: What is told the pass when the encoder's output of such images goes on to the rest of the model, whose
            outputs of them then follow those of its own; None takes it off at the encoder's exit.
        pairs: Of an objective of two views, which view predicts which; empty of others.
        compare: What changes the views that such an objective compares, in this order: see
            :data:`mixplug.objectives.view_pairs.PairsAmendment`.
        metrics: Numbers worth logging (mask ratio, momentum).
    """

    position: Position
    role: Role = Role.SHARED
    select: TokenSelector | None = None
    all_tokens: bool = False
    patch: PatchSizer | None = None
    native_patches: bool = False
    view: Callable[[Tensor, BackbonePass], Tensor] | None = None
    size: ImageSizer | None = None
    magnitude: float | None = None
    jitter: float = 1.0
    choose: Callable[[Any, BackbonePass], tuple[Tensor, Tensor]] | None = None
    append: Callable[[], Tensor | None] | None = None
    pass_on: Callable[[BackbonePass], None] | None = None
    pairs: Sequence[Any] = ()
    compare: Sequence[Callable[..., Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = Position.of(self.position)
        self.role = Role(self.role)

    @property
    def is_plain(self) -> bool:
        """Whether the encoder shall see the images as they are."""
        plain = self.select is None and self.view is None and self.patch is None
        return plain and self.append is None and self.size is None


def as_asked(request: PassRequest) -> PassRequest:
    """The request itself: how requests are amended where nobody amends them."""
    return request


@dataclass
class BackbonePass:
    """What one forward pass over an encoder left behind.

    Args:
        request: What was asked of the pass.
        backbone: The adapter that watched it.
        source: The images before ``request.view``, ``(B, C, H, W)``: the model's, then those that were appended.
        images: The images that the encoder saw, ``(B, C, H, W)``.
        output: What the encoder made of them: a vision transformer's tokens, prefix tokens first, ``(B, P + n, D)``;
            a convolutional network's map, ``(B, D, H, W)``.
        keep: Indices of the n patch tokens in row-major order of the grid, ``(B, n)``; None if all.
        grid: Rows and columns of a vision transformer's patch grid.
        appended: The images that come after the model's own, ``(B', C, H, W)``; None for none.
        own: How many images are the model's own.
        runs: How often the model ran its encoder; a usable pass has exactly 1.
        amend: What makes of the request for a further pass what that is shown.
        partner: The view that was chosen together with ``images``, if one was.
    """

    request: PassRequest
    backbone: Backbone
    source: Tensor = None  # type: ignore[assignment]
    images: Tensor = None  # type: ignore[assignment]
    output: Tensor = None  # type: ignore[assignment]
    keep: Tensor | None = None
    grid: tuple[int, int] = (0, 0)
    appended: Tensor | None = None
    own: int = 0
    runs: int = 0
    amend: Callable[[PassRequest], PassRequest] = as_asked
    partner: Tensor | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that images of this pass shall have."""
        height, width = self.source.shape[-2:]
        sizer = self.request.size
        return (height, width) if sizer is None else sizer(height, width, self.backbone)

    def show(self, images: Tensor, view: Callable[[Tensor, BackbonePass], Tensor] | None = None) -> Tensor:
        """``images``, or a ``view`` of them, at the size of this pass."""
        shown = images if view is None else view(images, self)
        return shown if self.request.size is None else resize(shown, self.image_size)

    @property
    def features(self) -> Tensor:
        """The output pooled as the classifier reads it, ``(B, D)``."""
        return self.backbone.pool(self.output)

    def encode(self, images: Tensor, role: Role = Role.QUERY, select: TokenSelector | None = None) -> BackbonePass:
        """Run the encoder once more, for objectives that need further views.

        Args:
            images: What it shall be shown, ``(B, C, H, W)``.
            role: What the pass is for; ``KEY`` runs without gradient.
            select: The patch tokens that it shall see, None for all.
        """
        native = self.request.native_patches
        request = self.amend(PassRequest(self.request.position, role, select, native_patches=native))
        with torch.set_grad_enabled(torch.is_grad_enabled() and role is not Role.KEY):
            return self.backbone.encode(images, request, self.amend)

    def encode_by(self, encoder: FrozenEncoder, images: Tensor) -> Tensor:
        """Features ``(B, D)`` of ``images`` by a momentum encoder: a pass of role ``KEY``."""
        return encoder(images, self.amend(PassRequest(self.request.position, Role.KEY)))


class Backbone(ABC):
    """Adapter for the encoder inside of a model.

    Args:
        model: The module whose encoder it is.

    Attributes:
        num_features: Width D of the pooled features.
    """

    num_features: int

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # The innermost last: a view may be chosen by what the encoder makes of several.
        self._passes: list[BackbonePass] = []
        self._training = True
        self._stride: int | None = None
        self.attach()

    @property
    @abstractmethod
    def attached(self) -> bool:
        """Whether this adapter listens to the model."""

    @abstractmethod
    def attach(self) -> None:
        """Listen to the model, in the place of any other adapter."""

    @abstractmethod
    def detach(self) -> None:
        """Leave the model as it was."""

    @property
    @abstractmethod
    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that lead to the output: all but pooling, the norm behind it and the classifier."""

    @abstractmethod
    def pool(self, output: Tensor) -> Tensor:
        """The encoder's output as the classifier reads it, ``(B, D)``."""

    @abstractmethod
    def features_of(self, images: Tensor) -> Tensor:
        """The pooled features ``(B, D)`` of ``images`` ``(B, C, H, W)``, whether the adapter is attached or not."""

    @abstractmethod
    def _run(self, images: Tensor) -> None:
        """Run the encoder alone, so that the adapter sees it."""

    def _pooled(self, features: Tensor) -> Tensor:
        """``features`` if they are pooled, ``(B, D)``.

        Raises:
            ValueError: they are not.
        """
        if features.shape[1:] != (self.num_features,):
            raise ValueError(
                f"{type(self.model).__name__} gives features of shape {tuple(features.shape)} instead of "
                f"{self.num_features} numbers for each image; build it with a pooling, such as global_pool='avg'"
            )
        return features

    def frozen_copy(self) -> FrozenEncoder:
        """A copy of the encoder as a module ``images -> features`` that no gradient reaches."""
        return FrozenEncoder(self)

    def classifiers(self) -> list[nn.Module]:
        """The modules behind the features, which a copy of the encoder can do without."""
        return []

    def stride(self) -> int:
        """How many pixels of an image are one of the last map's, or the side of a patch: sizes are multiples of it.

        Raises:
            ValueError: the encoder makes no map of images of other sizes, and timm does not say.
        """
        if self._stride is None:
            self._stride = self._measured_stride()
        return self._stride

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one size of images that the encoder takes; None if it takes several, or timm does not say."""
        embed: Any = getattr(self.model, "patch_embed", None)
        return getattr(embed, "img_size", None) if getattr(embed, "strict_img_size", False) else None

    def _measured_stride(self) -> int:
        watched, self._passes = self._passes, []
        try:
            copied = copy.deepcopy(self)
        finally:
            self._passes = watched
        copied.model.to("meta")
        copied.attach()
        channels = next((p.shape[1] for p in copied.model.parameters() if p.ndim == 4), 3)
        side = 256
        try:
            with torch.no_grad():
                output = copied.encode(torch.zeros(2, channels, side, side, device="meta")).output
        except Exception:  # whatever a network of one size raises
            output = None
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == self.num_features:
            return max(1, round(side / output.shape[-1]))
        layers: Any = getattr(self.model, "feature_info", None)
        if not layers:
            raise ValueError(
                f"{type(self.model).__name__} makes no map from which its stride could be told, which sizes of images "
                f"are multiples of; give SuperProgressiveLearning a step=, HardAugment a select_size="
            )
        return int(layers[-1]["reduction"])

    @contextmanager
    def watch(
        self, request: PassRequest, amend: Callable[[PassRequest], PassRequest] = as_asked
    ) -> Iterator[BackbonePass]:
        """Serve ``request`` in the one forward pass inside of the block, and yield what that pass leaves behind.

        Example:
            >>> with backbone.watch(objective.request(Phase.MIX)) as seen:  # doctest: +SKIP
            ...     logits = model(images)
            >>> loss = objective(seen)  # doctest: +SKIP

        Raises:
            RuntimeError: the block did not run the encoder exactly once.
        """
        with self._watched(self.start(request, amend)) as seen:
            yield seen

    @contextmanager
    def _watched(self, seen: BackbonePass) -> Iterator[BackbonePass]:
        try:
            yield seen
        except BaseException:
            self.abandon()
            raise
        self.stop()

    def start(self, request: PassRequest, amend: Callable[[PassRequest], PassRequest] = as_asked) -> BackbonePass:
        """Begin what :meth:`watch` does, for callers that cannot use a ``with`` block.

        Args:
            request: What the pass shall be shown.
            amend: What makes of the request for a further pass what that is shown.
        """
        name = type(self).__name__
        if not self.attached:
            raise RuntimeError(
                f"this {name} is not attached to its model: it was detached, or replaced by a newer one; use that "
                f"one, or attach() this one"
            )
        if request.select is not None and not self.selects_tokens:
            raise TypeError(
                f"a choice of patch tokens was asked of {type(self.model).__name__}, which has none; use a timm "
                f"VisionTransformer"
            )
        if request.patch is not None and not self.selects_tokens:
            raise TypeError(
                f"patches of another size were asked of {type(self.model).__name__}, which has none; use a timm "
                f"VisionTransformer"
            )
        self._passes.append(BackbonePass(request, self, amend=amend))
        self._training = self.model.training
        return self._passes[-1]

    def stop(self) -> BackbonePass:
        """End what :meth:`start` began and return what the pass left behind."""
        if not self._passes:
            raise RuntimeError(f"{type(self).__name__}.stop() without a start()")
        seen = self._passes.pop()
        if seen.runs != 1:
            compiled = (
                ". If torch.compile has compiled the model, and it ran before mixplug knew of it, call "
                "torch.compiler.reset() first, or leave compiling to Composer's compile_config"
            )
            raise RuntimeError(
                f"the model ran its backbone {seen.runs} times in one forward pass; MixTraining needs exactly one "
                f"pass that both heads share (Li et al., Fig. 3){'' if seen.runs else compiled}"
            )
        return seen

    def abandon(self) -> None:
        """Give up the passes that are being watched."""
        self._passes.clear()

    #: Whether it can serve ``PassRequest.select`` and ``PassRequest.patch``.
    selects_tokens = False

    def encode(
        self,
        images: Tensor,
        request: PassRequest | None = None,
        amend: Callable[[PassRequest], PassRequest] = as_asked,
    ) -> BackbonePass:
        """Run the encoder alone on ``images`` ``(B, C, H, W)``, by default as they are and on all of their tokens."""
        with self._watched(self.start(request or PassRequest(Position(Phase.SSL)), amend)) as seen:
            self._run(images)
        return seen

    def _begun(self) -> BackbonePass | None:
        """The pass that is being watched."""
        if self.model.training is not self._training:
            self.abandon()  # left by a training step that was interrupted: this is an evaluation
        return self._watching()

    def _watching(self) -> BackbonePass | None:
        return self._passes[-1] if self._passes else None

    def _enter(self, seen: BackbonePass, images: Tensor) -> Tensor:
        """Note the ``images`` that come to the encoder, and return what it shall see."""
        seen.own = len(images)
        # Asked for when they are needed: what a loop has set since the pass was asked for counts.
        seen.appended = None if seen.request.append is None else seen.request.append()
        if seen.appended is not None:
            images = torch.cat([images, _like(seen.appended, images)])
        seen.source = images
        seen.images = seen.show(images, seen.request.view)
        return seen.images

    def _leave(self, seen: BackbonePass, output: Tensor) -> Tensor:
        """Note the encoder's output, and return what of it is the model's own."""
        seen.output = output
        seen.runs += 1
        if seen.appended is None:
            return output
        if seen.request.pass_on is None:
            return output[: seen.own]
        seen.request.pass_on(seen)
        return output


def _like(more: Tensor, images: Tensor) -> Tensor:
    """``more`` images as they can follow ``images``, which others may have resized.

    Raises:
        ValueError: they cannot.
    """
    if images.grad_fn is not None:
        raise ValueError(
            f"further images can be appended where images come to an encoder, and this one is given what other layers "
            f"make of them, {tuple(images.shape)}: name by backbone= the submodule that takes the images themselves"
        )
    if more.shape[1] != images.shape[1]:
        raise ValueError(
            f"the images to append have {more.shape[1]} channels, the model's own {images.shape[1]}; give both as many"
        )
    more = more.to(images)
    if more.shape[2:] != images.shape[2:]:
        more = F.interpolate(more, images.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    return more


class FrozenEncoder(nn.Module):
    """A copy of an encoder with its pooling, without its classifier: ``(B, C, H, W) -> (B, D)``, no gradient.

    Momentum encoders are such copies. Its BatchNorm layers are in training mode when the objective is, for batch
    statistics are its own; everything else is in evaluation mode: nothing is dropped, no dropout, no layer (as DINO's
    teacher has none, Caron et al., 2021, though its student does).

    Args:
        backbone: The adapter of the encoder to copy.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        was_attached = backbone.attached
        backbone.detach()
        # What is more than a layer may hold the pooling, too, and stays.
        heads = (head for head in backbone.classifiers() if isinstance(head, nn.Linear))
        memo: dict[int, Any] = {id(head): nn.Identity() for head in heads}
        copied = copy.deepcopy(backbone, memo)
        if was_attached:
            backbone.attach()
        self.model = copied.model.requires_grad_(False)
        self._copied = [copied]  # in a list, for it is no module
        self.train(self.training)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Put its BatchNorm layers into training mode, or evaluation mode, and everything else into the latter."""
        super().train(False)
        self.training = mode
        for layer in batch_norms(self):
            layer.train(mode)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, request: PassRequest | None = None) -> Tensor:
        """The features of ``images``, of what ``request`` has the encoder see of them."""
        backbone = self._copied[0]
        if request is None or request.is_plain:
            return backbone.features_of(images)
        backbone.attach()
        try:
            return backbone.encode(images, request).features
        finally:
            backbone.detach()
