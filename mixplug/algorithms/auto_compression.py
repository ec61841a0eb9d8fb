"""AutoCompression: token dropout and patch sizes chosen by the gradient's error, measured while training.

What it does
    On a small share of the steps the gradients of a few strategies (rates of :class:`TokenDropout`, sizes of
    :class:`PatchScaling`) are compared with the uncompressed one, of the same images and random numbers. The strategy
    of least cost-adjusted mean squared error (the compression paper, Eq. 10) compresses the next stage.

When to use it
    Where :class:`Compression` would be used and no schedule is known: the paper's own came from checkpoints of an
    uncompressed run, whose cost its speedups leave out. This is beyond the paper.

Hyperparameters
    ``rates`` and ``patches`` to choose from: each costs a gradient whenever errors are measured, so few. Training
    begins with the first. A choice takes 16 sub-batches; at a ``share`` of 3%, with three strategies and sub-batches as
    large as batches, these take about two thousand steps, with half as large ones one thousand. A run that is too short
    for a choice says so when it ends. ``budget`` is not stated in the paper: the larger, the more bias counts.

Interacts with
    Not in the same phases as TokenDropout, PatchScaling or Compression. MAE chooses its tokens itself. A copy of
    the model is made whenever errors are measured, and as many gradients as there are strategies, and one, are kept and
    are in checkpoints. Of several processes each measures its part of the batch. Sharded models (FSDP) are refused.

Logged each batch
    ``compression/rate`` and ``compression/patch``; ``compression/overhead``, what measuring has cost of what training
    has cost, at most ``share``, in operations: the time for copying comes on top.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from composer.core import State, get_precision_context
from composer.loggers import Logger
from torch import Tensor

from mixplug.algorithms.fused_backbone_pass import supervised_loss
from mixplug.algorithms.joint_loss import weights_of
from mixplug.algorithms.patch_scaling import PatchScaling
from mixplug.algorithms.token_dropout import TokenDropout
from mixplug.algorithms.trainer.contract import Stage, find, parts_of, unwrapped_model
from mixplug.algorithms.trainer.passes import AmendingAlgorithm, WatchedPass, encoder_pass_of
from mixplug.backbones import Backbone
from mixplug.backbones.patches import PatchScaler
from mixplug.schedules.phases import Phase, Position
from mixplug.training.auto_compression import CompressByError
from mixplug.training.costs import CostCounter
from mixplug.training.error_estimates import FEWEST
from mixplug.training.gradient_error import StepGradients, Strategy


class AutoCompression(AmendingAlgorithm):
    """Compresses by the strategy whose gradients have the least error for their cost, measured in training.

    Args:
        rates: Shares of dropped patch tokens to choose from, each in [0, 1).
        patches: Sides of patches in pixels to choose from, each with each rate; none is the native size alone.
        share: What measuring may cost of what training costs, in (0, 1].
        stages: How many stages of equal length the clock is divided into.
        budget: ``Budget`` of Eq. 10, in uncompressed steps, above 0.
        sub_batch: Images of a sub-batch, at most a batch's.
        over: The clock of the stages; by default self-supervised learning.
        phases: The phases in which passes are compressed and measured; see
            :class:`mixplug.training.auto_compression.CompressByError`.

    Raises:
        TypeError: an argument has the wrong type; at INIT, the model's patches cannot be scaled.
        ValueError: an argument is out of range, or there is no such clock or phase; at INIT, the model is sharded.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=MoCoV3()), AutoCompression()])  # doctest: +SKIP
        >>> Trainer(..., algorithms=[AutoCompression((0.75, 0.5, 0.0), over='run')])  # doctest: +SKIP
    """

    #: Before what passes are shown is assembled.
    stage = Stage.VIEWS

    def __init__(
        self,
        rates: Sequence[float] = (0.0, 0.5, 0.75),
        patches: Sequence[int] = (),
        share: float = 0.03,
        stages: int = 8,
        budget: float = 1.0,
        sub_batch: int = 64,
        over: str = "ssl",
        phases: Iterable[str] | None = None,
    ) -> None:
        self.amendment = CompressByError(rates, patches, share, stages, budget, sub_batch, over, phases)

    def progress(self) -> dict[str, Any]:
        """See the base class."""
        return self.amendment.state_dict()

    def resume(self, progress: Mapping[str, Any]) -> None:
        """See the base class."""
        if progress:
            self.amendment.load_state_dict(progress)

    def init(self, state: State, logger: Logger) -> None:
        """See the base class."""
        if state.fsdp_config is not None:
            raise ValueError(
                "AutoCompression copies the model to measure gradients, and of a sharded model (FSDP) no process has "
                "all; train without parallelism_config, or with Compression and a schedule that was measured before"
            )
        super().init(state, logger)

    def check(self, backbone: Backbone) -> None:
        """See the base class; for patches of other sizes they must be square, too."""
        super().check(backbone)
        if self.amendment.patches:
            PatchScaler(backbone.model)  # type: ignore[arg-type]

    def fit_start(self, state: State, logger: Logger) -> None:
        """See the base class; refuse others that compress the same phases.

        Raises:
            ValueError: there is one.
        """
        super().fit_start(state, logger)
        for part in parts_of(state.algorithms):
            if isinstance(part, (TokenDropout, PatchScaling)) and set(part.phases) & set(self.amendment.phases):
                raise ValueError(
                    f"AutoCompression and {part.shown_name} both act in the phases "
                    f"{sorted(set(part.phases) & set(self.amendment.phases))}; use one, or give them other phases="
                )

    def batch_start(self, state: State, logger: Logger) -> None:
        """Take another strategy if it is time to."""
        self.amendment.advance(_watched(state).position(state))

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Count the step, and compare gradients if that can be afforded."""
        position, passes = _watched(state).position(state), encoder_pass_of(state)
        objective = None if position.phase is Phase.SL else passes.objective
        if objective is not None and self.amendment.yields_to(objective.request(position)):
            return
        images, labels = state.batch[0], state.batch[1]
        shape = (images.shape[1], images.shape[2], images.shape[3])
        encoder, size = passes.backbone.model, self.amendment.sub_batch

        def cost(strategy: Strategy) -> float:
            counter = CostCounter(encoder, objective, shape, size, amendments=strategy.amendments)
            return counter.at(position).passes

        with get_precision_context(state.precision, state.precision_config):
            self.amendment.measure(images, labels, position, lambda: _Gradients(state, position), cost)
        if position.phase.value in self.amendment.phases:
            strategy = self.amendment.strategy
            native = max(getattr(passes.backbone, "patch_size", (0,)))
            logger.log_metrics(
                {
                    "compression/rate": strategy.rate,
                    "compression/patch": native if strategy.patch is None else strategy.patch,
                    "compression/overhead": self.amendment.overhead,
                }
            )

    def fit_end(self, state: State, logger: Logger) -> None:
        """Say so if the run was too short for a choice."""
        if self.amendment.images and not self.amendment.has_chosen:
            auto = self.amendment
            warnings.warn(
                f"AutoCompression has seen too few sub-batches for a choice, {auto.sub_batches} of {FEWEST}, and "
                f"stayed with {auto.strategy}; give it a smaller sub_batch than {auto.sub_batch}, a larger share "
                f"than {auto.share:g}, fewer rates and patches, or a longer run",
                stacklevel=2,
            )


class _Gradients(StepGradients):
    """Gradients of a Composer model's own losses."""

    def __init__(self, state: State, position: Position) -> None:
        model = unwrapped_model(state)
        objective = None if position.phase is Phase.SL else encoder_pass_of(state).objective
        super().__init__(model, objective, position, backbone=_watched(state).backbone_path)
        # A compiled model's forward is a function of its own, which knows the original alone.
        vars(self._model).pop("forward", None)
        if objective is not None:
            self.weights = weights_of(state)
        self._composer_model: Any = self._model

    def _outputs(self, images: Tensor, labels: Any) -> Any:
        return self._model((images, labels))

    def _supervised(self, outputs: Any, images: Tensor, labels: Any) -> Tensor:
        return supervised_loss(self._composer_model.loss(outputs, (images, labels)))[0]


def _watched(state: State) -> WatchedPass:
    watched = find(state, WatchedPass)
    assert watched is not None, "INIT saw to it"
    return watched
