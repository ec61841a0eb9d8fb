"""MixupSSLData: brings in self-supervised data other than the labelled one (Li et al., Eq. 2, section 3.2.2).

What it does
    With an ``ssl_dataloader``, epochs of the SSL phase are passes over it. In MIX there are two ways:

    A mixing function (the paper's, the default). Epochs of MIX are passes over the labelled data in which each image is
    mixed with a random self-supervised partner; labels stay.

    ``mixing='side_by_side'`` (ours). Epochs of MIX are passes over the SSL data. Each step takes its batch and
    ``labelled_per_step`` labelled images, drawn anew, and both go through the encoder in the model's one pass. The
    objective learns from all of them. The model, its loss, MixUp, label smoothing and the training metrics see an
    ordinary labelled batch: the unlabelled images are appended at the encoder's entry and taken off at its exit.

    Without an ``ssl_dataloader`` both data sets are the same and nothing changes: ``g(D_ssl, D_sl) = D_sl``.

When to use which
    With few labels and many images without, side by side: pixel by pixel, self-supervised learning gets as few steps
    in MIX as there are labels, and the classifier blurred images. The paper's way is for the paper's tables. Beside
    token dropout in SL, side by side was 1 to 2 points ahead of SSL+SL on CIFAR-10 with 250 to 4,000 labels, and not
    ahead on digits with 50 to 180 (``recipes/README.md``): measure it.

On its own
    Without a PhaseSwitch each batch of the run is mixed, a regulariser with unlabelled images.

Hyperparameters
    ``lam`` 0.5 (Li et al., section 2.2.2); ``mixing`` may be any function of the same shape. ``labelled_per_step`` a
    quarter of the SSL data's batch. Side by side is used with alpha ramped from 1 to 0 in recipes.

Caveats
    Partners come from their own random stream, a function of the seed and the epoch: they disturb neither the
    order of the labelled data nor anything else random. Both data sets must give normalised images of one
    shape. While the SSL phase passes over unlabelled data the model's ``loss`` does not run, and is logged as NaN; nor
    do training metrics. Batches have zeros of the labels' shape and type (class 0, where no labelled sample can be
    looked at) for algorithms that change labels. SelectiveBackprop, which would choose images by a loss, is refused
    unless it starts after the SSL phase. Side by side, the labelled images of an epoch are a function
    of the seed and the epoch, and each microbatch gets its share of the unlabelled ones; ProgressiveResizing resizes
    the labelled ones, and the others are resized likewise.

Several processes
    Each process passes over its own shard of the SSL data and draws its partners from it. A DataLoader of a
    map-style data set needs a DistributedSampler, as the train_dataloader does. Iterable data sets and iterables
    that are no DataLoader cannot be checked: they have to give each process its own share themselves, and equally
    many batches, because Composer ends an epoch as soon as the first process has no more.

Streaming data
    Either data set, or both, may be a ``StreamingDataset`` (mosaicml-streaming) of its own. The order of its samples
    is a function of the run's epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from composer.core import Event, State, Time, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn
from torchmetrics import Metric

from mixplug.algorithms.mixup_ssl_data_checks import check_schedules, check_shards, check_ssl_data
from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage, find, position_of, unwrapped_model
from mixplug.algorithms.trainer.passes import encoder_pass_of
from mixplug.checks import check_choice, check_int, check_real
from mixplug.data.batches import blank_label_of, images_of, length_of
from mixplug.data.order import rewind, stream_of
from mixplug.data.side_by_side import SideBySideBatches
from mixplug.data.unlabelled import PartnerStream, UnlabelledBatches
from mixplug.schedules.phases import Phase
from mixplug.training.side_by_side import SideBySide
from mixplug.views.mixing import MixingFunction, mixup_ssl

SIDE_BY_SIDE = "side_by_side"


class MixupSSLData(PhasedAlgorithm):
    """Feeds the SSL phase from other data and mixes it into the MIX phase.

    Args:
        ssl_dataloader: Batches of images ``(B, C, H, W)`` alone or ``(images, anything)``, shuffled; None, or the
            train_dataloader itself, if the SSL data is the labelled data. With several processes, a DataLoader of
            a map-style data set with ``sampler=composer.utils.dist.get_sampler(dataset, shuffle=True)``; anything
            else has to give each process its own share.
        mixing: ``(x_sl, x_ssl, lam) -> x_mix`` of one shape, see :class:`mixplug.MixingFunction`; or 'side_by_side'.
        lam: Share of the labelled image in [0, 1]; of no use side by side.
        labelled_per_step: Labelled images of a step of MIX side by side, at least 1, in each process; None for a
            quarter of the ``ssl_dataloader``'s batch size.
        ssl_epoch: How long an epoch of the SSL phase is: 'data' for a pass over the ``ssl_dataloader``, 'labelled' for
            as many batches as one over the labelled data has, of others in each epoch. Li et al. do not say; the
            latencies of their Table 2 leave room for the latter alone.

    Raises:
        TypeError: ``ssl_dataloader`` is not iterable or ``mixing`` neither callable nor 'side_by_side'.
        ValueError: ``ssl_dataloader`` is empty or ``lam`` leaves [0, 1]; at INIT, with several processes, one that has
            the same images for all; at FIT_START, images that cannot be mixed or a SelectiveBackprop that starts
            in the SSL phase.
    """

    stage = Stage.DATA

    def __init__(
        self,
        ssl_dataloader: Iterable | None = None,
        mixing: MixingFunction | str = mixup_ssl,
        lam: float = 0.5,
        labelled_per_step: int | None = None,
        ssl_epoch: str = "data",
    ) -> None:
        self.ssl_epoch = check_choice("ssl_epoch", ssl_epoch, ("data", "labelled"))
        if not callable(mixing) and mixing != SIDE_BY_SIDE:
            raise TypeError(
                f"mixing must be a function (x_sl, x_ssl, lam) -> x_mix, or {SIDE_BY_SIDE!r}, got {mixing!r}"
            )
        self.mixing = mixing
        self.lam = check_real("lam", lam, 0, 1)
        self.ssl_dataloader = None if ssl_dataloader is None else UnlabelledBatches(ssl_dataloader)
        self.side_by_side = mixing == SIDE_BY_SIDE
        self.labelled_per_step = self._check_labelled(labelled_per_step)
        self._batches: SideBySideBatches | None = None
        self._side = SideBySide()
        self._unlabelled: Tensor | None = None
        self._labelled_of_step = self._labelled_done = 0
        self._sl_dataloader: Any = None
        self._sl_label = ""
        self._sl_length: Time | None = None
        self._subset: int = -1
        self._partners: PartnerStream | None = None
        self._same_data = False
        self._train_metrics: dict[str, Metric] | None = None
        self._without_loss: nn.Module | None = None

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        given: dict[str, Any] = {"ssl_dataloader": self.ssl_dataloader is not None, "lam": self.lam}
        if self.ssl_epoch != "data":
            given["ssl_epoch"] = self.ssl_epoch
        return {**given, "labelled_per_step": self.labelled_per_step} if self.side_by_side else given

    def _check_labelled(self, count: int | None) -> int | None:
        if not self.side_by_side:
            if count is not None:
                raise ValueError(
                    f"labelled_per_step={count!r} is for mixing={SIDE_BY_SIDE!r}; with a mixing function each labelled "
                    f"image has a partner, so leave it out"
                )
            return None
        if self.ssl_dataloader is None:
            raise ValueError(
                f"mixing={SIDE_BY_SIDE!r} has labelled images go through the encoder with others, and there are none: "
                f"give an ssl_dataloader, or leave mixing out"
            )
        if count is not None:
            return check_int("labelled_per_step", count, 1)
        if self.ssl_dataloader.batch_size is None:
            raise ValueError(
                f"labelled_per_step is a quarter of the ssl_dataloader's batch size by default, and "
                f"{type(self.ssl_dataloader.loader).__name__} has no batch_size: give labelled_per_step"
            )
        return max(1, self.ssl_dataloader.batch_size // 4)

    @property
    def active(self) -> bool:
        """Whether the SSL data is other than the labelled data."""
        return self.ssl_dataloader is not None and not self._same_data

    def wants(self, event: Event, state: State) -> bool:
        """See the base class."""
        if event in (Event.BEFORE_TRAIN_BATCH, Event.BEFORE_FORWARD):
            return self._unlabelled is not None
        if event is Event.BEFORE_LOSS:
            return self._has_no_labels(state)
        if event is Event.BEFORE_BACKWARD:
            return self._without_loss is not None
        return event is not Event.AFTER_DATALOADER or self.active

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        self._sl_dataloader = None
        self._same_data = False
        if self.ssl_dataloader is not None:
            check_shards(self.ssl_dataloader.loader)
        if self.side_by_side:
            encoder_pass_of(state).add(self._side)

    @property
    def labelled_dataloader(self) -> Any:
        """The labelled data, from FIT_START on."""
        return self._sl_dataloader

    def _has_no_labels(self, state: State) -> bool:
        return self.active and position_of(state).phase is Phase.SSL

    def epoch_length(self, state: State, phase: Phase) -> int | None:
        """Batches of an epoch of ``phase``, None if its data has no length."""
        if not self.active or self._sl_dataloader is None:
            return None if state.dataloader_len is None else state.dataloader_len.value
        if phase in self.over_ssl_data:
            return _capped(length_of(self.ssl_dataloader), self._limit(phase))
        return None if self._sl_length is None else self._sl_length.value

    def _limit(self, phase: Phase) -> int:
        """Batches of an epoch over SSL data at most; -1 for all."""
        if phase is Phase.SSL and self.ssl_epoch == "labelled" and self._sl_length is not None:
            return self._sl_length.value
        return self._subset

    @property
    def over_ssl_data(self) -> tuple[Phase, ...]:
        """The phases whose epochs are passes over the SSL data."""
        return (Phase.SSL, Phase.MIX) if self.side_by_side else (Phase.SSL,)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Remember the labelled data; a run resumed in mid-epoch gets no EPOCH_START, so choose the data here."""
        if self.ssl_dataloader is None:
            return
        self._put_loss_back()
        self._same_data = state.dataloader is self.ssl_dataloader.loader  # g(D_ssl, D_sl) = D_sl
        if self._same_data:
            return
        if self.side_by_side and encoder_pass_of(state).objective is None:
            raise ValueError(
                f"mixing={SIDE_BY_SIDE!r} has a self-supervised objective learn from images without labels, and this "
                f"run has none: use MixTraining, or add FusedBackbonePass(objective)"
            )
        if state.dataloader is not self.ssl_dataloader and state.dataloader is not self._batches:
            self._sl_dataloader, self._sl_label = state.dataloader, state.dataloader_label or "train"
            self._sl_length = state.dataloader_len
            full = length_of(state.dataloader)
            shortened = self._sl_length is not None and self._sl_length.value != full
            self._subset = self._sl_length.value if shortened and self._sl_length is not None else -1
            self.ssl_dataloader.blank_label = blank_label_of(state.dataloader)
            check_ssl_data(state, self.ssl_dataloader.loader, self._subset)
            ssl_length, sl_length = (self.epoch_length(state, phase) for phase in (Phase.SSL, Phase.SL))
            check_schedules(state, ssl_length, sl_length, self.over_ssl_data)
            if self.labelled_per_step is not None:
                self._batches = SideBySideBatches(self.ssl_dataloader, self._sl_dataloader, self.labelled_per_step)
        self._partners = None
        stream = stream_of(self.ssl_dataloader.loader)
        if stream is not None:
            rewind(stream)
        self._unlabelled = None
        self.epoch_start(state, logger)

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Choose the data that this epoch passes over."""
        if not self.active:
            return
        phase = position_of(state).phase
        self._set_train_metrics(state)
        if phase in self.over_ssl_data:
            data = self._batches if phase is Phase.MIX else self.ssl_dataloader
            assert data is not None
            data.begin(state.seed, state.timestamp.epoch.value)
            length = _capped(length_of(data), self._limit(phase))
            state.set_dataloader(data, self._sl_label, -1 if length is None else length)
            self._end_epoch_at_switch(state)
        elif state.dataloader is not self._sl_dataloader:
            state.set_dataloader(self._sl_dataloader, self._sl_label, -1)
            if self._sl_length is not None:
                state.dataloader_len = self._sl_length

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the labelled data, for whatever comes next."""
        self._unlabelled = self._side.images = None
        self._put_loss_back()
        if self._train_metrics is not None:
            state.train_metrics, self._train_metrics = self._train_metrics, None
        if self.active and state.dataloader is not self._sl_dataloader:
            state.set_dataloader(self._sl_dataloader, self._sl_label, -1)
            if self._sl_length is not None:
                state.dataloader_len = self._sl_length

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Mix partners into the batch, or have them ready to go by its side."""
        self._unlabelled = self._side.images = None
        if not self.active or position_of(state).phase is not Phase.MIX:
            return
        if self._batches is not None:
            assert self._batches.images is not None
            self._unlabelled = state.device.tensor_to_device(self._batches.images)
            return
        assert self.ssl_dataloader is not None
        assert callable(self.mixing)
        images = state.batch_get_item(key=0)
        if not isinstance(images, Tensor):
            raise TypeError(f"MixupSSLData mixes batches of (images, labels), got images of {type(images).__name__}")
        epoch = state.timestamp.epoch.value
        if self._partners is None or self._partners.epoch != epoch:
            self._partners = PartnerStream(self.ssl_dataloader, state.seed, epoch)
            # Resumed in mid-epoch: go on after the partners of the batches before.
            self._partners.skip(state.timestamp.sample_in_epoch.value // dist.get_world_size())
        partners = self._partners.draw(len(images))
        if isinstance(state.batch, list):
            state.batch = list(
                state.batch
            )  # to change it in place would change the user's own, if it is kept in memory
        state.batch_set_item(key=0, value=self.mixing(images, partners.to(images.device), self.lam))

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """A step begins, perhaps again; others may have left some labelled images out by now."""
        self._labelled_of_step, self._labelled_done = len(images_of(state.batch, "a labelled batch")), 0

    def before_forward(self, state: State, logger: Logger) -> None:
        """Give the microbatch its share of the unlabelled images."""
        assert self._unlabelled is not None
        begun = self._labelled_done
        self._labelled_done += len(images_of(state.batch, "a labelled batch"))
        first, last = (len(self._unlabelled) * done // self._labelled_of_step for done in (begun, self._labelled_done))
        self._side.images = self._unlabelled[first:last] if last > first else None

    def before_loss(self, state: State, logger: Logger) -> None:
        """Leave the supervised loss out where there are no labels: none that stands for one suits every loss."""
        model = unwrapped_model(state)
        zero = torch.zeros((), device=images_of(state.batch).device)
        vars(model)["loss"] = lambda *_: zero
        self._without_loss = model

    def before_backward(self, state: State, logger: Logger) -> None:
        """Put the supervised loss back, which MixUp and the like have asked for again by now."""
        self._put_loss_back()

    def _put_loss_back(self) -> None:
        if self._without_loss is not None:
            vars(self._without_loss).pop("loss", None)
            self._without_loss = None

    def _set_train_metrics(self, state: State) -> None:
        """Have no training metric read what stands for labels."""
        if self._has_no_labels(state):
            if state.train_metrics:
                self._train_metrics, state.train_metrics = state.train_metrics, {}
        elif self._train_metrics is not None:
            state.train_metrics, self._train_metrics = self._train_metrics, None

    def _end_epoch_at_switch(self, state: State) -> None:
        """With phases in batches, end the pass over the SSL data where the phase ends."""
        switch, span = find(state, PhaseSwitch), position_of(state).span
        if switch is None or span is None or switch.length(state).unit != TimeUnit.BATCH:
            return
        left = span.stop - (state.timestamp.batch.value - state.timestamp.batch_in_epoch.value)
        length = state.dataloader_len
        if length is None or left < length.value:
            state.dataloader_len = left

    def __repr__(self) -> str:
        mixing = getattr(self.mixing, "__name__", repr(self.mixing))
        if self.side_by_side:
            mixing = f"{self.mixing!r}, labelled_per_step={self.labelled_per_step}"
        return f"{type(self).__name__}(ssl_dataloader={self.ssl_dataloader!r}, mixing={mixing}, lam={self.lam!r})"


def _capped(length: int | None, subset: int) -> int | None:
    """``length``, but at most the Trainer's ``train_subset_num_batches``, which holds for both data sets."""
    if subset < 0:
        return length
    return subset if length is None else min(length, subset)
