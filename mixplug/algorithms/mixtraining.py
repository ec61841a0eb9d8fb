"""MixTraining: SSL, then SSL and SL at once, then SL, in one run (Li et al., "MixTraining", 2025).

What it does
    Divides a Composer run into self-supervised learning, a mixtraining phase that optimises
    ``alpha * l_ssl + (1 - alpha) * l_sl`` with a single pass over the backbone, and supervised learning. It is
    :class:`PhaseSwitch`, :class:`OptimizerSettings`, :class:`MixupSSLData`, :class:`FusedBackbonePass`,
    :class:`JointLoss` and :class:`ExactResumption` together.

When to use it
    Few labels, and an SSL + SL pipeline that takes too long: at rho = 0.5 it saves a quarter of the epochs
    (1.24 to 1.32 times faster in Li et al., Tables 1 and 2), and the hand-over is smooth.

Hyperparameters
    ``rho`` 0.5 and ``alpha`` 0.5 (Li et al., section 3.1; Tables 4 and 5 study them). Their optimizer settings
    are in Table 7: see :class:`mixplug.PhaseScheduler`.

Interacts with
    MixUp, CutMix, label smoothing (the supervised loss is whatever they make it), ProgressiveResizing (needs a
    model with ``dynamic_img_size``), anything that changes the images (the target is what the encoder saw).
"""

from __future__ import annotations

from collections.abc import Iterable

from mixplug.algorithms.exact_resumption import ExactResumption
from mixplug.algorithms.fused_backbone_pass import FusedBackbonePass
from mixplug.algorithms.joint_loss import JointLoss
from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.optimizer_settings import OptimizerSettings, Overrides
from mixplug.algorithms.phase_switch import Duration, PhaseSwitch
from mixplug.algorithms.trainer.contract import PhasedAlgorithm
from mixplug.objectives import Objective
from mixplug.objectives.joint import ALPHA
from mixplug.schedules.phases import RHO, Ratio
from mixplug.schedules.shapes import Schedule
from mixplug.views.mixing import MixingFunction, mixup_ssl


class MixTraining(PhasedAlgorithm):
    """Turns a Composer run into SSL, mixtraining and SL.

    Args:
        rho: Mix ratio in [0, 1] (Li et al., Eq. 1); 0 is SSL then SL.
        alpha: Weight of the SSL loss in MIX, in [0, 1]: a number, or a Ramp over the phase (Eq. 3).
        ssl_duration: Self-supervised learning in all, such as '100ep'; see :class:`PhaseSwitch`.
        sl_duration: Supervised learning in all; '0ep' of either leaves the other alone. Without both, the Trainer's
            ``max_duration`` is divided.
        objective: The SSL objective; 'auto' is MAE with ``mask='features'`` (appendix A.2).
        mixing: How other SSL data is brought into MIX: a function (Eq. 2), or 'side_by_side'; see
            :class:`MixupSSLData`.
        lam: Share of the labelled image in the mix, in [0, 1].
        ssl_dataloader: Other data for SSL; see :class:`MixupSSLData`.
        optimizer_overrides: Weight decay, betas, ... by phase; see :class:`OptimizerSettings`.
        reset_optimizer: Forget the optimizer's state at each switch.
        backbone: Name of the vision transformer inside of the model, if it holds several.
        stop_on_nan: Stop the run at a loss that is NaN or infinite; see :class:`JointLoss`.
        labelled_per_step: Labelled images of a step of MIX side by side; see :class:`MixupSSLData`.
        ssl_epoch: Whether an epoch of SSL is a pass over the ``ssl_dataloader``, 'data', or as long as one over the
            labelled data, 'labelled'; see :class:`MixupSSLData`.
        exact_microbatches: Give microbatches the whole batch's gradient; see :class:`FusedBackbonePass`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; at FIT_START, durations that do not fit ``max_duration``.

    Example:
        >>> Trainer(model, ..., max_duration='150ep', algorithms=[MixTraining(rho=0.5, alpha=0.5)])  # doctest: +SKIP
    """

    def __init__(
        self,
        rho: Ratio = RHO,
        alpha: Schedule = ALPHA,
        ssl_duration: Duration | None = None,
        sl_duration: Duration | None = None,
        objective: str | Objective = "auto",
        mixing: MixingFunction | str = mixup_ssl,
        lam: float = 0.5,
        ssl_dataloader: Iterable | None = None,
        optimizer_overrides: Overrides | None = None,
        reset_optimizer: bool = False,
        backbone: str | None = None,
        stop_on_nan: bool = True,
        labelled_per_step: int | None = None,
        exact_microbatches: bool = False,
        ssl_epoch: str = "data",
    ) -> None:
        self.phase_switch = PhaseSwitch(rho, ssl_duration, sl_duration)
        self.optimizer_settings = OptimizerSettings(optimizer_overrides, reset_optimizer)
        self.mixup_ssl_data = MixupSSLData(ssl_dataloader, mixing, lam, labelled_per_step, ssl_epoch)
        self.fused_backbone_pass = FusedBackbonePass(objective, backbone, exact_microbatches)
        self.joint_loss = JointLoss(alpha, stop_on_nan)
        self.exact_resumption = ExactResumption()

    @property
    def parts(self) -> tuple[PhasedAlgorithm, ...]:
        """The algorithms that this one is."""
        return (
            self.phase_switch,
            self.optimizer_settings,
            self.mixup_ssl_data,
            self.fused_backbone_pass,
            self.joint_loss,
            self.exact_resumption,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(part) for part in self.parts)})"
