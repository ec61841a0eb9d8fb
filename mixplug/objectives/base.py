"""The protocol of self-supervised objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest
from mixplug.schedules.phases import Phase, Position

Self = TypeVar("Self", bound="Objective")


class Objective(nn.Module, ABC):
    """What SSL adds to a backbone: its own parameters and a loss on what one forward pass left behind.

    An objective is made of settings alone. :meth:`build` creates its parameters once the backbone is known;
    then each step is: :meth:`request` says what the pass must do, the user's ``model.forward`` runs once under
    ``backbone.watch(request)``, and :meth:`forward` turns what it left behind into a scalar. An objective knows
    neither phases' lengths nor loss weights, optimizers or Composer.

    **A masked objective** (MAE) asks for tokens (``PassRequest.select``) and reads ``seen.output``, the tokens.

    **A two-view objective** (SimSiam, MoCo, DINO ...) asks for a view of the images in the SSL phase
    (``PassRequest.view``); in the MIX phase the image that the classifier sees *is* one view. It reads
    ``seen.features``, and runs the encoder once more for the other view, ``seen.encode(images).features``, made from
    the images that came, ``seen.source``. :class:`mixplug.objectives.two_view.TwoView` has what such objectives share.
    Views are made on the device from the batch's one image tensor, so a batch stays ``(x, y)`` and Composer's
    microbatch split stays right.

    **State** that steps change (momentum encoders, queues, centres) lives in buffers and frozen parameters, so that
    checkpoints hold it. A step may come in several microbatches, or be tried again, so :meth:`forward` changes none of
    it: it notes what it saw, and :meth:`after_step` acts on it. Around each step, in the phases that have a
    self-supervised loss, come :meth:`before_step`, :meth:`after_backward` and :meth:`after_step`.
    """

    #: What of the loss depends on the other images of the batch, and so on microbatches; None if nothing does.
    within_batch: str | None = None
    #: Whether the model's own forward pass is the only one; sharded models (FSDP) allow no other.
    single_pass = True

    @property
    def kind(self) -> str:
        """What a MixTraining and the SSL+SL that it is compared with must have in common."""
        return type(self).__name__

    @abstractmethod
    def build(self: Self, backbone: Backbone) -> Self:
        """Create the parameters that depend on the backbone and return self; a second call only checks the fit.

        Raises:
            TypeError: this objective needs another kind of backbone.
            ValueError: these settings cannot work on this backbone.
        """

    @abstractmethod
    def request(self, position: Position | Phase | str) -> PassRequest:
        """What the forward pass must do at ``position`` of the SSL or MIX phase; a phase alone is its beginning."""

    @abstractmethod
    def forward(self, seen: BackbonePass) -> Tensor:
        """The self-supervised loss, a scalar of at least float32, from what the pass left behind."""

    def begin(self) -> None:
        """A training begins with the weights that the backbone has now: copies of them are made here."""

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that no gradient may reach: :meth:`after_step` alone changes them."""
        return ()

    def before_step(self) -> None:
        """A step begins, perhaps again after an attempt that was given up: forget what :meth:`forward` noted."""

    def after_backward(self, position: Position) -> None:
        """The gradients are complete, and the optimizer has yet to step."""

    def after_step(self, position: Position) -> None:
        """The optimizer has made the step that began at ``position``: update momentum encoders, queues, centres."""

    def monitors(self) -> Mapping[str, Tensor]:
        """Scalars of the step's forward passes worth logging, such as signs of collapse."""
        return {}
