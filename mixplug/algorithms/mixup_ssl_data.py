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
    shape. While the SSL phase passes over unlabelled data, class 0 stands in for the labels that the model's
    ``loss`` asks for; that loss weighs nothing and is logged as NaN, and training accuracy says nothing.

Streaming data
    Either data set, or both, may be a ``StreamingDataset`` (mosaicml-streaming) of its own. The order of its samples
    is a function of the run's epoch. A run resumed in mid-epoch reads the epoch's batches before over again, as with
    other loaders: Composer restores the random numbers only after batches that it skipped itself, and the SSL data's
    augmentation is repeated only by doing it again. Where reading is slow, save at the end of epochs. As with other
    loaders, the labelled data's worker processes (not the SSL data's) draw new random augmentation on resumption.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from composer.core import State, Time, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from mixplug.algorithms.base import PhasedAlgorithm, find
from mixplug.algorithms.phase_switch import PhaseSwitch, position_of
from mixplug.checks import check_real
from mixplug.data.streams import rewind, stream_of
from mixplug.data.unlabelled import PartnerStream, UnlabelledBatches, length_of, shape_of
from mixplug.mixing import MixingFunction, mixup_ssl
from mixplug.phases import Phase


class MixupSSLData(PhasedAlgorithm):
    """Feeds the SSL phase from other data and mixes it into the MIX phase.

    Args:
        ssl_dataloader: Batches of images ``(B, C, H, W)`` alone or ``(images, anything)``, shuffled; None, or the
            train_dataloader itself, if the SSL data is the labelled data.
        mixing: ``(x_sl, x_ssl, lam) -> x_mix`` of one shape; see :class:`mixplug.MixingFunction`.
        lam: Share of the labelled image in [0, 1].

    Raises:
        TypeError: ``ssl_dataloader`` is not iterable or ``mixing`` not callable.
        ValueError: ``ssl_dataloader`` is empty or ``lam`` leaves [0, 1].
    """

    rank = 2

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
        return {"ssl_dataloader": self.ssl_dataloader is not None, "lam": repr(self.lam)}

    @property
    def active(self) -> bool:
        """Whether the SSL data is other than the labelled data."""
        return self.ssl_dataloader is not None and not self._same_data

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        self._sl_dataloader = None
        self._same_data = False

    def epoch_length(self, state: State, phase: Phase) -> int | None:
        """Batches of an epoch of ``phase``, None if its data has no length."""
        if not self.active or self._sl_dataloader is None:
            return None if state.dataloader_len is None else state.dataloader_len.value
        if phase is Phase.SSL:
            return _capped(length_of(self.ssl_dataloader), self._subset)
        return None if self._sl_length is None else self._sl_length.value

    def fit_start(self, state: State, logger: Logger) -> None:
        """Remember the labelled data; a run resumed in mid-epoch gets no EPOCH_START, so choose the data here."""
        if self.active:
            assert self.ssl_dataloader is not None
            self._same_data = state.dataloader is self.ssl_dataloader.loader  # g(D_ssl, D_sl) = D_sl
        if self.active and state.dataloader is not self.ssl_dataloader:
            self._refuse_other_shapes(state)
            self._sl_dataloader, self._sl_label = state.dataloader, state.dataloader_label or "train"
            self._sl_length = state.dataloader_len
            full = length_of(state.dataloader)
            shortened = self._sl_length is not None and self._sl_length.value != full
            self._subset = self._sl_length.value if shortened and self._sl_length is not None else -1
        self._partners = None
        self._take_over_streams(state)
        self.epoch_start(state, logger)
        if self._streaming(state) is not None:
            # Composer would begin a pass for each epoch before this one to advance a sampler that streams do not have.
            state.dataset_resumption["train"] = True

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Choose the data that this epoch passes over."""
        if self.active:
            self._choose_data(state)
        stream = stream_of(state.dataloader)
        if stream is not None:
            stream.next_epoch = state.timestamp.epoch.value

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Have Composer skip the batches of a resumed epoch: its word for streams is that they skip them themselves."""
        if "train" in state.dataset_resumption and (
            state.dataloader is self.ssl_dataloader or stream_of(state.dataloader) is not None
        ):
            del state.dataset_resumption["train"]

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
        state.batch_set_item(key=0, value=self.mixing(images, partners.to(images.device), self.lam))

    def _choose_data(self, state: State) -> None:
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

    def _streaming(self, state: State) -> Any:
        """The streaming data set that this epoch passes over, None if it passes over other data."""
        loader = state.dataloader
        return stream_of(loader.loader if isinstance(loader, UnlabelledBatches) else loader)

    def _take_over_streams(self, state: State) -> None:
        """Have streaming data begin where this run says, not where a checkpoint of an SSL epoch thinks it stopped."""
        labelled = stream_of(self._sl_dataloader if self.active else state.dataloader)
        unlabelled = stream_of(getattr(self.ssl_dataloader, "loader", None)) if self.active else None
        if labelled is not None and labelled is unlabelled:
            raise ValueError(
                f"train_dataloader and ssl_dataloader read the same {type(labelled).__name__}, which can give only one "
                f"pass at a time: build a data set for each, or pass the train_dataloader itself as ssl_dataloader"
            )
        rewind(stream for stream in (labelled, unlabelled) if stream is not None)

    def _refuse_other_shapes(self, state: State) -> None:
        """Say so before the SSL phase, not after it, if the MIX phase could not mix the images."""
        assert self.ssl_dataloader is not None
        switch = find(state, PhaseSwitch)
        if switch is not None and not switch.plan(state).e_mix:
            return
        shapes = shape_of(state.dataloader), shape_of(self.ssl_dataloader.loader)
        if None not in shapes and shapes[0] != shapes[1]:
            raise ValueError(
                f"images to mix must have one shape: the SL images are {shapes[0]}, the SSL images {shapes[1]} "
                f"(channels, height, width); resize one of the data sets"
            )

    def _end_epoch_at_switch(self, state: State) -> None:
        """With phases in batches, end the pass over the SSL data where the phase ends."""
        span = position_of(state).span
        if state.max_duration is None or state.max_duration.unit != TimeUnit.BATCH or span is None:
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
