"""Signs of collapse that need no labels: how far apart embeddings are, and in how many directions they lie."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.objectives.pairs import to_float32

RANK_INTERVAL = 50
"""Steps from one :func:`rank_me` to the next: its decomposition takes a GPU as long as much of a step."""


def embedding_std(embeddings: Tensor) -> Tensor:
    """How far apart the normalised ``embeddings`` ``(B, D)`` are.

    It is their standard deviation over the batch, mean over dimensions, times sqrt(D): about 1 for embeddings in
    all directions, 0 for one and the same (Chen and He, 2021, section 4.1).
    """
    unit = F.normalize(to_float32(embeddings.detach()), dim=-1)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(embeddings.shape[-1])


def rank_me(embeddings: Tensor) -> Tensor:
    """RankMe of ``embeddings`` ``(B, D)``, from 1 to min(B, D): in how many directions they lie, smoothly counted.

    The exponential of the entropy of the singular values, each a share of their sum (Garrido et al., "RankMe", ICML
    2023, Eqs. 1 and 2). Compare it where B and D are the same.
    """
    # Training that went to infinity is said by its loss; the decomposition would raise first.
    values = torch.linalg.svdvals(torch.nan_to_num(to_float32(embeddings.detach())))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return torch.special.entr(shares).sum().exp()


def watch_rank(features: Tensor, step: int) -> dict[str, Tensor]:
    """What is logged of an encoder's ``features`` ``(B, D)`` besides: ``rank_me``, every RANK_INTERVAL steps."""
    return {} if step % RANK_INTERVAL else {"rank_me": rank_me(features)}
