"""JointLoss: weighs the self-supervised and the supervised loss (Li et al., Eq. 3).

What it does
    Sets the loss to ``w_ssl * ssl + w_sl * sl`` with weights (1, 0) in the SSL phase, (alpha, 1 - alpha) in MIX
    and (0, 1) in SL. All three numbers are logged each batch as ``loss/train/{total,ssl,sl}``; a term that a
    phase does not compute is logged as NaN.

On its own
    It weighs the terms that the model's own ``loss`` returns as ``{'ssl': ..., 'sl': ...}``; without a
    PhaseSwitch the whole run is one MIX phase, so ``alpha=1.0`` is plain self-supervised learning.

Hyperparameters
    ``alpha`` 0.5 (Li et al., section 3.1; Table 4 studies it). ``Ramp(1.0, 0.0)`` hands over smoothly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import State
from composer.loggers import Logger
from torch import Tensor

from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage, find, position_of
from mixplug.algorithms.trainer.divergence import DivergedError, check_losses
from mixplug.objectives.joint import ALPHA, LossWeights, joint_loss, phase_weights
from mixplug.schedules.phases import Position
from mixplug.schedules.shapes import Schedule, check_schedule

IGNORED = -100
"""The class that torch's losses leave out."""

_FIX = (
    "Go on from an earlier checkpoint (the last one's weights may be spoilt already) with a lower learning rate, "
    "gradient clipping or another precision; stop_on_nan=False trains on regardless"
)


class JointLoss(PhasedAlgorithm):
    """Weighs the self-supervised and the supervised loss by phase.

    Args:
        alpha: Weight of the self-supervised loss in MIX, in [0, 1]: a number or a schedule, by default over MIX.
        stop_on_nan: Raise a DivergedError, which is a FloatingPointError, after a batch whose total is NaN or infinite,
            before a checkpoint of it can be saved. It reads what Composer brings to the host for its logs, so it costs
            no synchronisation.

    Raises:
        TypeError: ``alpha`` is neither a number nor a schedule, or ``stop_on_nan`` not a bool.
        ValueError: ``alpha`` leaves [0, 1].
    """

    stage = Stage.LOSS

    def __init__(self, alpha: Schedule = ALPHA, stop_on_nan: bool = True) -> None:
        self.alpha = check_schedule("alpha", alpha, 0, 1)
        if not isinstance(stop_on_nan, bool):
            raise TypeError(f"stop_on_nan must be True or False, got {stop_on_nan!r}")
        self.stop_on_nan = stop_on_nan
        self._batch, self._when = 0, ""
        self._weights = self._now = LossWeights(1.0, 1.0)
        self._at: Position | None = None
        self._labels: list[Any] = []

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"alpha": self.alpha}

    def weights(self, state: State) -> LossWeights:
        """The weights that hold now."""
        position = position_of(state)
        if self._at is not position:  # asked for several times in a step
            self._at, self._now = position, phase_weights(position, self.alpha)
        return self._now

    def batch_start(self, state: State, logger: Logger) -> None:
        """Log the weights."""
        self._labels = []
        weights = self._weights = self.weights(state)
        time = state.timestamp
        self._batch = time.batch.value
        self._when = f"batch {self._batch} (epoch {time.epoch.value}, {position_of(state).phase} phase)"
        logger.log_metrics({"mixtraining/w_ssl": weights.ssl, "mixtraining/w_sl": weights.sl})

    def before_backward(self, state: State, logger: Logger) -> None:
        """Form the total."""
        if not (isinstance(state.loss, Mapping) and {"ssl", "sl"} <= set(state.loss)):
            raise ValueError(
                "JointLoss found no 'ssl' and 'sl' in the loss: add FusedBackbonePass, or let the model's loss() "
                f"return {{'ssl': ..., 'sl': ...}}; it returned {type(state.loss).__name__}"
            )
        batch = state.batch
        self._labels.append(batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None)
        state.loss = {**state.loss, "total": joint_loss(state.loss["ssl"], state.loss["sl"], self.weights(state))}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Stop at a loss that is not a number."""
        if not self.stop_on_nan:
            return
        # A phase's missing term is logged as NaN.
        unused = {name for name, weight in self._weights._asdict().items() if weight == 0}
        try:
            check_losses(state, self._batch, self._when, _FIX, unused)
        except DivergedError as error:
            if "sl" not in error.terms or not any(_all_ignored(labels) for labels in self._labels):
                raise
            raise FloatingPointError(
                f"the sl loss of {self._when} is not a number because all labels of it, or of a microbatch, are "
                f"{IGNORED}, which torch's cross entropy ignores: leave images without a label out of the "
                f"train_dataloader, or give them as ssl_dataloader"
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha!r}, stop_on_nan={self.stop_on_nan!r})"


def _all_ignored(labels: Any) -> bool:
    """Whether ``labels`` are classes, of which every one is ignored."""
    classes = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.numel() > 0
    return classes and bool((labels == IGNORED).all())


def weights_of(state: State) -> LossWeights:
    """The loss weights of this step; without a JointLoss both terms weigh 1 wherever their phase uses them."""
    joint = find(state, JointLoss)
    if joint is not None:
        return joint.weights(state)
    used = phase_weights(position_of(state).phase, ALPHA)
    return LossWeights(float(used.ssl > 0), float(used.sl > 0))
