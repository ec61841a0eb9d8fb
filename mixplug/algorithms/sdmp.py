"""SDMP: mixed images as positives (Ren et al., "A Simple Data Mixing Prior", 2022).

What it does
    Of an objective of two views one view of each image is mixed with that of another image of the batch, by Mixup,
    CutMix or ResizeMix. What it has to find is both its sources (Eq. 3) and the other view, mixed likewise (Eq. 4), in
    the shares in which it was mixed. With DINO half of the local crops are mixed, and learn from the assignments of
    both sources and of the mixed images (Eqs. 7 to 9).

When to use it
    Self-supervised learning with SimCLR, MoCo v2+, MoCo v3 or DINO; the paper reports +0.4 to +0.6 points for ViT-S on
    ImageNet, +3.0 for ResNet-50 on CIFAR-10 after 200 epochs. BYOL and SimSiam, which predict the mixture of targets,
    are by the same reasoning, and ours.

Hyperparameters
    The paper's: three mixers, uniform shares for each image (``alpha`` 1), ``version='replace'``. ``term_weights`` 0.5
    each as in the released code. Its ablations: ``static`` (Table 6), ``lam`` (7), ``mixers`` (8), ``version`` (9),
    ``local_share`` and DINO's ``local_crops`` (10), of which it takes six or more to gain: mixing a global view of
    DINO's, as is done without any, costs 3.7 points there. 'patchmix' is beyond the paper: pure tokens for a ViT.

What it costs
    'replace' adds no pass with gradient. In the SSL phase a momentum encoder makes 3 passes in place of 2, with local
    crops 4; SimCLR and SimSiam make 2 without gradient in place of none. 'extra' adds a pass with gradient and one
    without. To compare at equal cost, give recipes ``max_cost``.

Interacts with
    In MIX the classifier's image is never mixed unless ``labels=True``, which mixes its label too: a row of CutMix for
    free. Without, MIX stays as it is with a momentum encoder ('replace'), as nothing but that image predicts. MixUp and
    CutMix of Composer mix images before; with ``labels=True`` not with ``interpolate_loss``. Partners come from the
    process, and from the microbatch unless ``exact_microbatches=True``, with which there is no ``labels=True``. MoCo
    v2+'s queue and DINO's centre hold what is made of mixed images, too. AutoCompression measures gradients of unmixed
    images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from composer.algorithms import CutMix, MixUp
from composer.core import Event, State
from composer.loggers import Logger

from mixplug.algorithms.fused_backbone_pass import FusedBackbonePass
from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.trainer.contract import find
from mixplug.algorithms.trainer.passes import AmendingAlgorithm, encoder_pass_of, phases_of
from mixplug.backbones import Backbone
from mixplug.objectives import DINO, TwoView
from mixplug.schedules.phases import Phase, Position
from mixplug.training.sdmp import MixViews
from mixplug.views.batch_mixing import Mixer

FEWEST_LOCAL_CROPS = 6
"""From which number on DINO gains in the paper's Table 10."""


class SDMP(AmendingAlgorithm):
    """Has mixed images predict their sources and each other, in self-supervised learning of two views.

    Args:
        mixers: Of 'mixup', 'cutmix', 'resizemix' and 'patchmix'; one is drawn for each batch.
        alpha: Shares are drawn from Beta(alpha, alpha), above 0.
        lam: 'sample' draws a share for each image, 'batch' one for all.
        patch: Side of the patches of 'patchmix' in pixels.
        mixer_weights: How often each mixer is drawn, relative to the others; None for equally often.
        version: 'replace' has the mixed view take another's place, 'extra' adds it.
        term_weights: What predicting sources and predicting the mixed view weigh, where what they replace weighs 1.
        static: Terms, of 'source' and 'mixed', that know nothing of the share.
        local_share: How many of DINO's local crops are mixed, in (0, 1].
        labels: Whether in MIX the classifier's images are mixed, and their labels. See
            :class:`mixplug.training.sdmp.MixViews`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or there is no such mixer or term; at INIT, 'patchmix' would divide the
            model's patches; at FIT_START, another algorithm needs unmixed labels, or not every image that it would mix
            has one.

    Example:
        >>> Trainer(..., algorithms=[MixTraining(objective=MoCoV3()), SDMP()])  # doctest: +SKIP
    """

    amendment: MixViews

    def __init__(
        self,
        mixers: Sequence[str | Mixer] = ("mixup", "cutmix", "resizemix"),
        alpha: float = 1.0,
        lam: str = "sample",
        patch: int | None = None,
        mixer_weights: Sequence[float] | None = None,
        version: str = "replace",
        term_weights: Sequence[float] = (0.5, 0.5),
        static: Iterable[str] = (),
        local_share: float = 0.5,
        labels: bool = False,
    ) -> None:
        self.amendment = MixViews(
            mixers, alpha, lam, patch, mixer_weights, version, term_weights, static, local_share, labels
        )

    def wants(self, event: Event, state: State) -> bool:
        """See the base class."""
        return event is not Event.BEFORE_LOSS or self.amendment.mixes_labels

    def check(self, backbone: Backbone) -> None:
        """Refuse patches that would make tokens of two images; see the base class."""
        own, patch = getattr(backbone, "patch_size", None), self.amendment.patch
        if own is not None and patch is not None and any(patch % side for side in own):
            raise ValueError(
                f"patch={patch} is no multiple of the model's patches of {own}, so tokens would be of two images; "
                f"give SDMP patch={max(own)}"
            )

    def fit_start(self, state: State, logger: Logger) -> None:
        """Refuse what cannot be mixed, and say where nothing is, or nothing is gained; see the base class."""
        super().fit_start(state, logger)
        objective = encoder_pass_of(state).objective
        if objective is None:
            return
        if self.amendment.labels:
            self._refuse_unmatched_labels(state)
        phases = [phase for phase in phases_of(state) if phase is not Phase.SL]
        # One that says its loss in forward makes its views itself.
        if not isinstance(objective, TwoView) or type(objective).forward is not TwoView.forward:
            warnings.warn(
                f"SDMP mixes nothing in this run: {type(objective).__name__} compares no pairs of views; use an "
                f"objective such as MoCoV3(), or leave SDMP out",
                stacklevel=2,
            )
        elif not any(self.amendment.mixes(objective.request(Position(phase))) for phase in phases):
            warnings.warn(
                f"SDMP mixes nothing in this run: in its {' and '.join(map(str, phases))} phase only the classifier's "
                f"image predicts; use labels=True or version='extra', or leave SDMP out",
                stacklevel=2,
            )
        elif isinstance(objective, DINO) and objective.local_crops < FEWEST_LOCAL_CROPS and Phase.SSL in phases:
            what = "mixed local crops" if objective.local_crops else "a mixed global view"
            warnings.warn(
                f"DINO(local_crops={objective.local_crops}) loses by {what} in the paper's Table 10, and gains from "
                f"{FEWEST_LOCAL_CROPS} local crops on; use as many, or leave SDMP out",
                stacklevel=2,
            )

    def _refuse_unmatched_labels(self, state: State) -> None:
        """Refuse what takes labels as they were, or has the classifier see images of which not each has one."""
        for other in state.algorithms:
            if isinstance(other, (MixUp, CutMix)) and other.interpolate_loss:
                raise ValueError(
                    f"SDMP(labels=True) mixes labels, and {type(other).__name__}(interpolate_loss=True) takes them as "
                    f"they were; use interpolate_loss=False, or labels=False"
                )
        data, fused = find(state, MixupSSLData), find(state, FusedBackbonePass)
        what = ""
        if data is not None and data.side_by_side:
            what = "mixing='side_by_side', where unlabelled images go through the same pass"
        elif fused is not None and fused.exact_microbatches:
            what = "exact_microbatches=True, where images are mixed before their labels are known"
        if what and Phase.MIX in phases_of(state):
            raise ValueError(f"SDMP(labels=True) mixes each label with another, not with {what}; use labels=False")

    def before_loss(self, state: State, logger: Logger) -> None:
        """Mix the labels as the images were."""
        outputs: Any = state.outputs
        state.batch_set_item(1, self.amendment.mix_labels(state.batch_get_item(1), outputs.shape[-1]))
