"""What decides the order of a pass over data: random numbers, samplers, streaming data sets, and how each is set.

All that a data loader draws from are Python's, numpy's and torch's (CPU) global generators, and generators of its own.

A ``StreamingDataset`` (mosaicml-streaming) counts its own passes to choose the order of the next one, and keeps the
count, and the sample at which a checkpoint left it, in memory that all of a node's processes share. Two data sets
that take turns, and epochs that only one of them is asked for, make that count say nothing about the run. mixplug
sets it from the run's own epoch instead: then the order of an epoch is a function of the epoch alone. Such a data set
is recognised by what it can do, so that nothing here needs the library: any with ``next_epoch``,
``state_dict(num_samples, from_beginning)`` and ``load_state_dict``.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

_INTERFACE = ("next_epoch", "state_dict", "load_state_dict")


def random_state() -> dict[str, Any]:
    """The global generators' state, as a tensor and primitives."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    numpy = (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])


def seeded_state(seed: int) -> dict[str, Any]:
    """The state that the generators would have if seeded with ``seed``."""
    outside = random_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        return random_state()
    finally:
        set_random_state(outside)


def order_of(loader: Any) -> dict[str, Any]:
    """What decides the order and the random transforms of ``loader``'s next pass, as tensors and primitives."""
    return {"random": random_state(), "generators": [g.get_state() for g in generators_of(loader)]}


def set_generators(loader: Any, states: list[torch.Tensor]) -> None:
    """Put back the generators that are ``loader``'s own."""
    for generator, state in zip(generators_of(loader), states, strict=False):
        generator.set_state(state)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the loader and its samplers which epoch the next pass is, if they can be told."""
    for holder in samplers_of(loader):
        if hasattr(holder, "set_epoch"):
            holder.set_epoch(epoch)


def samplers_of(loader: Any) -> list[Any]:
    """The loader and its samplers: whatever may have an epoch or a generator to set."""
    outer = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    return [holder for holder in (*outer, getattr(outer[2], "sampler", None)) if holder is not None]


def is_sharded(loader: Any) -> bool:
    """Whether several processes get images of their own; what is no DataLoader of map-style data sees to it itself."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return True
    return any(isinstance(holder, DistributedSampler) for holder in samplers_of(loader))


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random generators that a loader or its samplers were given, each once."""
    held = (getattr(holder, "generator", None) for holder in samplers_of(loader))
    return list({id(g): g for g in held if isinstance(g, torch.Generator)}.values())


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
