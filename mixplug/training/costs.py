"""What a step costs: counted, not guessed, and in passes of the uncompressed encoder.

A forward pass of the plain encoder over one image costs 1, one with gradient 3, and one that sees a share of the tokens
about that share. The step is run on tensors without values, so whatever amends its passes, its decoder and its heads
count with their own operations, and the cost at any position of a training is known before it begins.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixplug.backbones import PassRequest, backbone_of, detach_backbones
from mixplug.backbones.costs import counting_flops, encoder_flops
from mixplug.objectives import Objective
from mixplug.objectives.joint import ALPHA, joint_loss, phase_weights
from mixplug.schedules.phases import Phase, PhasePlan, PhaseSpan, Position
from mixplug.schedules.shapes import Schedule
from mixplug.training.encoder_pass import Amendment, EncoderPass
from mixplug.training.exact_microbatches import ExactMicrobatches
from mixplug.training.pseudo_labels import PseudoLabelLoss


@dataclass(frozen=True)
class StepCost:
    """Operations of a training step, for one image.

    Attributes:
        flops: Floating-point operations: matrix products, convolutions and attention, forward and backward.
        encoder_flops: Those of a forward pass of the plain encoder.
        roles: How many passes over the encoder there were, by role.
    """

    flops: float
    encoder_flops: float
    roles: Mapping[str, int]

    @property
    def passes(self) -> float:
        """The cost in forward passes of the plain encoder."""
        return self.flops / self.encoder_flops


class CostCounter:
    """Counts the operations of a training's steps, which computes nothing and changes nothing.

    Args:
        model: Images to logits.
        objective: The self-supervised objective, built for the model or not; None for supervised learning alone.
        shape: Channels, height and width of an image.
        batch_size: Images of a step; what a loss compares within the batch grows with it.
        alpha: Weight of the self-supervised loss in MIX, in [0, 1].
        amendments: Of the passes; see :class:`mixplug.EncoderPass`. One that changes the cost of a step by stages says
            in ``changes`` on which clock and when they begin: ``('ssl', [0.0, 0.5])``.
        backbone: Dotted name of the encoder inside of the model, if it must be named.
        exact_microbatches: Whether a loss within the batch has the whole batch's gradient from microbatches, for one
            more pass without gradient over each image.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective | None,
        shape: tuple[int, int, int],
        batch_size: int = 2,
        alpha: Schedule = ALPHA,
        amendments: Iterable[Amendment] = (),
        backbone: str | None = None,
        exact_microbatches: bool = False,
    ) -> None:
        self.shape, self.batch_size, self.alpha = shape, max(2, batch_size), alpha
        self.exact_microbatches = exact_microbatches
        self._roles: dict[str, int] = {}
        # Together: a momentum encoder knows the encoder that it follows.
        self._model, self._objective, own_amendments = copy.deepcopy((model, objective, list(amendments)))
        detach_backbones(self._model.to("meta"))
        adapter = backbone_of(self._model, backbone)
        if self._objective is not None:
            with torch.random.fork_rng(devices=[]):
                self._objective = self._objective.to("meta").build(adapter).to("meta")
        self._passes = EncoderPass(adapter, self._objective)
        for amendment in (*own_amendments, self._note):
            self._passes.add(amendment)
        self.encoder_flops = encoder_flops(adapter, shape)
        adapter.attach()

    def at(self, position: Position) -> StepCost:
        """The cost of the step at ``position``."""
        self._roles = {}
        # Without an objective every phase trains on the model's own loss.
        weights = phase_weights(Phase.SL if self._objective is None else position, self.alpha)
        objective = None if position.phase is Phase.SL else self._objective
        images = torch.zeros(self.batch_size, *self.shape, device="meta")
        self._model.zero_grad()
        with torch.random.fork_rng(devices=[]), counting_flops() as counter:
            if objective is not None:
                objective.zero_grad()
                objective.before_step()
            exact = self._exact(position, images, weights.ssl > 0) if objective is not None else None
            if exact is None:
                with self._passes.watch(position) as seen:
                    logits = self._model(images)
            else:
                with self._passes.backbone.watch(exact.requests[0], self._passes.amend) as seen:
                    logits = self._model(images)
            further: list[Tensor] = []
            for amendment in self._passes.amendments:
                if isinstance(amendment, PseudoLabelLoss):
                    logits, term = amendment.split(logits, self._model)
                    further.append(term)
            ssl = None
            if objective is not None and seen is not None:
                with torch.set_grad_enabled(weights.ssl > 0):
                    ssl = objective(seen) if exact is None else exact.loss_of(0, seen)
            # Any labels will do: the loss has no products.
            sl = F.cross_entropy(logits, torch.zeros_like(logits))
            sum(further, start=joint_loss(ssl, sl, weights)).backward()
        return StepCost(counter.get_total_flops() / self.batch_size, self.encoder_flops, dict(self._roles))

    def _exact(self, position: Position, images: Tensor, with_gradient: bool) -> ExactMicrobatches | None:
        """The passes before the step's own, where its loss is within the batch: for one microbatch as for several."""
        request = self._passes.request(position) if self.exact_microbatches else None
        if request is None or self._passes.within_batch(request) is None:
            return None
        return ExactMicrobatches(
            self._passes, request, [images], lambda _: self._model(images), self._model, with_gradient
        )

    def of_phases(self, plan: PhasePlan, points: int = 12) -> dict[Phase, StepCost]:
        """The mean cost of a step in each phase of ``plan``, at ``points`` positions of those that change."""
        return {span.phase: self._mean_of(plan, span, points) for span in plan.phases}

    def of_run(self, plan: PhasePlan) -> float:
        """What ``plan`` costs: each image once in every unit of time, in forward passes of the plain encoder."""
        costs = self.of_phases(plan)
        return sum(span.length * costs[span.phase].passes for span in plan.phases)

    def _mean_of(self, plan: PhasePlan, span: PhaseSpan, points: int) -> StepCost:
        ends = [span.start, *self._jumps(plan, span), span.stop]
        pieces = list(itertools.pairwise(ends))
        costs = [
            self._mean(plan, start, end - start, max(3, round(points * (end - start) / span.length)))
            for start, end in pieces
        ]
        total = sum(cost.flops * (end - start) for cost, (start, end) in zip(costs, pieces, strict=True))
        return StepCost(total / span.length, self.encoder_flops, costs[0].roles)

    def _jumps(self, plan: PhasePlan, span: PhaseSpan) -> list[float]:
        """When amendments that say so change the cost of a step all at once, inside of ``span``."""
        clocks = {"run": (0, plan.total), "ssl": (0, plan.e_ssl), "phase": (span.start, span.length)}
        clocks["mix"] = next(((s.start, s.length) for s in plan.phases if s.phase is Phase.MIX), (0, 0))
        told = (amendment.changes for amendment in self._passes.amendments if hasattr(amendment, "changes"))
        times = {clocks[over][0] + time * clocks[over][1] for over, begins in told for time in begins}
        return sorted(time for time in times if span.start < time < span.stop)

    def _mean(self, plan: PhasePlan, start: float, length: float, points: int) -> StepCost:
        times = (start + length * (index + 0.5) / points for index in range(points))
        # What is drawn anew for each step differs from the second on.
        places = [plan.position(time, step=index) for index, time in enumerate(times)]
        first, second, last = (self.at(place) for place in (*places[:2], places[-1]))
        if first == second == last:
            return first
        costs = [first, second, *(self.at(place) for place in places[2:-1]), last]
        return StepCost(sum(cost.flops for cost in costs) / points, self.encoder_flops, first.roles)

    def _note(self, request: PassRequest) -> PassRequest:
        self._roles[str(request.role)] = self._roles.get(str(request.role), 0) + 1
        return request
