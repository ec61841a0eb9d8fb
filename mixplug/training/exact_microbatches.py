"""A loss within a batch, with the whole batch's gradient, from passes over microbatches (GradCache, Gao et al., 2021).

First come the features of all microbatches, without gradient; from them the loss of the whole batch, which gives each
feature its gradient; then each microbatch again, with the same random numbers, and that gradient from there on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest, Role
from mixplug.backbones.base import FrozenEncoder
from mixplug.backbones.selection import TokenSelector
from mixplug.objectives.pairs import to_float32
from mixplug.training.encoder_pass import EncoderPass


@dataclasses.dataclass
class FurtherPass:
    """A pass with gradient over some images that has been made without, and is to be made once more."""

    images: Tensor
    role: Role
    select: TokenSelector | None
    random: list[Tensor]
    gradient: Tensor | None = None


class CachedPass(BackbonePass):
    """A pass over a whole batch that was made in microbatches, and of which the features alone are left.

    Further passes, which objectives ask of it, are made in the same way, and noted.

    Args:
        request: What was asked of the pass.
        backbone: The adapter.
        source: The images that came, ``(B, C, H, W)``.
        images: What the encoder saw of them, ``(B, C, H', W')``.
        features: What it made of that, ``(B, D)``, without gradient.
        size: Images of a microbatch.
        amend: See :class:`mixplug.backbones.BackbonePass`.
    """

    def __init__(
        self,
        request: PassRequest,
        backbone: Backbone,
        source: Tensor,
        images: Tensor,
        features: Tensor,
        size: int,
        amend: Callable[[PassRequest], PassRequest],
    ) -> None:
        super().__init__(request, backbone, source=source, images=images, runs=1, amend=amend)
        self.cached = to_float32(features).requires_grad_(torch.is_grad_enabled())
        self.size = size
        self.further: list[tuple[Tensor, list[FurtherPass]]] = []

    @property
    def features(self) -> Tensor:
        """See the base class: a leaf."""
        return self.cached

    def encode(self, images: Tensor, role: Role = Role.QUERY, select: TokenSelector | None = None) -> BackbonePass:
        """See the base class."""
        made, features = [], []
        for part in images.split(self.size):
            made.append(FurtherPass(part, role, select, random_numbers(part.device)))
            with torch.no_grad():
                features.append(super().encode(part, role, select).features)
        request = dataclasses.replace(self.request, role=role, view=None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and role is not Role.KEY):
            whole = CachedPass(request, self.backbone, images, images, torch.cat(features), self.size, self.amend)
        if whole.cached.requires_grad:
            self.further.append((whole.cached, made))
        return whole

    def encode_by(self, encoder: FrozenEncoder, images: Tensor) -> Tensor:
        """See the base class."""
        return torch.cat([super(CachedPass, self).encode_by(encoder, part) for part in images.split(self.size)])

    def repeat(self, one: FurtherPass) -> Tensor:
        """Make a further pass once more, with gradient, and return its features."""
        set_random_numbers(one.random, one.images.device)
        return super().encode(one.images, one.role, one.select).features


class ExactMicrobatches:
    """The self-supervised loss of a whole batch, with each of its microbatches' part of the gradient.

    Making it runs the model on all microbatches without gradient. Then for each in turn: :meth:`set_random_numbers`,
    the model's pass under ``requests[index]``, and :meth:`loss_of`. At the end, :meth:`finish`.

    Args:
        passes: The passes over the encoder, with the objective.
        request: What the model's pass shall be shown.
        parts: The images of each microbatch, ``(b, C, H, W)``; all but the last are equally many.
        run: ``run(index)`` runs the model on a microbatch.
        model: The model; its buffers, such as BatchNorm's statistics, count each microbatch once. The
            objective may be a part of it.
        with_gradient: Whether the loss has a weight.

    Attributes:
        loss: The self-supervised loss, a scalar without gradient.
        requests: What the model's pass over each microbatch shall be shown.

    Raises:
        ValueError: the encoder is given something else than the images, or images by their side.
    """

    def __init__(
        self,
        passes: EncoderPass,
        request: PassRequest,
        parts: Sequence[Tensor],
        run: Callable[[int], object],
        model: nn.Module,
        with_gradient: bool = True,
    ) -> None:
        objective = passes.objective
        assert objective is not None
        if request.append is not None:
            raise ValueError(
                "microbatches with the whole batch's gradient cannot have further images by the side of their own: "
                "leave mixing='side_by_side' out, or do not ask for exact microbatches"
            )
        self._parts, self._random, features = parts, [], []
        images, size = torch.cat(list(parts)), len(parts[0])
        # Views of the whole batch at once, which are those that it has where it is not divided.
        whole = BackbonePass(request, passes.backbone, source=images, amend=passes.amend)
        shown = whole.show(images, request.view)
        as_they_are = request.view is None and request.size is None
        self.requests = [request if as_they_are else _showing(request, view) for view in shown.split(size)]
        own = {id(buffer) for buffer in objective.buffers()}  # it may be a part of the model
        with _put_back([buffer for buffer in model.buffers() if id(buffer) not in own]):
            for index, part in enumerate(parts):
                self._random.append(random_numbers(part.device))
                with torch.no_grad(), passes.backbone.watch(self.requests[index], passes.amend) as seen:
                    run(index)
                self._check_images(seen, index)
                features.append(seen.features)
            with torch.set_grad_enabled(with_gradient):
                self._pass = CachedPass(
                    request, passes.backbone, images, shown, torch.cat(features), size, passes.amend
                )
                self._pass.partner = whole.partner
                loss = objective(self._pass)
        self.loss = loss.detach()
        self._after = random_numbers(images.device)
        self._gradients: Sequence[Tensor | None] = [None] * len(parts)
        self._head: list[tuple[nn.Parameter, Tensor]] = []
        if with_gradient and loss.requires_grad:
            self._take_gradients(loss, [p for p in objective.parameters() if p.requires_grad])

    def _take_gradients(self, loss: Tensor, head: list[nn.Parameter]) -> None:
        leaves = [self._pass.cached, *(leaf for leaf, _ in self._pass.further)]
        shared, *further = torch.autograd.grad(loss, [*leaves, *head], allow_unused=True)
        if shared is not None:
            self._gradients = shared.split(self._pass.size)
        for (_, made), gradient in zip(self._pass.further, further, strict=False):
            for one, of_one in zip(made, gradient.split(self._pass.size) if gradient is not None else (), strict=False):
                one.gradient = of_one
        of_head = further[len(self._pass.further) :]
        self._head = [(p, gradient) for p, gradient in zip(head, of_head, strict=True) if gradient is not None]

    def set_random_numbers(self, index: int) -> None:
        """Have the pass over a microbatch draw what it drew before."""
        set_random_numbers(self._random[index], self._parts[index].device)

    def loss_of(self, index: int, seen: BackbonePass) -> Tensor:
        """The whole batch's loss, with a gradient for the microbatch.

        The mean over microbatches, each weighed by its share of the images, has the gradient of the whole batch.

        Raises:
            ValueError: the encoder was given something else than the images.
        """
        self._check_images(seen, index)
        features = to_float32(seen.features)
        total, gradient = 0.0 * features.sum(), self._gradients[index]
        if gradient is not None:
            total = total + (features * gradient).sum()
        waiting = [one for _, made in self._pass.further for one in made if one.gradient is not None]
        for one in waiting[index :: len(self._parts)]:
            assert one.gradient is not None
            total = total + (to_float32(self._pass.repeat(one)) * one.gradient).sum()
        if index == len(self._parts) - 1:  # processes tell each other gradients at the last one
            for parameter, of_parameter in self._head:
                total = total + (parameter * of_parameter).sum()
        share = len(self._parts[index]) / sum(map(len, self._parts))
        return self.loss + (total - total.detach()) / share

    def finish(self) -> None:
        """Go on with the random numbers that follow those of the step."""
        set_random_numbers(self._after, self._parts[0].device)

    def _check_images(self, seen: BackbonePass, index: int) -> None:
        part = self._parts[index]
        if seen.source is not part and not (seen.source.shape == part.shape and torch.equal(seen.source, part)):
            raise ValueError(
                "microbatches with the whole batch's gradient need an encoder that is given the batch's images as they "
                "are: do what other layers or algorithms (MixUp, CutMix ...) do to them in the data loader"
            )


def random_numbers(device: torch.device) -> list[Tensor]:
    """The state of torch's generators that a pass on ``device`` draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_numbers(state: list[Tensor], device: torch.device) -> None:
    """Put back what :func:`random_numbers` gave."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _showing(request: PassRequest, view: Tensor) -> PassRequest:
    return dataclasses.replace(request, view=lambda *_: view, size=None)


@contextmanager
def _put_back(buffers: Sequence[Tensor]) -> Iterator[None]:
    held = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in held:
                buffer.copy_(value)
