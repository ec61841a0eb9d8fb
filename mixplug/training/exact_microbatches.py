"""A loss within a batch, with the whole batch's gradient, from passes over microbatches (GradCache, Gao et al., 2021).

First come the features of all microbatches, without gradient; from them the loss of the whole batch, which gives each
feature its gradient; then each microbatch again, with the same random numbers, and that gradient from there on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest, Role
from mixplug.backbones.base import FrozenEncoder
from mixplug.backbones.selection import TokenSelector
from mixplug.objectives.joint import LossWeights

if TYPE_CHECKING:
    from mixplug.training.step import Training

Supervised = Callable[[Tensor, slice], Tensor]
"""The supervised loss, a mean over images, of the logits of a part of the batch, and which part that is."""


class CachedPass(BackbonePass):
    """A pass over a whole batch that was made in microbatches, and of which the features alone are left.

    Further passes, which objectives ask of it, are made in the same way, and noted for :meth:`replay`.

    Args:
        request: What was asked of the pass.
        backbone: The adapter.
        images: What the encoder saw, ``(B, C, H, W)``.
        features: What it made of them, ``(B, D)``, without gradient.
        size: Images of a microbatch.
        amend: See :class:`mixplug.backbones.BackbonePass`.
    """

    def __init__(
        self,
        request: PassRequest,
        backbone: Backbone,
        images: Tensor,
        features: Tensor,
        size: int,
        amend: Callable[[PassRequest], PassRequest],
    ) -> None:
        super().__init__(request, backbone, images=images, runs=1, amend=amend)
        self.cached = features
        self.size = size
        self.further: list[tuple[CachedPass, list[list[Tensor]], TokenSelector | None]] = []

    @property
    def features(self) -> Tensor:
        """See the base class: a leaf, whose gradient is kept."""
        return self.cached

    def encode(self, images: Tensor, role: Role = Role.QUERY, select: TokenSelector | None = None) -> BackbonePass:
        """See the base class."""
        with_gradient = torch.is_grad_enabled() and role is not Role.KEY
        features, states = [], []
        with torch.no_grad():
            for part in images.split(self.size):
                states.append(random_numbers(images.device))
                features.append(super().encode(part, role, select).features)
        request = dataclasses.replace(self.request, role=role, view=None)
        made = CachedPass(request, self.backbone, images, torch.cat(features), self.size, self.amend)
        if with_gradient:
            made.cached.requires_grad_()
            self.further.append((made, states, select))
        return made

    def encode_by(self, encoder: FrozenEncoder, images: Tensor) -> Tensor:
        """See the base class."""
        return torch.cat([super(CachedPass, self).encode_by(encoder, part) for part in images.split(self.size)])

    def replay(self) -> None:
        """Make the further passes once more, with gradient, and go on from the gradients of their features."""
        for made, states, select in self.further:
            if made.cached.grad is None:
                continue
            gradients = made.cached.grad.split(self.size)
            for part, gradient, state in zip(made.images.split(self.size), gradients, states, strict=True):
                set_random_numbers(state, part.device)
                features = super().encode(part, made.request.role, select).features
                features.backward(gradient.to(features.dtype))


def backward_within_batch(
    training: Training,
    request: PassRequest,
    images: Tensor,
    size: int,
    supervised: Supervised | None,
    weights: LossWeights,
) -> Tensor:
    """Add the gradients of a batch's joint loss, and return that loss; see :meth:`mixplug.training.step.TrainingStep`.

    Raises:
        ValueError: the model's encoder is given something else than ``images``.
    """
    objective, passes, model = training.objective, training.encoder_pass, training.model
    assert objective is not None
    shown = images if request.view is None else request.view(images)
    parts, shown_parts = images.split(size), shown.split(size)
    requests = [request if request.view is None else _showing(request, part) for part in shown_parts]
    features, states = [], []
    with _buffers_put_back(model):
        with torch.no_grad():
            for part, of_part in zip(parts, requests, strict=True):
                states.append(random_numbers(images.device))
                with passes.backbone.watch(of_part, passes.amend) as seen:
                    model(part)
                if seen.source is not part and not torch.equal(seen.source, part):
                    raise ValueError(
                        "microbatches of a loss within the batch need a model that gives its encoder the images as "
                        "they are: do in the data loader what other layers do to them"
                    )
                features.append(seen.features)
        whole = CachedPass(request, passes.backbone, shown, torch.cat(features), size, passes.amend)
        whole.source = images
        with torch.set_grad_enabled(weights.ssl > 0):
            whole.cached.requires_grad_(weights.ssl > 0)
            ssl = objective(whole)
    total = weights.ssl * ssl
    if weights.ssl > 0:
        total.backward()
    total, after, start = total.detach(), random_numbers(images.device), 0
    for part, of_part, state in zip(parts, requests, states, strict=True):
        set_random_numbers(state, images.device)
        span = slice(start, start + len(part))
        with passes.backbone.watch(of_part, passes.amend) as seen:
            logits = model(part)
        terms = []
        if whole.cached.grad is not None:
            terms.append((seen.features * whole.cached.grad[span].to(seen.features.dtype)).sum())
        if weights.sl > 0:
            loss = weights.sl * len(part) / len(images) * _of(supervised, logits, span)
            total = total + loss.detach()
            terms.append(loss)
        if terms:
            torch.stack(terms).sum().backward()
        start = span.stop
    whole.replay()
    set_random_numbers(after, images.device)
    return total


def random_numbers(device: torch.device) -> list[Tensor]:
    """The state of torch's generators that a pass on ``device`` draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_numbers(state: list[Tensor], device: torch.device) -> None:
    """Put back what :func:`random_numbers` gave."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _showing(request: PassRequest, part: Tensor) -> PassRequest:
    return dataclasses.replace(request, view=lambda _: part)


def _of(supervised: Supervised | None, logits: Tensor, span: slice) -> Tensor:
    if supervised is None:
        raise ValueError("the sl loss has a weight but there is none: give supervised=")
    return supervised(logits, span)


@contextmanager
def _buffers_put_back(model: nn.Module) -> Iterator[None]:
    """The statistics of BatchNorm count each microbatch once, when it comes with gradient."""
    held = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in held:
                buffer.copy_(value)
