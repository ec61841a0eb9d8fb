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

from collections.abc import Iterable, Sequence
from typing import Any

from mixplug.algorithms.trainer.passes import AmendingAlgorithm
from mixplug.backbones import Backbone
from mixplug.backbones.patches import PatchScaler
from mixplug.schedules.shapes import Schedule
from mixplug.training.patch_scaling import PHASES, ScalePatches


class PatchScaling(AmendingAlgorithm):
    """Scales the patches of a vision transformer in training.

    Args:
        size: Side of a patch in pixels: a number, a schedule, or several, drawn for each step, each equally often; see
            :class:`mixplug.training.patch_scaling.ScalePatches`.
        phases: The phases in which patches are scaled.

    Raises:
        TypeError: an argument has the wrong type; at INIT, the model's patches cannot be scaled.
        ValueError: a size is out of range, or there is no such phase; at the first step, it does not fit the images.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=MoCoV3()), PatchScaling(8)])  # doctest: +SKIP
    """

    def __init__(self, size: Schedule | Sequence[int], phases: Iterable[str] = PHASES) -> None:
        self.amendment = ScalePatches(size, phases)
        self.size, self.phases = self.amendment.size, self.amendment.phases

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"size": self.size, "phases": self.phases}

    def check(self, backbone: Backbone) -> None:
        """See the base class; its patches must be square, too."""
        super().check(backbone)
        PatchScaler(backbone.model)  # type: ignore[arg-type]
