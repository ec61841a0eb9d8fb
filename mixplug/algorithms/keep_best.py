"""KeepBest: a run ends with the best weights that it had, by a stated signal.

What it does
    At each interval of the run's last phase it measures the signal, and keeps a copy of the model's weights where it
    is the best so far; of equals the later. At the run's end those weights are put into the model, before the last
    evaluation and the last checkpoint. Until then the training is bit for bit what it is without, also where it is
    resumed, and ``fit`` again goes on from the last weights, not from those put back.

When to use it
    Where longer training may make the model worse: small data, collapse, overfitting. What is chosen among is the last
    phase alone, for what one phase ends with another is not done with: the best encoder of an SSL phase has a
    classifier that nobody has trained.

Signals
    ``'knn'``: nearest neighbours of the encoder's features among labelled training images, each judged by the others.
    No test label is looked at. In supervised phases, which train on these labels, it soon says 1.
    ``'rankme'``: in how many directions the features of images lie (RankMe, Garrido et al., 2023); needs no label.
    ``'ssl_loss'``: the self-supervised loss, mean over the steps since the point before; the lower the better. It
    compares nothing where masks, views or alpha change over the phase.
    ``'accuracy'``: the Trainer's evaluation, at each of its own moments. What is chosen by an accuracy is not judged
    by it any more: the ``eval_dataloader`` must give validation images, never the test set that is reported. Where
    ``eval_interval`` does not divide the run, Composer evaluates last when the last checkpoint is written already: that
    one holds the last weights, and the best ones beside.

Interacts with
    EMA and SWA, which end a run with averages of their own, are refused. In Composer's wall-clock time and in counted
    costs measuring is what it is for OnlineKNN: the former counts it, the latter do not. Models that are sharded (FSDP)
    are refused. Checkpoints hold the weights kept beside the model's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from composer.core import DataSpec, Event, State, Time
from composer.loggers import Logger
from composer.utils import create_interval_scheduler

from mixplug.algorithms.probes import by_the_first_rank, check_interval, data_of, features_of, try_batch
from mixplug.algorithms.trainer.contract import (
    Clock,
    PhasedAlgorithm,
    Stage,
    find,
    is_over,
    position_of,
    units_done,
    unwrapped_model,
)
from mixplug.backbones import Backbone
from mixplug.backbones.probing import knn_accuracy, unattached_backbone
from mixplug.checks import check_choice
from mixplug.objectives.collapse import rank_me
from mixplug.schedules.phases import Phase

SIGNALS = ("accuracy", "knn", "rankme", "ssl_loss")
_OF_FEATURES = ("knn", "rankme")
_NEIGHBOURS = 20
_SSL_LOSS = "loss/train/ssl"


class KeepBest(PhasedAlgorithm):
    """Ends a run with its best weights by a signal, judged in its last phase; see :mod:`mixplug.algorithms.keep_best`.

    Logs ``keep_best/SIGNAL`` where it is measured, and ``keep_best/best_batch``, after how many batches it was best.

    Args:
        signal: 'knn', 'rankme', 'ssl_loss', or 'accuracy' (of validation images).
        loader: For 'knn' batches of labelled training images, for 'rankme' of any images, a few thousand of them;
            neither shuffled nor augmented, and not the Trainer's own. For others None.
        interval: How often, in epochs, batches, samples or shares of the run: '1ep', '100ba', '5000sp', '0.1dur'. It
            is measured at the end of a run, too. Of 'accuracy' the Trainer's ``eval_interval`` decides.
        backbone: Dotted name of the encoder inside of the model, if it holds several models of timm's, or none.

    Raises:
        TypeError: an argument has the wrong type, or the loader holds several tasks; at the start of training, batches
            are no images, or the model holds no encoder.
        ValueError: an argument is out of range, or the loader is missing or of no use; at INIT, the model is sharded or
            averaged; at the start of training, the run's last phase has no such signal.

    Example:
        >>> images = load_dataset("digits").train_loader(256, shuffle=False)  # doctest: +SKIP
        >>> Trainer(..., algorithms=[MixTraining(sl_duration="0ep", ...), KeepBest("knn", images)])  # doctest: +SKIP
    """

    stage = Stage.WEIGHTS

    def __init__(
        self,
        signal: str,
        loader: Iterable | DataSpec | None = None,
        interval: str | Time = "1ep",
        backbone: str | None = None,
    ) -> None:
        self.signal = check_choice("signal", signal, SIGNALS)
        of_features = signal in _OF_FEATURES
        if of_features is (loader is None):
            raise ValueError(
                f"KeepBest({signal!r}) {'needs a' if of_features else 'measures no images, and was given a'} loader; "
                f"'knn' and 'rankme' take one of training images, 'accuracy' and 'ssl_loss' none"
            )
        self._data = None if loader is None else data_of("loader", loader)
        self.interval = check_interval(interval)
        self.backbone_path = backbone
        self._is_due = create_interval_scheduler(self.interval, include_end_of_training=False, checkpoint_events=False)
        self._backbone: Backbone | None = None
        self._ended = False
        self.resume({})

    @property
    def kept(self) -> dict[str, Any] | None:
        """The ``signal``, its best ``value``, and the time of the run that was ``at``, in its unit; None before."""
        return None if self._best is None else {"signal": self.signal, **{k: self._best[k] for k in ("value", "at")}}

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"signal": self.signal, "interval": self.interval.to_timestring()}

    def progress(self) -> dict[str, Any]:
        """The best so far, and what the next value is made of."""
        return {
            "best": self._best,
            "last": self._last,
            "judged_at": self._judged_at,
            "ssl": list(self._ssl),
            "moments": self._moments,
        }

    def resume(self, progress: Mapping[str, Any]) -> None:
        """See the base class."""
        self._best: dict[str, Any] | None = progress.get("best")
        self._last: dict[str, Any] | None = progress.get("last")
        self._judged_at: int = progress.get("judged_at", -1)
        self._moments: int = progress.get("moments", 0)
        self._ssl: list[float] = list(progress.get("ssl", (0.0, 0)))

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        if state.fsdp_config is not None:
            raise ValueError(
                "KeepBest copies the whole model's weights, which no process of a sharded model (FSDP) has; train "
                "without parallelism_config, or leave KeepBest out"
            )
        averaging = [type(a).__name__ for a in state.algorithms if type(a).__name__ in ("EMA", "SWA")]
        if averaging:
            raise ValueError(
                f"KeepBest cannot run with {averaging[0]}: both say which weights a run ends with; use one of them"
            )
        self.resume({})

    def fit_start(self, state: State, logger: Logger) -> None:
        """Go on from the last weights, and see that the run has the signal: mistakes show before hours of training."""
        if self._last is not None:
            self._take_out(state)
        if self.signal == "accuracy":
            _accuracy(state)
        if self.signal == "ssl_loss" and _last_phase(state) is Phase.SL:
            raise ValueError(
                "KeepBest('ssl_loss') judges in the run's last phase, which is supervised learning and has no "
                "self-supervised loss; use 'knn' or 'accuracy'"
            )
        if self._data is not None:
            self._backbone = unattached_backbone(unwrapped_model(state), self.backbone_path)
            try_batch(state, self._backbone, self._data, "KeepBest", self.signal == "knn")

    def batch_end(self, state: State, logger: Logger) -> None:
        """Measure, if it is time."""
        if self.signal == "ssl_loss" and _in_last_phase(state):
            losses = state.total_loss_dict or {}
            if _SSL_LOSS not in losses:
                raise ValueError(
                    f"KeepBest('ssl_loss') needs a self-supervised loss, and this run's are {sorted(losses)}; add "
                    f"MixTraining or FusedBackbonePass, or use 'knn' or 'accuracy'"
                )
            self._ssl = [self._ssl[0] + losses[_SSL_LOSS], self._ssl[1] + 1]
        self._judge_if_due(state, Event.BATCH_END, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Measure, if it is time."""
        self._judge_if_due(state, Event.EPOCH_END, logger)

    def eval_before_all(self, state: State, logger: Logger) -> None:
        """Have the last weights judged where Composer evaluates after the run's end, when others are back already."""
        judged = state.timestamp.batch.value == self._judged_at
        self._ended = self.signal == "accuracy" and self._last is not None and not judged
        if self._ended:
            self._take_out(state)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Read the accuracy."""
        if self.signal == "accuracy":
            self._judge(state, logger)
            if self._ended:
                self._put_back(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        """End with the best weights, where the run was stopped before its end, too."""
        self._put_back(state)
        self._backbone = None
        before = self._moments - (self._judged_at == state.timestamp.batch.value)
        if not before:
            interval = "the Trainer's eval_interval" if self.signal == "accuracy" else repr(self)
            warnings.warn(
                f"KeepBest({self.signal!r}) measured nothing before the run's end, so the last weights are kept, "
                f"whatever they are worth; make {interval} shorter than the run's last phase, or leave KeepBest out",
                stacklevel=2,
            )

    def _judge_if_due(self, state: State, event: Event, logger: Logger) -> None:
        if self.signal != "accuracy" and (self._is_due(state, event) or is_over(state)):
            self._judge(state, logger)

    def _judge(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        # The end of a batch may be that of the epoch, too, and what has been put back is judged already.
        if batch == self._judged_at or self._last is not None or not _in_last_phase(state):
            return
        self._judged_at = batch
        self._moments += 1
        value = self._measure(state)
        sign = -1 if self.signal == "ssl_loss" else 1
        if not math.isnan(value) and (self._best is None or sign * value >= sign * self._best["value"]):
            metrics = {name: float(number) for name, number in state.eval_metric_values.items()}
            self._best = {"value": value, "at": units_done(state), "batch": batch, "metrics": metrics}
            self._best["model"] = _copy_weights(state)
        best_batch = {} if self._best is None else {"keep_best/best_batch": self._best["batch"]}
        logger.log_metrics({f"keep_best/{self.signal}": value, **best_batch})
        if is_over(state):
            self._put_back(state)

    def _measure(self, state: State) -> float:
        if self.signal == "accuracy":
            return float(state.eval_metric_values[_accuracy(state)])
        if self.signal == "ssl_loss":
            (total, count), self._ssl = self._ssl, [0.0, 0]
            return total / count if count else math.nan
        assert self._backbone is not None
        assert self._data is not None
        features, labels = features_of(state, self._backbone, self._data, self.signal == "knn")

        def judge() -> float:
            if not features.isfinite().all():
                return math.nan
            if self.signal == "rankme":
                return float(rank_me(features))
            return knn_accuracy(features, labels, k=max(1, min(_NEIGHBOURS, len(labels) - 1)))

        return by_the_first_rank(judge)

    def _take_out(self, state: State) -> None:
        """Put the last weights into the model again."""
        assert self._last is not None
        unwrapped_model(state).load_state_dict(self._last)
        self._last = None

    def _put_back(self, state: State) -> None:
        best = self._best
        if best is None or self._last is not None or best["batch"] == state.timestamp.batch.value:
            return
        self._last = _copy_weights(state)
        unwrapped_model(state).load_state_dict(best["model"])
        if self.signal == "accuracy":  # others are measured before the last evaluation
            state.eval_metric_values.update(best["metrics"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(signal={self.signal!r}, interval={self.interval.to_timestring()!r})"


def _copy_weights(state: State) -> dict[str, Any]:
    """The model's state on the CPU, which no later step changes."""
    own = unwrapped_model(state).state_dict()
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
        for name, value in own.items()
    }


def _last_phase(state: State) -> Phase:
    clock = find(state, Clock)  # type: ignore[type-abstract]
    return position_of(state).phase if clock is None else clock.phases(state)[-1]


def _in_last_phase(state: State) -> bool:
    """Whether a batch of it has been trained; before, the weights are still what the phase before has made."""
    position = position_of(state)
    return position.phase is _last_phase(state) and position.progress > 0


def _accuracy(state: State) -> str:
    """What the Trainer's only evaluator calls its accuracy."""
    if len(state.evaluators) != 1:
        raise ValueError(
            f"KeepBest('accuracy') reads the accuracy on the Trainer's only eval_dataloader, and this Trainer has "
            f"{len(state.evaluators)}; give it one, of validation images"
        )
    names = state.evaluators[0].metric_names
    found = next((name for name in names if name.casefold().endswith("accuracy")), None)
    if found is None:
        raise ValueError(
            f"KeepBest('accuracy') needs a metric whose name ends in 'Accuracy', and this model has {names}; give its "
            f"val_metrics one, or use another signal"
        )
    return found
