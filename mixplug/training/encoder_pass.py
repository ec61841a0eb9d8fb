"""EncoderPass: what a pass over the encoder is shown, assembled by several.

In each step the user's own ``model.forward`` runs once under an :class:`EncoderPass`, which belongs to no objective: it
owns the adapter in every phase, supervised learning too. What the pass is shown is a
:class:`mixplug.PassRequest`. The objective asks for a view or for tokens, in the phases that have a self-supervised
loss, and *amendments* change the request by the pass's role:

=========  ============================================================================  ============================
role       which pass                                                                    who amends it
=========  ============================================================================  ============================
shared     the model's own                                                               token dropout, size
query      a further pass with gradient                                                  token dropout
key        one without gradient (a momentum encoder's, behind a stopped gradient)        patch scaling
local      DINO's small crops                                                            nobody
score      one without gradient, by which the step chooses its views                     who chooses
=========  ============================================================================  ============================

Two amendments that want the same of a pass, such as two choices of tokens, are refused by name, unless the later one
says by ``combines = True`` that it takes the earlier one's into account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mixplug.backbones import Backbone, BackbonePass, PassRequest
from mixplug.objectives import Objective
from mixplug.schedules.phases import Phase, Position

Amendment = Callable[[PassRequest], PassRequest]
"""``request -> request``: a changed copy (``dataclasses.replace``), or the request itself for no change."""

_SLOTS = {
    "view": "what the encoder is shown",
    "select": "the tokens",
    "patch": "the size of the patches",
    "append": "further images",
    "pass_on": "what becomes of further images after the encoder",
    "size": "the size of the images",
    "choose": "the views",
    "magnitude": "the views' magnitude",
}


class EncoderPass:
    """Assembles the requests of a step's passes, and watches the model's own.

    Args:
        backbone: The adapter of the encoder.
        objective: The self-supervised objective, built for it; None for supervised learning alone.

    Example:
        Half of the tokens in supervised learning:

        >>> def drop_half(request):
        ...     if request.role == "shared" and request.position.phase == "sl":
        ...         return dataclasses.replace(request, select=random_tokens(0.5))
        ...     return request
        >>> encoder_pass.add(drop_half)  # doctest: +SKIP
    """

    def __init__(self, backbone: Backbone, objective: Objective | None = None) -> None:
        self.backbone = backbone
        self.objective = objective
        self.amendments: list[Amendment] = []

    def add(self, amendment: Amendment) -> None:
        """Have ``amendment`` change requests from now on, after those that are there; once, however often it is added.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(amendment):
            raise TypeError(f"an amendment must be a function (request) -> request, got {amendment!r}")
        if amendment not in self.amendments:
            self.amendments.append(amendment)

    def within_batch(self, request: PassRequest) -> str | None:
        """What of the loss depends on the other images of the batch, and so on microbatches; None if nothing does.

        It is what the objective says, and those whose methods ``request.compare`` has.
        """
        asked = (self.objective, *(getattr(change, "__self__", None) for change in request.compare))
        parts = (getattr(one, "within_batch", None) for one in asked)
        return " and ".join(part for part in parts if part) or None

    def request(self, position: Position) -> PassRequest | None:
        """What the model's own pass at ``position`` shall be shown; None where nobody wants anything of it.

        Raises:
            TypeError: an amendment returns no request.
            ValueError: two want the same of the pass.
        """
        wants_loss = self.objective is not None and position.phase is not Phase.SL
        if not wants_loss and not self.amendments:
            return None
        assert self.objective is not None or not wants_loss
        return self.amend(self.objective.request(position) if wants_loss else PassRequest(position))  # type: ignore[union-attr]

    def amend(self, request: PassRequest) -> PassRequest:
        """``request`` as all amendments leave it; see :meth:`request` for what is refused."""
        owners = {slot: _name(self.objective) for slot in _SLOTS if getattr(request, slot) is not None}
        if request.all_tokens:
            owners["select"] = _name(self.objective)
        if request.native_patches:
            owners["patch"] = _name(self.objective)
        for amendment in self.amendments:
            amended = amendment(request)
            if not isinstance(amended, PassRequest):
                raise TypeError(
                    f"the amendment {_name(amendment)} must return the request or a changed copy, got {amended!r}; use "
                    f"dataclasses.replace(request, ...)"
                )
            for slot, what in _SLOTS.items():
                if getattr(amended, slot) is getattr(request, slot):
                    continue
                if slot in owners and not getattr(amendment, "combines", False):
                    raise ValueError(
                        f"{owners[slot]} and {_name(amendment)} both choose {what} of the {request.role} pass in the "
                        f"{request.position.phase} phase; leave one of them out of that phase"
                    )
                owners[slot] = _name(amendment)
            request = amended
        return request

    def start(self, request: PassRequest) -> BackbonePass:
        """Begin to watch the model's own pass, for callers that cannot use a ``with`` block."""
        self.backbone.abandon()  # a step that failed may be tried again in smaller microbatches
        return self.backbone.start(request, self.amend)

    def stop(self) -> BackbonePass:
        """End what :meth:`start` began and return what the pass left behind.

        Raises:
            RuntimeError: the model did not run its encoder exactly once.
        """
        return self.backbone.stop()

    @contextmanager
    def watch(self, position: Position) -> Iterator[BackbonePass | None]:
        """Serve the request at ``position`` in the one forward pass inside of the block; yield what it leaves behind.

        Where nobody wants anything of the pass, None.
        """
        request = self.request(position)
        if request is None:
            yield None
            return
        with self.backbone.watch(request, self.amend) as seen:
            yield seen


def _name(amendment: Any) -> str:
    return getattr(amendment, "__name__", None) or type(amendment).__name__
