"""What the tests share: tiny models and data that need no download."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, TensorDataset

# Composer asks a service on the network for a newer version unless told not to.
os.environ.setdefault("MOSAICML_PLATFORM", "false")


COUNTS: Counter[str] = Counter()
"""What the README's section on reliability counts; printed at the end of a run of the tests."""

RESUMED, REFUSED = "interruptions were resumed bit for bit", "bad inputs were refused with words"

_raises = pytest.raises


def _counted_raises(error: Any, *arguments: Any, **options: Any) -> Any:
    if options.get("match") and error in (ValueError, TypeError):
        COUNTS[REFUSED] += 1
    return _raises(error, *arguments, **options)


pytest.raises = _counted_raises  # type: ignore[assignment]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for what, count in COUNTS.items():
        terminalreporter.line(f"{count} {what}")


def tiny_vit(**changes: Any) -> VisionTransformer:
    """A transformer of 16 tokens on 8x8 grey images, with the same weights at each call."""
    arguments: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 10,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    }
    torch.manual_seed(7)
    return VisionTransformer(**{**arguments, **changes})


def images(count: int, *shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Reproducible noise, ``(count, *shape)``; 1x8x8 by default."""
    return torch.randn(count, *(shape or (1, 8, 8)), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(count: int, classes: int = 10, seed: int = 4) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


def loader(count: int = 20, batch_size: int = 8, dtype: torch.dtype = torch.float32, **options: Any) -> DataLoader:
    """Labelled batches, the last one smaller."""
    return DataLoader(TensorDataset(images(count, dtype=dtype), labels(count)), batch_size=batch_size, **options)


@pytest.fixture(autouse=True)
def _one_thread_and_default_dtype():
    """Tiny tensors are faster on one thread; no test may leave another default dtype behind."""
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)
