"""The state of Python's, numpy's and torch's (CPU) random numbers: all that a data loader draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


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
