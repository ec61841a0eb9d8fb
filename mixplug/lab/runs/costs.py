"""What a run of a recipe costs, in forward passes of the plain encoder for each training image, and runs of a cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from composer.algorithms import ChannelsLast
from composer.core import Algorithm
from torch import nn

from mixplug import FusedBackbonePass, JointLoss, MixupSSLData
from mixplug.algorithms.auto_compression import AutoCompression
from mixplug.algorithms.trainer.contract import PhasedAlgorithm, find_in, parts_of
from mixplug.algorithms.trainer.passes import AmendingAlgorithm
from mixplug.backbones.costs import encoder_flops
from mixplug.backbones.probing import unattached_backbone
from mixplug.objectives.joint import ALPHA
from mixplug.schedules.phases import Phase, PhasePlan
from mixplug.training.costs import CostCounter
from mixplug.training.encoder_pass import Amendment
from mixplug.training.side_by_side import SideBySide


class TooLittleError(ValueError):
    """A budget below what the shortest run costs.

    Attributes:
        least: What that costs for each unit of the budget.
    """

    def __init__(self, least: float, given: float) -> None:
        super().__init__(f"max_cost must be at least {least:.3g}, which the shortest run costs, got {given:.3g}")
        self.least = least / given


class RunCost:
    """The costs of runs of one method, counted before any begins.

    Args:
        model: The classifier's module, as the run begins with it.
        algorithms: Of the run.
        shape: Channels, height and width of an image.
        batch_size: Images of a step.
        plan: The phases, of any length.
        ssl_share: Images for self-supervised learning for each labelled one; a unit over them costs as much more.
        backbone: Dotted name of the encoder inside of the model, empty for the one of timm's.
    """

    def __init__(
        self,
        model: nn.Module,
        algorithms: Sequence[Algorithm],
        shape: tuple[int, int, int],
        batch_size: int,
        plan: PhasePlan,
        ssl_share: float = 1.0,
        backbone: str = "",
    ) -> None:
        self._ssl_share = ssl_share
        self._auto = find_in(algorithms, AutoCompression)
        self._counted = model, algorithms, shape, batch_size, plan
        fused = find_in(algorithms, FusedBackbonePass)
        # An algorithm names it in Composer's model, which holds this one as `module`.
        path = None if fused is None else fused.backbone_path
        self._backbone = (backbone or None) if path is None else path.removeprefix("module").removeprefix(".")

    @property
    def is_exact(self) -> bool:
        """Whether the cost can be told.

        Algorithms that are not mixplug's may make of a step what cannot: smaller images, fewer of them, other layers.
        What AutoCompression chose and measured is known when the run is over. Cost is in passes of an encoder.
        """
        # Another memory format makes no other operations.
        ours = all(isinstance(algorithm, (PhasedAlgorithm, ChannelsLast)) for algorithm in self._counted[1])
        try:
            unattached_backbone(self._counted[0], self._backbone)
        except TypeError:  # supervised learning of a model whose encoder nobody has named
            return False
        return ours and (self._auto is None or self._auto.amendment.images > 0)

    @property
    def is_chosen_while_training(self) -> bool:
        """Whether it is known when the run is over, with AutoCompression."""
        return self._auto is not None

    @functools.cached_property
    def passes(self) -> dict[Phase, float]:
        """What a unit of each phase costs: forward passes of the plain encoder for each labelled training image."""
        _, algorithms, shape, batch_size, plan = self._counted
        # What a step of a phase costs on average does not depend on its length; a long plan has every phase.
        long = PhasePlan(100 * plan.e_ssl, 100 * plan.e_sl, plan.rho)
        passes = self._passes_of(long, batch_size, [])
        data = find_in(algorithms, MixupSSLData)
        if data is None or data.ssl_dataloader is None:
            return passes
        if Phase.SSL in passes:
            passes[Phase.SSL] *= self._ssl_share if data.ssl_epoch == "data" else min(1.0, self._ssl_share)
        if Phase.MIX in passes and data.labelled_per_step is not None:
            side, labelled = SideBySide(), data.labelled_per_step
            side.images = torch.zeros(batch_size, *shape, device="meta")
            # Counted for each labelled image of a step, two at least, of which each unlabelled one has a share.
            of_labelled = self._passes_of(long, labelled, [side])[Phase.MIX]
            passes[Phase.MIX] = of_labelled * max(2, labelled) / batch_size * self._ssl_share
        return passes

    @functools.cached_property
    def encoder_flops(self) -> float:
        """Floating-point operations of a forward pass of the plain encoder over one image."""
        model, _, shape, _, _ = self._counted
        return encoder_flops(unattached_backbone(model, self._backbone), shape)

    def _passes_of(self, plan: PhasePlan, batch_size: int, more: list[Amendment]) -> dict[Phase, float]:
        """What the steps of each phase cost for each image of their batch."""
        model, algorithms, shape, _, _ = self._counted
        fused, joint = find_in(algorithms, FusedBackbonePass), find_in(algorithms, JointLoss)
        counter = CostCounter(
            model,
            None if fused is None else fused.objective,
            shape,
            batch_size,
            ALPHA if joint is None else joint.alpha,
            [*more, *(part.amendment for part in parts_of(algorithms) if isinstance(part, AmendingAlgorithm))],
            self._backbone,
            fused is not None and fused.exact_microbatches,
        )
        costs = counter.of_phases(plan)
        return {phase: cost.passes for phase, cost in costs.items()}

    def of(self, plan: PhasePlan) -> float:
        """What ``plan`` costs; with AutoCompression what it did cost, or would if the strategy it begins with stays."""
        passes = self.of_units()
        return sum(span.length * passes[span.phase] for span in plan.phases)

    def of_units(self) -> dict[Phase, float]:
        """What a unit of each phase costs; with AutoCompression as in :meth:`of`."""
        passes = self.passes
        if self._auto is not None:
            auto = self._auto.amendment
            begun = {phase: passes.get(phase, 0.0) * (1 + auto.share) for phase in map(Phase, auto.phases)}
            passes = {**passes, **{phase: auto.mean_cost if auto.images else begun[phase] for phase in begun}}
        return passes

    def plan_of(self, max_cost: float, plan: PhasePlan) -> PhasePlan:
        """The longest plan of ``plan``'s proportions that costs at most ``max_cost``.

        What AutoCompression chooses is known when the run is over: it counts as if the strategy that it begins with
        stayed, and as measuring all that it may. What it did cost stands in the table.

        Raises:
            TooLittleError: the shortest one costs more.
        """
        longest = max(plan.e_ssl, plan.e_sl)

        def scaled(units: int) -> PhasePlan:
            """Whose longer kind of learning lasts ``units``."""
            ssl, sl = (max(1, round(e * units / longest)) if e else 0 for e in (plan.e_ssl, plan.e_sl))
            return PhasePlan(ssl, sl, plan.rho)

        if self.of(scaled(1)) > max_cost:
            raise TooLittleError(self.of(scaled(1)), max_cost)
        low, high = 1, 2
        while self.of(scaled(high)) <= max_cost:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.of(scaled(middle)) <= max_cost else (low, middle)
        return scaled(low)
