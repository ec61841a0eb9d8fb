"""Unlabelled images in the model's own pass, by the side of the labelled ones."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from mixplug.backbones import PassRequest, Role
from mixplug.schedules.phases import Phase


class SideBySide:
    """Has the encoder see unlabelled images in the passes of the MIX phase, after the model's own images.

    The objective learns from all of them. The model, its loss and whatever reads its outputs see the labelled ones
    alone, an ordinary batch.

    Attributes:
        images: What the next pass is shown beside the model's images, ``(B', C, H, W)``, resized to their height and
            width where these differ; to be set before the model runs in MIX. None for nothing.

    Example:
        >>> side = SideBySide()
        >>> training = Training(model, plan, MAE(mask="input"), plugins=[side])  # doctest: +SKIP
        >>> with training.step(time, optimizer) as step:  # doctest: +SKIP
        ...     side.images = unlabelled
        ...     loss = step.loss(F.cross_entropy(model(images), labels))
    """

    def __init__(self) -> None:
        self.images: Tensor | None = None

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with further images."""
        if request.role is not Role.SHARED or request.position.phase is not Phase.MIX:
            return request
        return dataclasses.replace(request, append=self._take)

    def _take(self) -> Tensor | None:
        return self.images
