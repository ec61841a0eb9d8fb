"""ExactResumption: a run resumed in mid-epoch sees the labelled batches that it would have seen.

What it does
    Keeps the state of the random numbers from which an epoch's order is drawn, and goes back to it when the run is
    resumed in the middle of that epoch. Composer draws the orders of all epochs before again instead, which gives
    other batches if anything else draws from torch's global generator: on a CPU, masks, dropout and MixUp do. A
    ``generator`` given to a DataLoader is kept likewise. A ``StreamingDataset`` (mosaicml-streaming) is told which
    epoch to give; a resumed epoch is read from its beginning, which is exact but slow where reading is slow: there,
    save at the end of epochs.

When to use it
    It is part of MixTraining. On its own it serves any Composer run with a shuffling DataLoader.

Caveats
    What decides the order must be Python's, numpy's or torch's global generators, or a ``torch.Generator`` of the
    loader or its sampler: other generators are not known here. A loader that goes on drawing from the global ones while
    it is read (a shuffle buffer without workers) shares them with the training: in mid-epoch it is not repeated.
    Random transforms of workers that live on between epochs (``persistent_workers=True``) are not repeated. With
    another number of processes than the checkpoint's, only what a sampler makes of the epoch's number is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import Event, State
from composer.loggers import Logger
from composer.utils import dist

from mixplug.algorithms.trainer.contract import PhasedAlgorithm, Stage
from mixplug.data.order import order_of, random_state, rewind, set_epoch, set_generators, set_random_state, stream_of
from mixplug.data.passes import RewoundLoader


class ExactResumption(PhasedAlgorithm):
    """Repeats the order of the epoch in which a checkpoint was saved."""

    stage = Stage.RESUMPTION

    def __init__(self) -> None:
        self._loader: Any = None
        self._epoch_start: dict[str, Any] | None = None
        self._saved: dict[str, Any] | None = None
        self._random: dict[str, Any] | None = None
        self._has_fitted = False

    def progress(self) -> dict[str, Any]:
        """The order of this epoch and what the next one's is drawn from, of each process."""
        if self._loader is None:
            return {}
        own = {"epoch_start": self._epoch_start, "generators": order_of(self._loader)["generators"]}
        return {"processes": dist.all_gather_object(own)}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """See the base class."""
        processes = progress.get("processes", [])
        self._saved = processes[dist.get_global_rank()] if len(processes) == dist.get_world_size() else None

    def wants(self, event: Event, state: State) -> bool:
        """See the base class."""
        if event is Event.BEFORE_DATALOADER:
            return self._random is not None or "train" in state.dataset_resumption
        return event is not Event.AFTER_DATALOADER or self._random is not None

    def init(self, state: State, logger: Logger) -> None:
        """Begin with a new Trainer."""
        self._loader = self._epoch_start = self._saved = self._random = None
        self._has_fitted = False

    def fit_start(self, state: State, logger: Logger) -> None:
        """Before Composer draws from the loaders, see to it that nothing comes of that."""
        self._loader = state.train_dataloader
        self._take_over_stream(state)
        if self._has_fitted and state.timestamp.batch.value > 0:
            self._saved = {"epoch_start": self._epoch_start, "generators": order_of(self._loader)["generators"]}
            self._random = random_state()  # of a checkpoint, Composer puts them back
        self._has_fitted = True
        resumed_at = state.timestamp.batch_in_epoch.value
        if self._saved is None or resumed_at == 0:
            return
        self._epoch_start = self._saved["epoch_start"]
        if self._epoch_start and self._decides_order(state):
            epoch, generators = state.timestamp.epoch.value, self._saved["generators"]
            after = (self._random, generators)
            _exchange(state, RewoundLoader(self._loader, self._epoch_start, epoch, resumed_at, after))
            self._saved = self._random = None

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Keep what the order of this epoch is drawn from."""
        self.fit_end(state, logger)
        if self._saved is not None:
            set_generators(self._loader, self._saved["generators"])
        if self._random is not None:
            set_random_state(self._random)
        self._saved = self._random = None
        epoch = state.timestamp.epoch.value
        stream = stream_of(self._loader)
        if stream is not None:
            stream.next_epoch = epoch
        # What counts its own passes has not counted those of an SSL phase over other data; a resumed run would.
        set_epoch(self._loader, epoch)
        self._epoch_start = order_of(self._loader)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Have Composer skip the batches of a resumed epoch, and then put back the random numbers."""
        if _is_stream(state.dataloader) or state.dataloader is not self._loader:
            state.dataset_resumption.pop("train", None)
        if self._random is not None and state.timestamp.batch_in_epoch.value > 0:
            set_random_state(self._random)  # between the batches that Composer skips, for the first that it trains

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """The first batch is there."""
        self._random = None

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the user's own loader."""
        if isinstance(state.dataloader, RewoundLoader):
            _exchange(state, self._loader)

    def _take_over_stream(self, state: State) -> None:
        """Have streaming data begin where this run says, not where a checkpoint of an SSL epoch thinks it stopped."""
        stream = stream_of(self._loader)
        if stream is not None:
            rewind(stream)
            stream.next_epoch = state.timestamp.epoch.value
        if _is_stream(state.dataloader):
            # Composer would begin a pass for each epoch before this one to advance a sampler that streams do not have.
            state.dataset_resumption["train"] = True

    def _decides_order(self, state: State) -> bool:
        """Whether the labelled data's order is drawn in this process; the SSL phase may pass over other data."""
        resumes_itself = "train" in state.dataset_resumption and not _is_stream(self._loader)
        return state.dataloader is self._loader and not resumes_itself

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _is_stream(loader: Any) -> bool:
    return stream_of(getattr(loader, "loader", loader)) is not None


def _exchange(state: State, loader: Any) -> None:
    """Pass over ``loader`` instead, for as many batches."""
    length = state.dataloader_len
    state.set_dataloader(loader, state.dataloader_label, -1)
    if length is not None:
        state.dataloader_len = length
