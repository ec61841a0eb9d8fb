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

from mixplug.algorithms.base import PhasedAlgorithm, find
from mixplug.algorithms.phase_switch import position_of
from mixplug.losses import LossWeights, joint_loss, phase_weights
from mixplug.ramps import Schedule, check_schedule


class JointLoss(PhasedAlgorithm):
    """Weighs the self-supervised and the supervised loss by phase.

    Args:
        alpha: Weight of the self-supervised loss in MIX, in [0, 1]: a number or a ramp over the phase.

    Raises:
        TypeError: ``alpha`` is neither a number nor a Ramp.
        ValueError: ``alpha`` leaves [0, 1].
    """

    rank = 4

    def __init__(self, alpha: Schedule = 0.5) -> None:
        self.alpha = check_schedule("alpha", alpha, 0, 1)

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"alpha": repr(self.alpha)}

    def weights(self, state: State) -> LossWeights:
        """The weights that hold now."""
        position = position_of(state)
        return phase_weights(position.phase, self.alpha, position.progress)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Log the weights."""
        weights = self.weights(state)
        logger.log_metrics({"mixtraining/w_ssl": weights.ssl, "mixtraining/w_sl": weights.sl})

    def before_backward(self, state: State, logger: Logger) -> None:
        """Form the total."""
        if not (isinstance(state.loss, Mapping) and {"ssl", "sl"} <= set(state.loss)):
            raise ValueError(
                "JointLoss found no 'ssl' and 'sl' in the loss: add FusedBackbonePass, or let the model's loss() "
                f"return {{'ssl': ..., 'sl': ...}}; it returned {type(state.loss).__name__}"
            )
        state.loss = {**state.loss, "total": joint_loss(state.loss["ssl"], state.loss["sl"], self.weights(state))}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha!r})"


def weights_of(state: State) -> LossWeights:
    """The loss weights of this step; without a JointLoss both terms weigh 1 wherever their phase uses them."""
    joint = find(state, JointLoss)
    if joint is not None:
        return joint.weights(state)
    used = phase_weights(position_of(state).phase, 0.5)
    return LossWeights(float(used.ssl > 0), float(used.sl > 0))
