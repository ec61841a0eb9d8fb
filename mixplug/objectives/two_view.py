"""What objectives of two views have in common: passes, views, heads, momentum encoders, signs of collapse.

What it does
    In the SSL phase the model's own pass sees view 0 of each image, and the encoder runs once more on view 1. In the
    MIX phase the image that the classifier sees *is* one view, so that pass is shared, and view 1 is the other. Views
    are made on the training device from the batch's own images (:class:`mixplug.Views`).

What a step costs, in passes of the encoder (a forward and backward is 3 forwards)
    =====================================  ===============================  ====================================
    objective                              SSL phase                        MIX phase (with the classifier)
    =====================================  ===============================  ====================================
    SimSiam, SimCLR                        2 with gradient                  2 with gradient
    SimSiam, ``symmetric=False``           1 with, 1 without gradient       1 with, 1 without gradient
    BYOL, MoCoV2Plus, MoCoV3, DINO         2 with, 2 without gradient       1 with, 1 without gradient
    the same, ``symmetric=False``          1 with, 1 without gradient       1 with, 1 without gradient
    =====================================  ===============================  ====================================

    DINO's local crops come on top in the SSL phase, each the share of a pass that its pixels are.

Symmetry
    Losses are symmetrised as in their papers: both views predict, both are predicted. ``symmetric=False`` has view 0
    alone predict view 1; it is weighed as both terms are together. With a momentum encoder the MIX phase is one-sided
    in any case: the other side would cost a second pass with gradient.

Caveats
    BatchNorm in heads (all but MoCoV2Plus's and DINO's) takes its statistics from the microbatch at hand, and SimCLR
    and MoCoV3 their negatives: a run in microbatches is another run, which mixplug warns of. FSDP is refused, since the
    second pass is outside of the model's own.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mixplug.backbones import Backbone, BackbonePass, PassRequest
from mixplug.checks import check_bool, check_int, check_real
from mixplug.objectives.base import Objective
from mixplug.schedules.phases import Phase, Position
from mixplug.views.views import Views

Self = TypeVar("Self", bound="TwoView")


class TwoView(Objective):
    """Base of the objectives of two views.

    A subclass makes its heads in :meth:`make_heads` and its loss in :meth:`forward`.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        symmetric: Whether both views predict each other, as in the papers.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: there is no such recipe of views.
    """

    single_pass = False
    #: Names of the constructor's arguments, for ``repr`` and so for the comparison of checkpoints.
    settings: tuple[str, ...] = ("views", "symmetric")

    def __init__(self, views: str | Views, symmetric: bool = True) -> None:
        super().__init__()
        if not isinstance(views, (str, Views)):
            raise TypeError(f"views must be a recipe's name, such as 'simclr', or Views(...), got {views!r}")
        self.views = Views(views) if isinstance(views, str) else views
        self.symmetric = check_bool("symmetric", symmetric)
        self._width: int | None = None
        self._monitors: dict[str, Tensor] = {}

    @abstractmethod
    def make_heads(self, width: int) -> None:
        """Create the heads for features ``width`` wide."""

    def build(self: Self, backbone: Backbone) -> Self:
        """Create the heads on the backbone's device and in its dtype; see the base class."""
        width = backbone.num_features
        if self._width is not None:
            if width != self._width:
                raise ValueError(
                    f"this {type(self).__name__} was built for features {self._width} wide, not {width}; make a new one"
                )
            return self
        self.make_heads(width)
        self._width = width
        like = next(backbone.model.parameters())
        return self.to(device=like.device, dtype=like.dtype)

    def request(self, position: Position | Phase | str) -> PassRequest:
        """View 0 in the SSL phase, the classifier's images in MIX."""
        position = Position.of(position)
        magnitude = self.views.magnitude_at(position)
        view = partial(self._first_view, magnitude=magnitude) if position.phase is Phase.SSL else None
        metrics = {"view_magnitude": magnitude, **self.scheduled(position)}
        return PassRequest(position, view=view, metrics=metrics)

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """Numbers that change over the training, to be logged."""
        return {}

    def other_view(self, seen: BackbonePass) -> Tensor:
        """View 1 of the images that came to the shared pass.

        Raises:
            ValueError: the encoder was given no images, but what other layers made of them.
        """
        self._check_source(seen.source)
        magnitude = self.views.magnitude_at(seen.request.position)
        return self.views(seen.source.detach(), which=1, magnitude=magnitude)

    def watch_collapse(self, embeddings: Tensor) -> None:
        """Note how far the normalised ``embeddings`` ``(B, D)`` spread.

        ``embedding_std`` is their standard deviation over the batch, mean over dimensions, times sqrt(D): about 1 for
        embeddings in all directions, 0 for one and the same (Chen and He, 2021, section 4.1).
        """
        spread = F.normalize(wide(embeddings.detach()), dim=-1).std(dim=0, correction=0).mean()
        self._monitors = {"embedding_std": spread * math.sqrt(embeddings.shape[-1])}

    def monitors(self) -> Mapping[str, Tensor]:
        """See the base class."""
        return self._monitors

    def check_batch(self, features: Tensor) -> None:
        """Refuse a batch that BatchNorm heads cannot be trained on.

        Raises:
            ValueError: it has one image.
            RuntimeError: the heads have not been made.
        """
        if self._width is None:
            raise RuntimeError(f"this {type(self).__name__} has no heads yet: call build(backbone) first")
        normalises = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())
        if normalises and self.training and len(features) < 2:
            raise ValueError(
                f"{type(self).__name__}'s head normalises over the batch (BatchNorm) and got a batch of 1 image: use "
                f"drop_last=True, another batch size or larger microbatches"
            )

    def _first_view(self, images: Tensor, magnitude: float) -> Tensor:
        self._check_source(images)
        return self.views(images, 0, magnitude)

    def _check_source(self, images: Tensor) -> None:
        # Images may be leaves that want a gradient, but nothing has computed them.
        if images.grad_fn is not None:
            raise ValueError(
                f"{type(self).__name__} needs views of images, and the encoder is given what other layers make of "
                f"them, {tuple(images.shape)}: name by backbone= the submodule that takes the images themselves"
            )

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings if name != "views")


class MomentumTwoView(TwoView):
    """Base of those with a momentum encoder, which follows the encoder and gets no gradient.

    After each step of the SSL and MIX phases ``slow = m * slow + (1 - m) * fast`` with
    ``m = 1 - (1 - momentum) * (cos(pi * t) + 1) / 2``, t the progress of SSL and MIX together (Grill et al., 2020,
    section 3.3; Chen et al., 2021; Caron et al., 2021).

    Args:
        views: See :class:`TwoView`.
        symmetric: See :class:`TwoView`.
        momentum: Where the momentum starts, in [0, 1]; it ends at 1.
    """

    projector: nn.Module
    settings = (*TwoView.settings, "momentum")

    def __init__(self, views: str | Views, symmetric: bool, momentum: float) -> None:
        super().__init__(views, symmetric)
        self.momentum = check_real("momentum", momentum, 0, 1)

    @abstractmethod
    def make_heads(self, width: int) -> None:
        """Create the heads, among them ``self.projector``, which the momentum encoder has a copy of."""

    def build(self: Any, backbone: Backbone) -> Any:
        """See the base class."""
        new = self._width is None
        super().build(backbone)
        if new:
            self.momentum_encoder = backbone.frozen_copy()
            self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)
        else:
            self._check_fit(backbone)
        self._encoder = [backbone.model]  # in a list, for it is the model's own
        return self

    def _check_fit(self, backbone: Backbone) -> None:
        fast = {name: p.shape for name, p in backbone.model.named_parameters()}
        for name, slow in self.momentum_encoder.model.named_parameters():
            if fast.get(name) != slow.shape:
                raise ValueError(
                    f"this {type(self).__name__} was built for another encoder, whose {name} is {tuple(slow.shape)} "
                    f"and not {tuple(fast[name]) if name in fast else 'missing'}; make a new one"
                )

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the momentum encoder."""
        return (*self.momentum_encoder.parameters(), *self.momentum_projector.parameters())

    def begin(self) -> None:
        """Copy the weights that the encoder has now."""
        with torch.no_grad():
            for slow, fast in self._followed():
                slow.copy_(fast)

    def after_step(self, position: Position) -> None:
        """Let the momentum encoder follow."""
        slow, fast = (list(tensors) for tensors in zip(*self._followed_parameters(), strict=True))
        get_ema_multi_avg_fn(self.momentum_at(position))(slow, fast, None)

    def momentum_at(self, position: Position) -> float:
        """M at ``position``."""
        return cosine(self.momentum, 1.0, position.ssl_progress)

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """See the base class."""
        return {"momentum": self.momentum_at(position)}

    def one_sided(self, seen: BackbonePass) -> bool:
        """Whether view 0 alone predicts."""
        return not self.symmetric or seen.request.position.phase is Phase.MIX

    def look(self, seen: BackbonePass) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """By view, the encoder's features ``(B, D)`` of those that predict, and the momentum projector's output.

        The latter, ``(B, P)``, is of those that are predicted.
        """
        self.check_batch(seen.features)
        other = self.other_view(seen)
        slow = {1: self._slow(seen, other)}
        if self.one_sided(seen):
            return {0: seen.features}, slow
        return {0: seen.features, 1: seen.encode(other).features}, {0: self._slow(seen, seen.images), **slow}

    def _slow(self, seen: BackbonePass, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.momentum_projector(seen.encode_by(self.momentum_encoder, images))

    def _followed_parameters(self) -> Iterable[tuple[Tensor, Tensor]]:
        for slow, fast in self._networks():
            fasts = dict(fast.named_parameters())
            yield from ((value, fasts[name].detach()) for name, value in slow.named_parameters())

    def _followed(self) -> Iterable[tuple[Tensor, Tensor]]:
        yield from self._followed_parameters()
        for slow, fast in self._networks():
            fasts = dict(fast.named_buffers())
            yield from ((value, fasts[name]) for name, value in slow.named_buffers())

    def _networks(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        return (self.momentum_encoder.model, self._encoder[0]), (self.momentum_projector, self.projector)


def mean_over_pairs(
    term: Callable[[Tensor, Tensor], Tensor], predictions: Mapping[int, Tensor], targets: Mapping[int, Tensor]
) -> Tensor:
    """The mean of ``term(prediction, target)`` over pairs of different views."""
    terms = [term(q, k) for i, q in predictions.items() for j, k in targets.items() if i != j]
    return torch.stack(terms).mean()


def cosine(start: float, stop: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``stop`` over ``progress`` in [0, 1]."""
    return stop - (stop - start) * (math.cos(math.pi * progress) + 1) / 2


def wide(values: Tensor) -> Tensor:
    """``values`` in at least float32, for losses under autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def in_full_precision(values: Tensor) -> torch.autocast:
    """A context without autocast, so that products of float32 embeddings are float32."""
    # Where operations are counted, tensors have no values and no device that could be autocast.
    return torch.autocast("cpu" if values.is_meta else values.device.type, enabled=False)


def check_temperature(name: str, value: float) -> float:
    """Return ``value`` if it is a number above 0."""
    return check_real(name, value, 0, math.inf, low_open=True, high_open=True)


def check_sizes(**sizes: int) -> None:
    """Check that widths of a head are integers of at least 1."""
    for name, size in sizes.items():
        check_int(name, size, 1)
