"""Pseudo-labels for the images by the side of the labelled ones; see :class:`mixplug.PseudoLabels` for what they do."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixplug.backbones import BackbonePass, PassRequest, Role
from mixplug.backbones.modes import evaluating
from mixplug.checks import check_bool, check_real
from mixplug.data.processes import summed
from mixplug.objectives.pairs import to_float32
from mixplug.schedules.phases import Phase
from mixplug.schedules.shapes import Ramp, Schedule, check_schedule, value_at
from mixplug.views.views import Views

WEIGHT = Ramp(0.0, 1.0)
"""Up to FixMatch's weight of 1, as the classifier that makes the labels learns."""

MOMENTUM = 0.99
"""Of the shares of confident images that ``per_class`` goes by: about the last hundred steps."""


class PseudoLabelLoss:
    """Has the model's outputs of the images beside its own agree with what it makes of them unmasked.

    It goes with :class:`mixplug.SideBySide`, among the same plugins, and acts in MIX alone. A step in which its weight
    is 0 is the step without it, bit for bit. Outside of :class:`mixplug.Training`, call :meth:`before_step` and
    :meth:`after_step` around a step.

    Args:
        threshold: Confidence from which on a prediction is a label, in [0, 1] (FixMatch, Eq. 4: tau).
        weight: Of the term in the joint loss, at least 0: a number or a schedule, by default over MIX.
        views: Strong views for the images that are learned from; None for what the pass shows of them.
        per_class: Lower the threshold of classes that are seldom predicted with confidence (FlexMatch).

    Attributes:
        shares: Share of the unlabelled images that are predicted as each class with confidence, ``(K,)``, a mean over
            past steps; None before the first.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range.

    Example:
        >>> side, pseudo = SideBySide(), PseudoLabelLoss()
        >>> training = Training(model, plan, MAE(mask="input"), plugins=[side, pseudo])  # doctest: +SKIP
        >>> with training.step(time, optimizer) as step:  # doctest: +SKIP
        ...     side.images = unlabelled
        ...     logits, further = pseudo.split(model(images), model)
        ...     loss = step.loss(F.cross_entropy(logits, labels)) + further
    """

    phases = (Phase.MIX.value,)

    def __init__(
        self,
        threshold: float = 0.95,
        weight: Schedule = WEIGHT,
        views: Views | None = None,
        per_class: bool = False,
    ) -> None:
        self.threshold = check_real("threshold", threshold, 0, 1)
        self.weight = check_schedule("weight", weight, 0, math.inf, high_open=True)
        if views is not None and not isinstance(views, Views):
            raise TypeError(f"views must be Views(...), or None for what the pass shows anyhow; got {views!r}")
        self.views = views
        self.per_class = check_bool("per_class", per_class)
        self.shares: Tensor | None = None
        self.loss: Tensor | None = None
        self._now = 0.0
        self._seen: BackbonePass | None = None
        self._warned = False
        self.before_step()

    @property
    def active(self) -> bool:
        """Whether the step that was last asked for has the term."""
        return self._now > 0

    def yields_to(self, request: PassRequest) -> bool:
        """Whether the objective's own wish goes first: never."""
        return False

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with unlabelled images that go through the whole model."""
        if request.role is not Role.SHARED:
            return request
        mixed = request.position.phase is Phase.MIX
        self._now, self._seen = value_at(self.weight, request.position, "mix") if mixed else 0.0, None
        if not self.active:
            return request
        view = request.view if self.views is None else self._show_strong_views
        return dataclasses.replace(request, view=view, pass_on=self._note_pass)

    def split(
        self, logits: Tensor, model: nn.Module, batch_of: Callable[[Tensor], Any] = lambda images: images
    ) -> tuple[Tensor, Tensor]:
        """The model's outputs of its own images, and what the others add to the loss.

        The labels are predictions in evaluation mode, without gradient, of the images as they came: one more pass.

        Args:
            logits: What the model made of the step's pass, ``(B + B', K)``; its own images come first.
            model: The model.
            batch_of: What ``model`` is given of images ``(B', C, H, W)``.

        Returns:
            Logits ``(B, K)``, and a scalar, the term with its weight: 0 where the step has none.

        Raises:
            TypeError: the outputs are no logits.
            ValueError: they are not as many as there were images.
        """
        seen, self._seen = self._seen, None
        self._splits += 1
        if seen is None or seen.own == len(seen.source):
            self.loss = torch.zeros((), device=logits.device if isinstance(logits, Tensor) else None)
            return logits, self.loss
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"pseudo-labels need logits (B, K), and the model returns {got}; let it return those")
        if len(logits) != len(seen.source):
            raise ValueError(
                f"the encoder was shown {len(seen.source)} images, and the model returns {len(logits)} rows of logits; "
                f"let it return one for each image"
            )
        position = seen.request.position
        key = seen.amend(PassRequest(position, Role.KEY))
        with evaluating([model]), torch.no_grad(), seen.backbone.watch(key, seen.amend):
            weak = model(batch_of(seen.source[seen.own :]))
        confidence, labels = to_float32(weak).softmax(dim=1).max(dim=1)
        accepted = confidence >= self.thresholds(weak)[labels]
        loss = (F.cross_entropy(to_float32(logits[seen.own :]), labels, reduction="none") * accepted).mean()
        self.loss = loss.detach()
        self._accepted.append(accepted)
        if self.per_class:
            confident = F.one_hot(labels, weak.shape[1]) * (confidence >= self.threshold)[:, None]
            self._confident.append(confident.to(torch.float32))
        return logits[: seen.own], self._now * loss

    def thresholds(self, logits: Tensor) -> Tensor:
        """The confidence that each class asks for, ``(K,)``, for ``logits`` ``(B', K)``.

        With ``per_class`` FlexMatch's ``T(c) = M(beta(c)) * tau`` (Zhang et al., 2021, section 3), where ``M(x) =
        x / (2 - x)`` and ``beta`` is the class's share of confident images over the largest share, that of the images
        without confidence included. All begin at 0 and rise. A share is a mean over past steps here, and over each
        image's last prediction there.
        """
        blank = torch.zeros(logits.shape[1], device=logits.device)
        if not self.per_class:
            return blank + self.threshold
        shares = blank if self.shares is None else self.shares.to(blank)
        beta = shares / torch.maximum(shares.max(), 1 - shares.sum())
        return beta / (2 - beta) * self.threshold

    def before_step(self) -> None:
        """A step begins, perhaps again: forget what was noted."""
        self._accepted: list[Tensor] = []
        self._confident: list[Tensor] = []
        self._splits = 0

    def after_step(self) -> None:
        """The optimizer has stepped: with ``per_class``, thresholds follow what was predicted."""
        if self.active and self._splits and not self._accepted and not self._warned:
            self._warned = True
            warnings.warn(
                "PseudoLabelLoss has been shown no unlabelled images in a step of MIX: have SideBySide among the same "
                "plugins, and set its images before the model runs",
                stacklevel=2,
            )
        if self.per_class and self._confident:
            confident = torch.cat(self._confident)
            # A number more for the images, which processes may have unequally many of.
            total = summed(F.pad(confident.sum(dim=0), (0, 1), value=float(len(confident))))
            shares = total[:-1] / total[-1]
            before = torch.zeros_like(shares) if self.shares is None else self.shares.to(shares)
            self.shares = MOMENTUM * before + (1 - MOMENTUM) * shares

    def monitors(self) -> Mapping[str, Tensor]:
        """The share of the step's unlabelled images that had a label, in [0, 1]."""
        return {"pseudo_share": torch.cat(self._accepted).float().mean()} if self._accepted else {}

    def _note_pass(self, seen: BackbonePass) -> None:
        self._seen = seen

    def _show_strong_views(self, images: Tensor, seen: BackbonePass) -> Tensor:
        assert self.views is not None
        further = images[seen.own :]
        if not len(further):
            return images
        strong = self.views(further.detach(), 0, self.views.magnitude_at(seen.request.position))
        return torch.cat([images[: seen.own], strong])

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("threshold", "weight", "views", "per_class")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"
