"""HardAugment: of several views of each image train on the pair that is hardest to match (Kocyigit et al., 2022).

What it does
    Makes ``views`` random views of each image, scores all pairs of them without gradient at a small size by the
    objective's own loss of the image, and trains on the views of the hardest pair at full size (Eq. 10).

When to use it
    Self-supervised learning of two views, together with ``FixedOneCycleScheduler`` and ``SuperProgressiveLearning``:
    all three are better than any two there, and hard views beside a cosine schedule lose (Table 3: 90.9 to 89.8).

Hyperparameters
    ``views`` 6 (Table 8: 4 to 8 within 0.8 points). ``select_size`` 64 pixels of 224; for small images give it, as the
    default is a multiple of the network's stride. ``by='cosine'`` is the paper's pseudo-code, ``'loss'`` its Eq. 10.
    ``dropout``, for vision transformers, drops tokens in scoring (ours).

What it costs
    By Eq. 11 8% of a step (6 views, 64 of 224 pixels, two passes with gradient). That holds at full size: beside
    SuperProgressiveLearning at 96 pixels it is 44%. With a momentum encoder scoring by loss is twice as many passes,
    by cosine not. :class:`mixplug.training.costs.CostCounter` counts it at every size, and so do recipes' ``max_cost``
    and costs. Making views costs time beyond that: as many as ``views``, at full size.

Interacts with
    In-batch negatives (SimCLR, MoCo v3): a pair is scored against the other images' views of the same two numbers, and
    trained against what was chosen for them. Scoring leaves BatchNorm's running statistics, queues and centres as they
    are. In MIX the classifier's image is one of the views. DINO's local crops take no part in the choice. Vision
    transformers need ``dynamic_img_size=True``, or ``select_size`` of the whole image. TokenDropout and PatchScaling
    leave scoring alone. Views of two kinds (BYOL, MoCo v3, DINO) may be paired with their own kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from composer.core import State
from composer.loggers import Logger

from mixplug.algorithms.trainer.passes import AmendingAlgorithm, encoder_pass_of, error_of_one_size
from mixplug.backbones import Backbone
from mixplug.objectives import TwoView
from mixplug.training.hard_augment import PHASES, ChooseHardest


class HardAugment(AmendingAlgorithm):
    """Has self-supervised learning of two views train on the hardest pair of several.

    Args:
        views: Of each image, at least 2.
        select_size: Shorter side of the images by which pairs are scored, in pixels; None for 64 of 224.
        by: 'loss', the objective's own, or 'cosine' of the encoder's projections.
        dropout: Share of the patch tokens that scoring leaves out, in [0, 1).
        phases: The phases in which views are chosen, of 'ssl' and 'mix'. See
            :class:`mixplug.training.hard_augment.ChooseHardest`.

    Raises:
        TypeError: an argument has the wrong type; at INIT, tokens shall be dropped and the model has none.
        ValueError: a number is out of range, or there is no such phase; at INIT, the model takes images of one size
            alone.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=SimSiam()), HardAugment()])  # doctest: +SKIP
    """

    amendment: ChooseHardest

    def __init__(
        self,
        views: int = 6,
        select_size: int | None = None,
        by: str = "loss",
        dropout: float = 0.0,
        phases: Iterable[str] = PHASES,
    ) -> None:
        self.amendment = ChooseHardest(views, select_size, by, dropout, phases)

    def check(self, backbone: Backbone) -> None:
        """Refuse an encoder that takes images of one size alone, or lacks the tokens to drop; see the base class."""
        if self.amendment.dropout:
            super().check(backbone)
        fixed, select = backbone.fixed_size, self.amendment.select_size
        if fixed is not None and (select is None or select < min(fixed)):
            instead = f"select_size={min(fixed)}, with dropout= to make it cheaper"
            raise error_of_one_size(f"HardAugment(select_size={select}) scores", backbone, instead)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Say where there are no views to choose; see the base class."""
        super().fit_start(state, logger)
        objective = encoder_pass_of(state).objective
        if objective is not None and not isinstance(objective, TwoView):
            warnings.warn(
                f"HardAugment chooses nothing in this run: {type(objective).__name__} compares no views; use an "
                f"objective such as SimSiam(), or leave HardAugment out",
                stacklevel=2,
            )
