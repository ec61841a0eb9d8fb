"""Composer callbacks that judge the representations while they are trained.

What they do
    At chosen moments of a training, ``OnlineKNN`` and ``LinearProbe`` extract features of labelled images with the
    model's encoder as it then is, and log how well a simple classifier does on them: ``knn/accuracy`` and
    ``linear_probe/accuracy``. Nothing of the training changes: its weights, optimizer and random numbers are bit for
    bit those of a run without them, also where it is resumed.

When to use them
    In self-supervised phases the classifier's own accuracy says nothing, since it is not trained yet. kNN is fast and
    has nothing to train; the linear probe is what is usually reported, and takes longer.

Interactions
    Both in one Trainer extract the features of a moment once, if they have the same loaders. Images come as the loaders
    give them, not as algorithms (ProgressiveResizing, MixUp) change them in training. EMA and SWA show their averaged
    weights to evaluation only: these callbacks judge the trained ones. In Composer's wall-clock time they count as
    training. Models that are sharded (FSDP) are refused.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from composer.core import Callback, DataSpec, Event, State, Time, TimeUnit, ensure_data_spec, get_precision_context
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist

from mixplug.algorithms.trainer.contract import unwrapped_model
from mixplug.backbones import Backbone
from mixplug.backbones.probing import (
    Features,
    extract_features,
    gather_features,
    knn_accuracy,
    linear_probe_accuracy,
    unattached_backbone,
)
from mixplug.checks import check_bool, check_int, check_real
from mixplug.data.batches import images_of
from mixplug.data.multi_task import MultiTaskEvalLoader, MultiTaskLoader

_UNITS = (TimeUnit.EPOCH, TimeUnit.BATCH, TimeUnit.SAMPLE, TimeUnit.DURATION)


class _FeatureProbe(Callback):
    """What the callbacks have in common: when, of what, and features that are extracted once.

    Args:
        train_loader: Labelled images to learn from, neither shuffled nor augmented: a loader of its own, or a DataSpec.
        test_loader: Labelled images to judge by; None for the Trainer's only eval_dataloader.
        interval: How often, such as '1ep', '100ba' or '0.1dur'; always at the end, too.
        at_start: Before training, too: what an untrained encoder gives.
        backbone: Dotted name of the encoder inside of the model, see :func:`mixplug.backbone_of`.
        name: What the metric is called before '/accuracy'. Two of a kind need two names.
    """

    def __init__(
        self,
        train_loader: Iterable | DataSpec,
        test_loader: Iterable | DataSpec | None,
        interval: str | Time,
        at_start: bool,
        backbone: str | None,
        name: str,
    ) -> None:
        self.train_data = data_of("train_loader", train_loader)
        self.test_data = None if test_loader is None else data_of("test_loader", test_loader)
        self._given = (train_loader, test_loader)
        self.interval = check_interval(interval)
        self.at_start = check_bool("at_start", at_start)
        self.backbone_path = backbone
        self.name = name
        self._is_due: Callable[[State, Event], bool]
        self._backbone: Backbone | None
        self._test: DataSpec | None
        self._kept: tuple[tuple[Any, ...], tuple[Features, Features]] | None
        self._begin()

    @abstractmethod
    def accuracy(self, train: Features, test: Features) -> float:
        """The accuracy that is logged, in [0, 1], of features and labels of the training and the test images."""

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        if state.fsdp_config is not None:
            raise ValueError(
                f"{type(self).__name__} runs the encoder outside of the model's own forward pass, where the parameters "
                f"of a sharded model (FSDP) are not whole; train without parallelism_config, or judge a checkpoint "
                f"by mixplug probe"
            )
        names = [probe.name for probe in _probes(state)]
        if names.count(self.name) > 1:
            raise ValueError(
                f"{names.count(self.name)} callbacks would log {self.name}/accuracy; give each a name of its own: "
                f"{type(self).__name__}(..., name='{self.name}_2')"
            )
        self._begin()

    def fit_start(self, state: State, logger: Logger) -> None:
        """Find the encoder, and try a batch: mistakes show now rather than after hours."""
        model = unwrapped_model(state)
        self._backbone = unattached_backbone(model, self.backbone_path)
        self._test = _only_evaluator(state, type(self).__name__) if self.test_data is None else self.test_data
        for data in (self.train_data, self._test):
            try_batch(state, self._backbone, data, type(self).__name__)
        if self.at_start and state.timestamp.batch == 0:
            self._measure(state, logger)

    def batch_start(self, state: State, logger: Logger) -> None:
        """The weights are about to change: forget the features."""
        self._kept = None

    def batch_end(self, state: State, logger: Logger) -> None:
        """Measure, if it is time."""
        self._measure_if_due(state, Event.BATCH_END, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Measure, if it is time."""
        self._measure_if_due(state, Event.EPOCH_END, logger)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Keep nothing of the Trainer's."""
        self._kept = self._backbone = self._test = None

    def _begin(self) -> None:
        self._is_due = create_interval_scheduler(
            self.interval, checkpoint_events=False, final_events={Event.BATCH_END, Event.EPOCH_END}
        )
        self._measured_at = -1
        self._backbone = self._test = self._kept = None

    def _measure_if_due(self, state: State, event: Event, logger: Logger) -> None:
        if self._is_due(state, event):
            self._measure(state, logger)

    def _measure(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        if self._measured_at == batch:  # the end of a batch may be that of the epoch, too
            return
        self._measured_at = batch
        train, test = self._features(state)
        logger.log_metrics({f"{self.name}/accuracy": by_the_first_rank(lambda: self._judge(train, test))})

    def _judge(self, train: Features, test: Features) -> float:
        if not all(features.isfinite().all() for features, _ in (train, test)):
            # A training goes on without a loss that can be used, too.
            warnings.warn(f"{self.name}/accuracy is NaN, for the encoder's features are not finite", stacklevel=2)
            return math.nan
        return self.accuracy(train, test)

    def _features(self, state: State) -> tuple[Features, Features]:
        """Features of this moment's training and test images, of all processes, each moment extracted once."""
        assert self._backbone is not None
        assert self._test is not None
        # Every BATCH_START ends a moment. What users gave tells loaders apart: their DataSpecs may transform batches.
        source = (self._backbone.model, *self._given)
        for probe in _probes(state):
            if probe._kept is not None and all(a is b for a, b in zip(probe._kept[0], source, strict=True)):
                return probe._kept[1]
        backbone, test = self._backbone, self._test
        features = features_of(state, backbone, self.train_data), features_of(state, backbone, test)
        self._kept = (source, features)
        return features


class OnlineKNN(_FeatureProbe):
    """Logs ``knn/accuracy``: that of the k nearest neighbours among the training images' features.

    See :func:`mixplug.backbones.probing.knn_accuracy` for the classifier, :mod:`mixplug.algorithms.probes` for what
    it does to a run (nothing).

    Args:
        train_loader: Batches of labelled training images, neither shuffled nor augmented: a loader of its own, not the
            Trainer's, such as ``split.train_loader(batch_size, shuffle=False)`` of
            :func:`mixplug.data.datasets.load_dataset`; or a Composer DataSpec. With several processes, with a
            ``DistributedSampler``, as ours have.
        test_loader: Of labelled test images, likewise; None for the Trainer's only eval_dataloader.
        interval: How often, in epochs, batches, samples or shares of the run: '1ep', '100ba', '5000sp', '0.1dur'.
            It is measured at the end of a run, too.
        k: Neighbours, at least 1 and at most the number of training images.
        temperature: Of the votes' weights exp(cosine similarity / temperature), above 0.
        at_start: Measure before the first batch, too: what an untrained encoder gives.
        backbone: Dotted name of the encoder inside of the model, if it holds several models of timm's, or none.
        name: What the metric is called before '/accuracy'.

    Raises:
        TypeError: an argument has the wrong type, or a loader holds several tasks; at the start of training, batches
            are not images with labels that are whole numbers.
        ValueError: an argument is out of range; at INIT, the model is sharded or two callbacks have one name; at the
            start of training, ``test_loader`` is None and the Trainer has none or several.

    Example:
        >>> split = load_dataset("digits")  # doctest: +SKIP
        >>> images = split.train_loader(256, shuffle=False)  # doctest: +SKIP
        >>> Trainer(..., callbacks=[OnlineKNN(images, interval="5ep"), LinearProbe(images)])  # doctest: +SKIP
    """

    def __init__(
        self,
        train_loader: Iterable | DataSpec,
        test_loader: Iterable | DataSpec | None = None,
        interval: str | Time = "1ep",
        k: int = 20,
        temperature: float = 0.07,
        at_start: bool = False,
        backbone: str | None = None,
        name: str = "knn",
    ) -> None:
        super().__init__(train_loader, test_loader, interval, at_start, backbone, name)
        self.k = check_int("k", k, 1)
        self.temperature = check_real("temperature", temperature, 0, math.inf, low_open=True, high_open=True)
        count = self.train_data.num_samples
        if count is not None and k > count:
            raise ValueError(f"k must be at most the number of training images, {count}, got {k}; use a smaller k")

    def accuracy(self, train: Features, test: Features) -> float:
        """See the base class."""
        return knn_accuracy(*train, *test, k=self.k, temperature=self.temperature)


class LinearProbe(_FeatureProbe):
    """Logs ``linear_probe/accuracy``: that of logistic regression on the training images' standardised features.

    See :func:`mixplug.backbones.probing.linear_probe_accuracy` for the classifier, :mod:`mixplug.algorithms.probes`
    for what it does to a run (nothing).

    Args:
        train_loader: As of :class:`OnlineKNN`.
        test_loader: As of :class:`OnlineKNN`.
        interval: As of :class:`OnlineKNN`; by default at the end only.
        c: scikit-learn's C, above 0: the weight of the images' summed losses against the L2 penalty.
        max_iter: Iterations at most.
        at_start: As of :class:`OnlineKNN`.
        backbone: As of :class:`OnlineKNN`.
        name: What the metric is called before '/accuracy'.

    Raises:
        TypeError: as of :class:`OnlineKNN`.
        ValueError: as of :class:`OnlineKNN`; when measured, all training images are of one class.
    """

    def __init__(
        self,
        train_loader: Iterable | DataSpec,
        test_loader: Iterable | DataSpec | None = None,
        interval: str | Time = "1dur",
        c: float = 1.0,
        max_iter: int = 1000,
        at_start: bool = False,
        backbone: str | None = None,
        name: str = "linear_probe",
    ) -> None:
        super().__init__(train_loader, test_loader, interval, at_start, backbone, name)
        self.c = check_real("c", c, 0, math.inf, low_open=True, high_open=True)
        self.max_iter = check_int("max_iter", max_iter, 1)

    def accuracy(self, train: Features, test: Features) -> float:
        """See the base class."""
        return linear_probe_accuracy(*train, *test, c=self.c, max_iter=self.max_iter)


def _probes(state: State) -> list[_FeatureProbe]:
    return [callback for callback in state.callbacks if isinstance(callback, _FeatureProbe)]


def features_of(state: State, backbone: Backbone, data: DataSpec, labelled: bool = True) -> Features:
    """Features of all images of ``data``, of all processes, in the run's precision; nothing of the run changes.

    The labels are zeros where it is not ``labelled``, and batches may be images alone.
    """
    return gather_features(*_extract(state, backbone, data, labelled), data.dataloader)


def try_batch(state: State, backbone: Backbone, data: DataSpec, who: str, labelled: bool = True) -> None:
    """Extract the features of one batch for ``who``: mistakes show now rather than after hours.

    Raises:
        TypeError: a batch is no images with whole numbers.
        ValueError: it is empty, or what the run trains on.
    """
    if state.train_dataloader is data.dataloader:
        raise ValueError(
            f"{who} was given the Trainer's own train_dataloader, whose passes it would disturb; give it a loader of "
            f"its own, of the same images without shuffling and augmentation"
        )
    _extract(state, backbone, data, labelled, max_batches=1)


def _extract(
    state: State, backbone: Backbone, data: DataSpec, labelled: bool, max_batches: int | None = None
) -> Features:
    def prepare(batch: Any) -> Any:
        batch = data.microbatch_transforms(state.device.batch_to_device(data.batch_transforms(batch)))
        if labelled:
            return batch
        images = images_of(batch, "a batch")
        return images, torch.zeros(len(images), dtype=torch.long)

    with get_precision_context(state.precision, state.precision_config, fp8_autocast_enabled=False):
        return extract_features(backbone, data.dataloader, prepare=prepare, max_batches=max_batches)


def data_of(name: str, loader: Any) -> DataSpec:
    """``loader``, the argument ``name``, as batches of the images and labels of one task."""
    batches = loader.dataloader if isinstance(loader, DataSpec) else loader
    if isinstance(batches, (MultiTaskLoader, MultiTaskEvalLoader)):
        raise TypeError(
            f"{name} holds the tasks {list(batches.tasks)}; give a loader of one of them, and each task a callback of "
            f"its own: OnlineKNN(loader_of_a, test_loader_of_a, name='knn/a')"
        )
    if not isinstance(batches, Iterable) or isinstance(batches, (str, dict)):
        raise TypeError(f"{name} must give batches of images and labels, like a DataLoader; got {batches!r}")
    return ensure_data_spec(loader)


def _only_evaluator(state: State, name: str) -> DataSpec:
    if len(state.evaluators) != 1:
        labels = [evaluator.label for evaluator in state.evaluators]
        raise ValueError(
            f"{name} without a test_loader takes the Trainer's only eval_dataloader, and this Trainer has "
            f"{len(labels)}{f', {labels}' if labels else ''}; give {name} a test_loader"
        )
    return data_of("the Trainer's eval_dataloader", state.evaluators[0].dataloader)


def check_interval(interval: str | Time) -> Time:
    """``interval`` as a time in epochs, batches, samples or shares of the run, above 0."""
    example = "give one such as '1ep', '100ba', '5000sp' or '0.1dur'"
    if not isinstance(interval, (str, Time)):
        raise TypeError(f"interval must be a length of time, got {interval!r}; {example}")
    try:
        time = Time.from_input(interval)
    except ValueError as error:
        raise ValueError(f"interval must be a length of time, got {interval!r}; {example}") from error
    if not time.value > 0 or time.unit not in _UNITS:
        raise ValueError(
            f"interval must be above 0, in epochs, batches, samples or shares of the run, got {interval!r}; {example}"
        )
    return time


def by_the_first_rank(compute: Callable[[], float]) -> float:
    """What ``compute`` gives on the first process, or its error, on all of them: they must not go apart."""
    outcome: list[Any] = [None]
    if dist.get_global_rank() == 0:
        try:
            outcome = [compute()]
        except Exception as error:
            if dist.get_world_size() == 1:
                raise
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
