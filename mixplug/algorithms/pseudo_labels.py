"""PseudoLabels: what the model is sure of labels the images without labels (FixMatch; FlexMatch).

What it does
    Beside ``MixTraining(mixing='side_by_side')``, whose passes over the encoder in MIX hold unlabelled images by the
    side of the labelled ones, it has them go through the rest of the model too and adds a third term to the joint
    loss: the cross entropy of those outputs with the class that the model predicts of the same images as they came,
    where it is confident (Sohn et al., "FixMatch", NeurIPS 2020, Eq. 4). The model's loss, the training metrics and
    other algorithms see the labelled images alone, as before.

Strong and weak view
    The strong view, learned from, is what the pass shows: beside ``MAE(mask='input')`` the visible patches, beside
    token dropout what it leaves, and with ``views`` a random view. The weak one, which gives the label, is the whole
    image, in evaluation mode: without dropout, and BatchNorm with its running statistics, as the model is used in the
    end. With an objective of two views the classifier's pass sees the images as they come, so ``views`` make the
    strong ones; the objective's second view stays one of the image. Where both are the same, it is plain
    pseudo-labelling, and a warning says so.

When to use it
    Few labels, many images of the same classes, and thousands of passes over these, as in FixMatch: in the tens that
    are measured here it costs more than it gains. The labels are as good as the classifier: it has to be well above
    chance in MIX, or the term teaches mistakes. Look at ``mixtraining/pseudo_share``, which is logged, the share of
    images that had a label.

Hyperparameters
    ``threshold`` 0.95 (FixMatch) and ``weight`` a ramp from 0 to 1 over MIX. ``per_class`` lowers the threshold of
    classes that are seldom predicted with confidence (Zhang et al., "FlexMatch", NeurIPS 2021); as there, it labels
    all images until some are, which a classifier that is no better than chance does not bear. MIX has to be long
    enough for the classifier to be sure of something: see ``recipes/README.md``.

What it costs
    A pass over the unlabelled images without gradient, and the head on them.

Interacts with
    MixUp, CutMix and label smoothing change the labelled half alone. PatchScaling and smaller images hold for the weak
    view too, token dropout with ``keys=True``. MixTraining with ``exact_microbatches`` is refused by side by side.
    SDMP(labels=True) and ``views`` both choose what the classifier sees, which is refused.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import batch_set
from torch import Tensor

from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.multi_task_classifier import MultiTaskClassifier
from mixplug.algorithms.trainer.contract import Stage, find, unwrapped_model
from mixplug.algorithms.trainer.passes import AmendingAlgorithm, encoder_pass_of
from mixplug.backbones import Backbone
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule
from mixplug.training.pseudo_labels import WEIGHT, PseudoLabelLoss
from mixplug.views.views import Views

_OF_THE_TERM = frozenset({Event.AFTER_FORWARD, Event.BEFORE_BACKWARD, Event.AFTER_TRAIN_BATCH, Event.BATCH_END})


class PseudoLabels(AmendingAlgorithm):
    """Adds to the loss of MIX that unlabelled images get the label which the model is sure of.

    Args:
        threshold: Confidence from which on a prediction is a label, in [0, 1].
        weight: Of the term, at least 0: a number or a schedule, by default over MIX. Where it is 0 nothing is done.
        views: Strong views of the unlabelled images; None for what the pass shows of them anyhow.
        per_class: Thresholds by class, which rise with what is predicted (FlexMatch).

    Raises:
        TypeError: an argument has the wrong type; in training, the model returns something else than logits.
        ValueError: a number is out of range; at INIT, a run without ``mixing='side_by_side'``, or a model of several
            tasks, or a sharded one.

    Example:
        >>> mix = MixTraining(alpha=Ramp(1, 0), objective=MAE("input"), ssl_dataloader=all_images,
        ...                   mixing="side_by_side")  # doctest: +SKIP
        >>> Trainer(..., algorithms=[mix, PseudoLabels(0.95)])  # doctest: +SKIP
    """

    stage = Stage.FURTHER_LOSS

    def __init__(
        self,
        threshold: float = 0.95,
        weight: Schedule = WEIGHT,
        views: Views | None = None,
        per_class: bool = False,
    ) -> None:
        self.amendment = PseudoLabelLoss(threshold, weight, views, per_class)
        self._term: Tensor | None = None
        self._watched: dict[str, float] = {}

    def progress(self) -> dict[str, Any]:
        """See the base class."""
        return {"shares": self.amendment.shares}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """See the base class."""
        self.amendment.shares = progress["shares"]

    def modules(self) -> list[Any]:
        """What a recipe tells the normalisation of its images."""
        return [] if self.amendment.views is None else [self.amendment.views]

    def wants(self, event: Event, state: State) -> bool:
        """See the base class: a step without the term is left alone."""
        return event not in _OF_THE_TERM or self.amendment.active

    def check(self, backbone: Backbone) -> None:
        """Any encoder will do; see the base class."""

    def init(self, state: State, logger: Logger) -> None:
        """Have unlabelled images go through the whole model."""
        data = find(state, MixupSSLData)
        if data is None or not data.side_by_side:
            raise ValueError(
                "PseudoLabels needs unlabelled images in the model's own pass: use it beside "
                "MixTraining(ssl_dataloader=..., mixing='side_by_side')"
            )
        if isinstance(state.model, MultiTaskClassifier):
            raise ValueError(
                "PseudoLabels labels images by the classes of one task, and the images without labels of a "
                "MultiTaskClassifier are of no task in particular: use it with a model of one task"
            )
        if state.fsdp_config is not None:
            raise ValueError(
                "PseudoLabels runs the model once more between the forward and the backward pass of a step, which is "
                "not known to work with sharded models (FSDP); train without parallelism_config, each process with "
                "the whole model (DDP)"
            )
        super().init(state, logger)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Say where the strong view is the weak one; see the base class."""
        super().fit_start(state, logger)
        shown = encoder_pass_of(state).request(Position(Phase.MIX))
        if shown is not None and shown.select is None and shown.view is None and self.amendment.views is None:
            warnings.warn(
                "PseudoLabels compares predictions of the same whole images: neither the objective nor a token dropout "
                "hides patches in MIX. Give it strong views, such as views=Views('simclr'), or use MAE(mask='input')",
                stacklevel=2,
            )

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """A step begins, perhaps again."""
        self.amendment.before_step()

    def after_forward(self, state: State, logger: Logger) -> None:
        """Take the outputs of unlabelled images off those of the labelled ones, and make of them the term."""
        model = unwrapped_model(state)

        def batch_of(images: Tensor) -> Any:
            return batch_set(copy.copy(state.batch), key=0, value=images)  # whose labels no forward pass reads

        # AFTER_FORWARD runs outside of Composer's precision context.
        with get_precision_context(state.precision, state.precision_config):
            state.outputs, self._term = self.amendment.split(state.outputs, model, batch_of)

    def before_backward(self, state: State, logger: Logger) -> None:
        """Add the term to the joint loss."""
        assert isinstance(state.loss, Mapping)
        assert self._term is not None
        assert self.amendment.loss is not None
        state.loss = {**state.loss, "pseudo": self.amendment.loss, "total": state.loss["total"] + self._term}
        self._term = None

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Read what is to be logged, where Composer reads the loss."""
        self._watched = {f"mixtraining/{name}": float(v) for name, v in self.amendment.monitors().items()}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the share of images with a label."""
        self.amendment.after_step()
        logger.log_metrics(self._watched)
