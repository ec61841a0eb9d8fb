"""SuperProgressiveLearning: small images after a warm-up, and views that get stronger (Kocyigit et al., 2022).

What it does
    Full resolution in a warm-up, then from the smallest up to the full one in equal steps, each a multiple of the
    network's stride or patch, while the views' magnitude rises; one schedule drives both. Views are cropped at the size
    directly, and what has no view (a masked objective's images, the classifier's) is resized once. Evaluation sees full
    images.

When to use it
    Beside ``FixedOneCycleScheduler`` with the same warm-up: where the learning rate is high its noise hides what small
    images lose, and where it is low images are large. Long self-supervised training of convolutional networks, where a
    step costs as its pixels do: the paper's schedule, 80 of 480 epochs at 224 pixels, then 96, 128, 160, 192, 224, is
    1.6 times cheaper at equal accuracy (Table 6); ``mixplug plan --min-scale 0.43 --size 224 --step 32`` says how much
    a schedule saves if all else costs nothing, and the cost column of ``mixplug compare`` what it does save.

When Composer's ProgressiveResizing is the better choice
    In plain supervised runs, where there are no views to be made: it resizes the batch before anything else sees it,
    so images are small for MixUp and CutMix too, it can crop instead ('crop'), it begins with the smallest, without a
    warm-up, and it rises smoothly. With views it resizes twice, and views of an image that has been shrunk have lost
    what a crop could have shown.

Hyperparameters
    ``min_scale`` 96 / 224 as in the paper (64 / 224 loses half a point, Table 6). ``stages`` 6, the warm-up among them;
    ``warmup`` as long as the learning rate's, a share of the clock. ``step`` where images are so small that the
    network's stride leaves no sizes between: 8 for 32 pixels. ``magnitude`` multiplies the strengths of colour jitter,
    as the paper's, and may go beyond 1; its limits are not stated there. ``scales='all'`` scales crops and
    probabilities too. ``phases=('ssl', 'mix', 'sl')`` has the classifier's images follow the same schedule.

Interacts with
    A vision transformer must be built with ``dynamic_img_size=True``, which interpolates the position embedding.
    TokenDropout: the share is of the tokens that there are; PatchScaling: a schedule of patches takes the nearest that
    divides the size, and given ones must divide every size, which the run's first batch tells.
    The objective's own ``Views(magnitude=...)`` must not change too: give it here, or ``magnitude=None``.
    DINO's local crops are half of what global views are, unless ``local_size`` says otherwise. BatchNorm's running
    statistics are those of the last stage in the end, of full images.
"""

from __future__ import annotations

from collections.abc import Iterable

from composer.core import Event, State
from composer.loggers import Logger

from mixplug.algorithms.patch_scaling import PatchScaling
from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import find
from mixplug.algorithms.trainer.passes import AmendingAlgorithm, encoder_pass_of, error_of_one_size
from mixplug.backbones import Backbone
from mixplug.data.batches import images_of
from mixplug.objectives import TwoView
from mixplug.schedules.shapes import Schedule, Shape
from mixplug.training.super_progressive_learning import MAGNITUDE, ScaleImages


class SuperProgressiveLearning(AmendingAlgorithm):
    """Shows smaller images after a warm-up, and stronger views, by one schedule.

    Args:
        min_scale: The smallest images' height over the full ones', in (0, 1].
        warmup: Share of the clock at full resolution in the beginning, in [0, 1).
        stages: Stages, the warm-up one of them, at least 3.
        magnitude: Of the views: a number, a schedule, or None to leave it to the objective's views.
        scales: What ``magnitude`` multiplies: 'jitter', the strengths of colour jitter, or 'all' strengths.
        step: What sizes are multiples of, in pixels; None for the side of a patch, or the network's stride.
        phases: The phases in which images are smaller; in MIX and SL they are the classifier's.
        over: The clock of the resolution; by default 'ssl', or 'run' where SL is among the phases. See
            :class:`mixplug.training.super_progressive_learning.ScaleImages`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, or there is no such phase or clock; at INIT, the model takes images of one
            size alone; at FIT_START, the objective's views have a magnitude of their own; at the first batch,
            PatchScaling's patches do not divide all sizes.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=SimSiam()), SuperProgressiveLearning()])  # doctest: +SKIP
    """

    amendment: ScaleImages

    def __init__(
        self,
        min_scale: float = 96 / 224,
        warmup: float = 80 / 480,
        stages: int = 6,
        magnitude: Schedule | None = MAGNITUDE,
        scales: str = "jitter",
        step: int | None = None,
        phases: Iterable[str] = ("ssl",),
        over: str | None = None,
    ) -> None:
        self.amendment = ScaleImages(min_scale, warmup, stages, magnitude, scales, step, phases, over)
        self._is_checked = False

    def wants(self, event: Event, state: State) -> bool:
        """See the base class."""
        return event is not Event.BATCH_START or not self._is_checked

    def check(self, backbone: Backbone) -> None:
        """Refuse an encoder that takes images of one size alone; see the base class."""
        if self.amendment.min_scale < 1 and backbone.fixed_size is not None:
            raise error_of_one_size("SuperProgressiveLearning shows", backbone, "min_scale=1")

    def fit_start(self, state: State, logger: Logger) -> None:
        """Refuse views whose magnitude changes by itself, too; see the base class."""
        super().fit_start(state, logger)
        self._is_checked = False
        objective = encoder_pass_of(state).objective
        own = objective.views.magnitude if isinstance(objective, TwoView) else 1.0
        if self.amendment.magnitude is not None and (isinstance(own, Shape) or own != 1):
            raise ValueError(
                f"SuperProgressiveLearning(magnitude={self.amendment.magnitude!r}) and the objective's "
                f"Views(magnitude={own!r}) both say how strong views are; leave the latter at 1, or give the former "
                f"magnitude=None"
            )

    def batch_start(self, state: State, logger: Logger) -> None:
        """At the first batch, which says how large images are, refuse patches that some stage's do not fit."""
        self._is_checked = True
        patches = find(state, PatchScaling)
        if patches is not None and patches.amendment.fixed_sides:
            height, width = images_of(state.batch, "a batch").shape[-2:]
            scales, backbone = self._scales(state, patches.phases), encoder_pass_of(state).backbone
            self.amendment.check_patches(patches.amendment.fixed_sides, scales, (height, width), backbone)

    def _scales(self, state: State, phases: Iterable[str]) -> set[float]:
        """How large images are, over the full ones, in those of ``phases`` in which they are scaled."""
        scale, switch = self.amendment.schedule.scale, find(state, PhaseSwitch)
        if switch is None:
            return set(scale.values)
        plan = switch.plan(state)
        both = {*phases} & {*self.amendment.phases}
        spans = [span for span in plan.phases if span.phase.value in both]
        times = ((span, span.start + span.length * step / 1000) for span in spans for step in range(1000))
        return {scale(plan.position(time, span)) for span, time in times}
