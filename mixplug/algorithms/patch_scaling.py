"""PatchScaling: the encoder cuts its images into larger patches, so it sees fewer tokens.

What it does
    Patches of q pixels in the place of native ones of p make (p / q)^2 of the tokens. The patch embedding's weights are
    resampled by the pseudo-inverse of a resize and the position embedding is interpolated (FlexiViT: Beyer et al.,
    2023; the compression paper, section 3.3). Evaluation sees native patches.

When to use it
    Early in self-supervised learning of two views, where the gradient is noisy anyway; with a schedule that ends at
    the native size. Several sizes, drawn for each step, make a model that takes any of them (FlexiViT; ours beyond the
    compression paper).

Hyperparameters
    ``size`` in pixels must divide the images: 48-pixel images allow 4, 6, 8, 12, 16, 32-pixel ones 4, 8, 16.

Interacts with
    TokenDropout: the share is of the coarser grid. Both sides of two views are scaled, momentum encoders too, DINO's
    local crops never. MAE predicts native patches, so with it patches are scaled in the SL phase alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from composer.core import State
from composer.loggers import Logger

from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage, find
from mixplug.algorithms.trainer.passes import encoder_pass_of
from mixplug.backbones.patches import PatchScaler
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule
from mixplug.training.patch_scaling import PHASES, ScalePatches


class PatchScaling(PhasedAlgorithm):
    """Scales the patches of a vision transformer in training.

    Args:
        size: Side of a patch in pixels: a number, a schedule, or several to draw from for each step; see
            :class:`mixplug.training.patch_scaling.ScalePatches`.
        phases: The phases in which patches are scaled.

    Raises:
        TypeError: an argument has the wrong type; at INIT, the model's patches cannot be scaled.
        ValueError: a size is out of range, or there is no such phase; at the first step, it does not fit the images.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=MoCoV3()), PatchScaling(8)])  # doctest: +SKIP
    """

    stage = Stage.ENCODER

    def __init__(self, size: Schedule | Sequence[int], phases: Iterable[str] = PHASES) -> None:
        self.scale = ScalePatches(size, phases)
        self.size, self.phases = self.scale.size, self.scale.phases

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"size": self.size, "phases": self.phases}

    def init(self, state: State, logger: Logger) -> None:
        """Amend the passes of this run."""
        passes = encoder_pass_of(state)
        backbone = passes.backbone
        if not backbone.selects_tokens:
            raise TypeError(
                f"PatchScaling scales patches of a timm VisionTransformer, and {type(backbone.model).__name__} has "
                f"none; use one, or leave PatchScaling out"
            )
        PatchScaler(backbone.model)  # type: ignore[arg-type]  # checks it
        passes.add(self.scale)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Say where it does not act although it was asked to."""
        objective, switch = encoder_pass_of(state).objective, find(state, PhaseSwitch)
        if objective is None:
            return
        planned = [Phase.MIX] if switch is None else [span.phase for span in switch.plan(state).phases]
        own = [phase for phase in planned if phase is not Phase.SL and phase.value in self.phases]
        idle = [phase for phase in own if objective.request(Position(phase)).native_patches]
        if idle:
            warnings.warn(
                f"{type(objective).__name__} predicts native patches in the {' and '.join(map(str, idle))} phase, so "
                f"PatchScaling acts in the others alone; phases=('sl',) says the same without this warning",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size!r}, phases={self.phases!r})"
