"""Momentum encoders: the base of the objectives whose targets a slowly moving copy of the encoder makes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mixplug.backbones import Backbone, BackbonePass
from mixplug.objectives.two_view import TwoView
from mixplug.objectives.view_pairs import Pair, View
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Cosine, Schedule, Shape, check_schedule, value_at
from mixplug.views.views import Views


class MomentumTwoView(TwoView):
    """Base of those with a momentum encoder, which follows the encoder and gets no gradient.

    After each step of the SSL and MIX phases ``slow = m * slow + (1 - m) * fast``. A number is where m starts: it goes
    to 1 by half a cosine over SSL and MIX together (Grill et al., 2020, section 3.3; Chen et al., 2021; Caron et al.,
    2021). A schedule is taken as it is, by default over SSL and MIX.

    Args:
        views: See :class:`TwoView`.
        symmetric: See :class:`TwoView`.
        momentum: Where the momentum starts, or a schedule, in [0, 1].
    """

    settings = (*TwoView.settings, "momentum")
    #: Whether a step has begun, and whether there was a pass of none since the last one.
    _in_step = _passed = False

    def __init__(self, views: str | Views, symmetric: bool, momentum: Schedule) -> None:
        super().__init__(views, symmetric)
        self.momentum = check_schedule("momentum", momentum, 0, 1)

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

    def before_step(self) -> None:
        """See the base class."""
        self._in_step = True

    def check_step(self) -> None:
        """See the base class.

        Raises:
            RuntimeError: it is the second pass to learn from without a step: the momentum encoder would stand still.
        """
        if not self._in_step and torch.is_grad_enabled():
            if self._passed:
                raise RuntimeError(
                    f"a second forward pass of {type(self).__name__} came without a step since the first, so its "
                    f"momentum encoder does not follow: train within `with training.step(time, optimizer)` of "
                    f"mixplug.Training, or call before_step(), after_backward(position) and after_step(position) "
                    f"around each step; to look at a loss alone, use torch.no_grad()"
                )
            self._passed = True

    def after_step(self, position: Position) -> None:
        """Let the momentum encoder follow."""
        self._in_step = self._passed = False
        slow, fast = (list(tensors) for tensors in zip(*self._followed_parameters(), strict=True))
        get_ema_multi_avg_fn(self.momentum_at(position))(slow, fast, None)

    def momentum_at(self, position: Position) -> float:
        """The momentum m at ``position``."""
        given = self.momentum
        return value_at(given if isinstance(given, Shape) else Cosine(given, 1.0), position, "ssl")

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """See the base class."""
        return {"momentum": self.momentum_at(position)}

    def pairs(self, position: Position) -> list[Pair]:
        """See the base class: in the MIX phase view 0 alone predicts."""
        return [Pair(0, 1)] if position.phase is Phase.MIX else super().pairs(position)

    def make_target(self, seen: BackbonePass, view: View, projection: Tensor | None) -> Tensor:
        """The momentum projector's output on the momentum encoder's features, ``(B, D)``; see the base class."""
        with torch.no_grad():
            return self.momentum_projector(seen.encode_by(self.momentum_encoder, view.images))

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
