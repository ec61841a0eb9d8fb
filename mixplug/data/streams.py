"""Streaming data sets, told which epoch to give.

A ``StreamingDataset`` (mosaicml-streaming) counts its own passes to choose the order of the next one, and keeps the
count, and the sample at which a checkpoint left it, in memory that all of a node's processes share. Two data sets
that take turns, and epochs that only one of them is asked for, make that count say nothing about the run. mixplug
sets it from the run's own epoch instead: then the order of an epoch is a function of the epoch alone.

Recognised by what it can do, so that nothing here needs the library: any data set with ``next_epoch``,
``state_dict(num_samples, from_beginning)`` and ``load_state_dict``.
"""

from __future__ import annotations

from typing import Any

import torch

_INTERFACE = ("next_epoch", "state_dict", "load_state_dict")


def stream_of(loader: Any) -> Any:
    """The streaming data set that ``loader`` reads, None if it reads another kind of data."""
    dataset = getattr(loader, "dataset", None)
    return dataset if all(hasattr(dataset, name) for name in _INTERFACE) else None


def rewind(stream: Any) -> None:
    """Have each pass begin at its first sample from now on, in the epoch that ``next_epoch`` says.

    Call it on all ranks at once.
    """
    # Asking for the state makes the stream adopt the shuffle seed and node count of the checkpoint it was given,
    # so each rank asks before any rank overwrites them.
    state = stream.state_dict(0, True)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    # A stream takes no notice of a position in an epoch before the one it is to give.
    stream.load_state_dict({**state, "epoch": -1, "sample_in_epoch": 0})
