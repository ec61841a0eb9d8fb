"""What holds in every test."""

from __future__ import annotations

import os

import pytest
import torch

# Composer asks a service on the network for a newer version unless told not to.
os.environ.setdefault("MOSAICML_PLATFORM", "false")


@pytest.fixture(autouse=True)
def _one_thread_and_default_dtype():
    """Tiny tensors are faster on one thread; no test may leave another default dtype behind."""
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)
