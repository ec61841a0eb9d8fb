"""Tiny models and data that need no download."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, TensorDataset


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
