"""The protocol of self-supervised objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mixplug.backbones import BackbonePass, PassRequest, ViTBackbone
from mixplug.phases import Phase

Self = TypeVar("Self", bound="Objective")


class Objective(nn.Module, ABC):
    """What SSL adds to a backbone: its own parameters and a loss on what one forward pass left behind.

    An objective is made of settings alone. :meth:`build` creates its parameters once the backbone is known;
    then each step is: :meth:`request` says what the pass must do, the user's ``model.forward`` runs once under
    ``backbone.watch(request)``, and :meth:`forward` turns what it left behind into a scalar. An objective knows
    neither phases' lengths nor loss weights, optimizers or Composer.

    **A masked objective** (MAE) asks for tokens (``PassRequest.select``) and reads ``seen.tokens``.

    **A two-view objective** (SimSiam, MoCo, DINO ...) fits the same three methods::

        class SimSiam(Objective):
            def build(self, backbone):          # projector, predictor, momentum copy: all in parameters or buffers
                ...
            def request(self, phase, progress=0.0):
                # SSL: the shared pass sees a strong view. MIX: the image that the classifier sees *is* one view.
                return PassRequest(phase, progress, view=self.augment if phase is Phase.SSL else None)
            def forward(self, seen):            # one more pass for the other view, made from the source images
                other = seen.encode(self.augment(seen.source))
                return self.loss(self.project(seen.tokens), self.project(other.tokens))

    Views are made on the device from the batch's one image tensor, so a batch stays ``(x, y)`` and Composer's
    microbatch split stays right. A momentum copy runs its own passes under ``torch.no_grad()``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Have TorchScript leave the objective out: a model is exported with its head, but runs without it."""
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:
            cls.forward = torch.jit.ignore(cls.forward)  # type: ignore[method-assign]

    @abstractmethod
    def build(self: Self, backbone: ViTBackbone) -> Self:
        """Create the parameters that depend on the backbone and return self; a second call only checks the fit.

        Raises:
            ValueError: these settings cannot work on this backbone.
        """

    @abstractmethod
    def request(self, phase: Phase, progress: float = 0.0) -> PassRequest:
        """What the forward pass must do in ``phase`` (SSL or MIX) at ``progress`` in [0, 1]."""

    @abstractmethod
    def forward(self, seen: BackbonePass) -> Tensor:
        """The self-supervised loss, a scalar of at least float32, from what the pass left behind."""
