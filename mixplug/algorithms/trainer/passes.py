"""EncoderPass under Composer: watches the model's own pass in each training step, whoever wants something of it."""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from typing import Any

from composer.core import Event, State
from composer.loggers import Logger

from mixplug.algorithms.trainer.contract import Clock, PhasedAlgorithm, Stage, find, position_of
from mixplug.backbones import Backbone, BackbonePass, PassRequest, backbone_of, detach_backbones
from mixplug.schedules.phases import Phase, Position
from mixplug.training.encoder_pass import EncoderPass


class WatchedPass(PhasedAlgorithm):
    """Runs the model's forward pass under an :class:`mixplug.EncoderPass`.

    :class:`mixplug.FusedBackbonePass` is one; :func:`encoder_pass_of` adds one to a run without it.

    Args:
        backbone: Dotted name of the encoder inside of the model, if it holds several of timm's, or none.
    """

    stage = Stage.ENCODER

    def __init__(self, backbone: str | None = None) -> None:
        self.backbone_path = backbone
        self._encoder_pass: EncoderPass | None = None
        self._served: weakref.ref[State] | None = None
        self._position = Position(Phase.SL)
        self._request: PassRequest | None = None
        self._seen: BackbonePass | None = None

    def wants(self, event: Event, state: State) -> bool:
        """See the base class: a pass of which nobody wants anything is not watched."""
        return event not in (Event.BEFORE_FORWARD, Event.AFTER_FORWARD) or self._request is not None

    def encoder_pass(self, state: State) -> EncoderPass:
        """The passes of this run, made when they are first asked for.

        Raises:
            TypeError: the model holds no encoder.
            ValueError: it holds several and none is named.
        """
        if self._encoder_pass is None or self._served is None or self._served() is not state:
            backbone = backbone_of(state.model, self.backbone_path)
            backbone.detach()  # until training begins
            self._encoder_pass, self._served = EncoderPass(backbone), weakref.ref(state)
        return self._encoder_pass

    def position(self, state: State) -> Position:
        """Where the run is; without phases and without an objective, in one SL phase."""
        position = position_of(state)
        alone = position.span is None and self.encoder_pass(state).objective is None
        return dataclasses.replace(position, phase=Phase.SL) if alone else position

    def fit_start(self, state: State, logger: Logger) -> None:
        """Listen to the encoder."""
        self.encoder_pass(state).backbone.attach()

    def batch_start(self, state: State, logger: Logger) -> None:
        """Assemble what the batch's passes shall be shown."""
        self._position = self.position(state)
        self._request = self.encoder_pass(state).request(self._position)
        if self._request is not None and self._request.metrics:
            logger.log_metrics({f"mixtraining/{name}": value for name, value in self._request.metrics.items()})

    def before_forward(self, state: State, logger: Logger) -> None:
        """Begin to watch the pass."""
        assert self._request is not None
        self._seen = None
        self.encoder_pass(state).start(self._request)

    def after_forward(self, state: State, logger: Logger) -> None:
        """Take what the pass left behind."""
        self._seen = self.encoder_pass(state).stop()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the model as it was."""
        detach_backbones(state.model)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backbone={self.backbone_path!r})"


class AmendingAlgorithm(PhasedAlgorithm):
    """Base of the algorithms that change what passes over a vision transformer are shown.

    Attributes:
        amendment: The Composer-free half: a function ``request -> request`` that says by ``yields_to(request)`` which
            passes it leaves as their objective wants them, and by ``phases`` in which it acts. Its arguments are the
            algorithm's, and so are its ``repr`` and, where the algorithm says none of its own, its ``settings()``.
        part_of: What a user has listed instead of this one, by its name; empty where it is itself.
    """

    stage = Stage.ENCODER
    amendment: Any
    part_of: str = ""

    @property
    def shown_name(self) -> str:
        """What messages call it."""
        return self.part_of or type(self).__name__

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return self.amendment.settings()

    def init(self, state: State, logger: Logger) -> None:
        """Amend the passes of this run."""
        passes = encoder_pass_of(state)
        self.check(passes.backbone)
        passes.add(self.amendment)

    def check(self, backbone: Backbone) -> None:
        """Refuse an encoder that has nothing to amend.

        Raises:
            TypeError: it is no vision transformer of timm's.
        """
        if not backbone.selects_tokens:
            name, model = self.shown_name, type(backbone.model).__name__
            raise TypeError(
                f"{name} is for a timm VisionTransformer, whose patches are tokens, and {model} is none; use one, or "
                f"leave {name} out"
            )

    def fit_start(self, state: State, logger: Logger) -> None:
        """Say where nothing is amended: in no phase of the run, or not where the objective leaves nothing to amend."""
        name, objective = self.shown_name, encoder_pass_of(state).objective
        phases = phases_of(state)
        wanted = [phase for phase in phases if phase.value in self.amendment.phases]
        if not wanted:
            has = tuple(phase.value for phase in phases)
            fix = "give it phases= that the run has, or leave it out" if "phases" in self.settings() else "leave it out"
            warnings.warn(
                f"{name} acts in {self.amendment.phases}, and this run has {has}, so it does nothing; {fix}",
                stacklevel=2,
            )
        if objective is None:
            return
        learning = [phase for phase in wanted if phase is not Phase.SL]
        idle = [phase for phase in learning if self.amendment.yields_to(objective.request(Position(phase)))]
        if idle:
            warnings.warn(
                f"{type(objective).__name__} chooses patches itself in the {' and '.join(map(str, idle))} phase, so "
                f"{name} acts in the others alone; phases=('sl',) says the same without this warning",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return repr(self.amendment).replace(type(self.amendment).__name__, type(self).__name__, 1)


def error_of_one_size(shows: str, backbone: Backbone, instead: str) -> ValueError:
    """Of an encoder that takes images of one size, which ``shows`` smaller ones, such as "SDMP shows"."""
    return ValueError(
        f"{shows} smaller images than {backbone.fixed_size}, the one size that this {type(backbone.model).__name__} "
        f"takes; build it with dynamic_img_size=True (where it has none, strict_img_size=False), or use {instead}"
    )


def phases_of(state: State) -> list[Phase]:
    """The phases that the run has; without a clock it is one."""
    clock = find(state, Clock)  # type: ignore[type-abstract]
    alone = Phase.SL if encoder_pass_of(state).objective is None else Phase.MIX
    return [alone] if clock is None else clock.phases(state)


def encoder_pass_of(state: State) -> EncoderPass:
    """The passes over the encoder of a Composer run: what an algorithm of your own adds its amendments to, at INIT.

    In a run without MixTraining or FusedBackbonePass they are the passes of plain supervised learning, one SL phase
    as long as there is no PhaseSwitch.

    Raises:
        TypeError: the model holds no encoder of timm's.
        ValueError: it holds several.
    """
    watched = find(state, WatchedPass)
    if watched is None:
        watched = WatchedPass()
        watched.join(state)
    return watched.encoder_pass(state)
