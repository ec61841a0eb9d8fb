"""MixupSSLData: brings in self-supervised data other than the labelled one (Li et al., Eq. 2, section 3.2.2).

What it does
    With an ``ssl_dataloader``, epochs of the SSL phase are passes over it, and epochs of MIX are passes over the
    labelled data in which each image is mixed with a random self-supervised partner; labels stay. Without one,
    both data sets are the same and nothing changes: ``g(D_ssl, D_sl) = D_sl``.

On its own
    Without a PhaseSwitch each batch of the run is mixed, a regulariser with unlabelled images.

Hyperparameters
    ``lam`` 0.5 (Li et al., section 2.2.2); ``mixing`` may be any function of the same shape.

Caveats
    Partners come from their own random stream, a function of the seed and the epoch: they disturb neither the
    order of the labelled data nor anything else random. Both data sets must give normalised images of one
    shape. While the SSL phase passes over unlabelled data, zeros of the labels' shape and type (class 0, where no
    labelled sample can be looked at) stand in for the labels that the model's ``loss`` asks for; that loss weighs
    nothing and is logged as NaN, and training accuracy says nothing. SelectiveBackprop, which would choose images
    by it, is refused unless it starts after the SSL phase.

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

from composer.core import Event, State, Time, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from mixplug.algorithms.mixup_ssl_data_checks import check_schedules, check_shards, check_ssl_data
from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage, find, position_of
from mixplug.checks import check_real
from mixplug.data.batches import blank_label_of, length_of
from mixplug.data.order import rewind, stream_of
from mixplug.data.unlabelled import PartnerStream, UnlabelledBatches
from mixplug.schedules.phases import Phase
from mixplug.views.mixing import MixingFunction, mixup_ssl


class MixupSSLData(PhasedAlgorithm):
    """Feeds the SSL phase from other data and mixes it into the MIX phase.

    Args:
        ssl_dataloader: Batches of images ``(B, C, H, W)`` alone or ``(images, anything)``, shuffled; None, or the
            train_dataloader itself, if the SSL data is the labelled data. With several processes, a DataLoader of
            a map-style data set with ``sampler=composer.utils.dist.get_sampler(dataset, shuffle=True)``; anything
            else has to give each process its own share.
        mixing: ``(x_sl, x_ssl, lam) -> x_mix`` of one shape; see :class:`mixplug.MixingFunction`.
        lam: Share of the labelled image in [0, 1].

    Raises:
        TypeError: ``ssl_dataloader`` is not iterable or ``mixing`` not callable.
        ValueError: ``ssl_dataloader`` is empty or ``lam`` leaves [0, 1]; at INIT, with several processes, one that has
            the same images for all; at FIT_START, images that cannot be mixed or a SelectiveBackprop that starts
            in the SSL phase.
    """

    stage = Stage.DATA

    def __init__(
        self,
        ssl_dataloader: Iterable | None = None,
        mixing: MixingFunction = mixup_ssl,
        lam: float = 0.5,
    ) -> None:
        if not callable(mixing):
            raise TypeError(f"mixing must be a function (x_sl, x_ssl, lam) -> x_mix, got {mixing!r}")
        self.mixing = mixing
        self.lam = check_real("lam", lam, 0, 1)
        self.ssl_dataloader = None if ssl_dataloader is None else UnlabelledBatches(ssl_dataloader)
        self._sl_dataloader: Any = None
        self._sl_label = ""
        self._sl_length: Time | None = None
        self._subset: int = -1
        self._partners: PartnerStream | None = None
        self._same_data = False

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"ssl_dataloader": self.ssl_dataloader is not None, "lam": self.lam}

    @property
    def active(self) -> bool:
        """Whether the SSL data is other than the labelled data."""
        return self.ssl_dataloader is not None and not self._same_data

    def wants(self, event: Event, state: State) -> bool:
        """See the base class."""
        return event is not Event.AFTER_DATALOADER or self.active

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        self._sl_dataloader = None
        self._same_data = False
        if self.ssl_dataloader is not None:
            check_shards(self.ssl_dataloader.loader)

    def epoch_length(self, state: State, phase: Phase) -> int | None:
        """Batches of an epoch of ``phase``, None if its data has no length."""
        if not self.active or self._sl_dataloader is None:
            return None if state.dataloader_len is None else state.dataloader_len.value
        if phase is Phase.SSL:
            return _capped(length_of(self.ssl_dataloader), self._subset)
        return None if self._sl_length is None else self._sl_length.value

    def fit_start(self, state: State, logger: Logger) -> None:
        """Remember the labelled data; a run resumed in mid-epoch gets no EPOCH_START, so choose the data here."""
        if self.ssl_dataloader is None:
            return
        self._same_data = state.dataloader is self.ssl_dataloader.loader  # g(D_ssl, D_sl) = D_sl
        if self._same_data:
            return
        if state.dataloader is not self.ssl_dataloader:
            self._sl_dataloader, self._sl_label = state.dataloader, state.dataloader_label or "train"
            self._sl_length = state.dataloader_len
            full = length_of(state.dataloader)
            shortened = self._sl_length is not None and self._sl_length.value != full
            self._subset = self._sl_length.value if shortened and self._sl_length is not None else -1
            self.ssl_dataloader.blank_label = blank_label_of(state.dataloader)
            check_ssl_data(state, self.ssl_dataloader.loader, self._subset)
            check_schedules(state, self.epoch_length(state, Phase.SSL), self.epoch_length(state, Phase.SL))
        self._partners = None
        stream = stream_of(self.ssl_dataloader.loader)
        if stream is not None:
            rewind(stream)
        self.epoch_start(state, logger)

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Choose the data that this epoch passes over."""
        if not self.active:
            return
        assert self.ssl_dataloader is not None
        if position_of(state).phase is Phase.SSL:
            self.ssl_dataloader.begin(state.seed, state.timestamp.epoch.value)
            length = _capped(length_of(self.ssl_dataloader), self._subset)
            state.set_dataloader(self.ssl_dataloader, self._sl_label, -1 if length is None else length)
            self._end_epoch_at_switch(state)
        elif state.dataloader is not self._sl_dataloader:
            state.set_dataloader(self._sl_dataloader, self._sl_label, -1)
            if self._sl_length is not None:
                state.dataloader_len = self._sl_length

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the labelled data, for whatever comes next."""
        if self.active and state.dataloader is self.ssl_dataloader:
            state.set_dataloader(self._sl_dataloader, self._sl_label, -1)
            if self._sl_length is not None:
                state.dataloader_len = self._sl_length

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Mix partners into the batch."""
        if not self.active or position_of(state).phase is not Phase.MIX:
            return
        assert self.ssl_dataloader is not None
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
        return f"{type(self).__name__}(ssl_dataloader={self.ssl_dataloader!r}, mixing={mixing}, lam={self.lam!r})"


def _capped(length: int | None, subset: int) -> int | None:
    """``length``, but at most the Trainer's ``train_subset_num_batches``, which holds for both data sets."""
    if subset < 0:
        return length
    return subset if length is None else min(length, subset)
