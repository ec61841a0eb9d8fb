"""Losses of pairs of views, one value for each image.

Each compares what was made of one view of the images (predictions, queries, logits) with what was made of another
(targets, keys, assignments), and returns ``(B,)``, in at least float32 whatever autocast is on.

**Soft targets** ``(B, B)`` say how much each image of the process's own batch is a positive of image i: with
``l(i, j)`` the loss of image i if j's other view were its positive, ``loss_i = sum_j soft_targets[i, j] * l(i, j)``.
Rows sum to 1. None is the identity, the paper's own loss: an image's positive is its own other view. Mixed images have
several positives: those of SDMP (Ren et al., 2022) are its Eq. 3 and 4 for contrastive losses, and Eq. 7 and 8 for
DINO's, where the cross entropy of mixed assignments is the mixture of cross entropies.

**Several processes.** Where other images of the batch are negatives, those of all processes are; a positive is in the
process's own batch. The mean over the images of all processes is then the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.data.processes import gathered, gathered_with_gradient, rank

P = ParamSpec("P")


def in_full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Have ``loss`` compute in at least float32, its tensors and its products, under autocast too."""

    def convert(value: Any) -> Any:
        return to_float32(value) if isinstance(value, Tensor) else value

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        # Where operations are counted, tensors lie on no device that could be autocast.
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            return loss(*map(convert, args), **{name: convert(value) for name, value in kwargs.items()})

    return computed


def to_float32(values: Tensor) -> Tensor:
    """``values`` in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@in_full_precision
def negative_cosine(predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
    """``-cos(p, z)`` (Chen and He, 2021, Eq. 1), in [-1, 1].

    Args:
        predictions: ``(B, D)``.
        targets: ``(B, D)``, what they shall agree with.
        soft_targets: ``(B, B)``, None for the identity; see the module.
    """
    if soft_targets is None:
        return -F.cosine_similarity(predictions, targets, dim=1)
    return _weighted(-F.normalize(predictions, dim=1) @ F.normalize(targets, dim=1).T, soft_targets)


@in_full_precision
def nt_xent(queries: Tensor, keys: Tensor, temperature: float, soft_targets: Tensor | None = None) -> Tensor:
    """NT-Xent (Chen et al., 2020, Eq. 1): a query finds its key among all keys and all other queries.

    The paper's loss is the mean of both orders of the two views. Gradients reach queries and keys of all processes.

    Args:
        queries: Projections of one view ``(B, D)``.
        keys: Those of the other view ``(B, D)``.
        temperature: Above 0.
        soft_targets: ``(B, B)``, None for the identity; see the module.
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    to_keys, to_queries = (queries @ gathered_with_gradient(x).T / temperature for x in (keys, queries))
    itself = _own_columns(queries).unsqueeze(1) == torch.arange(to_queries.shape[1], device=queries.device)
    return _find_own(torch.cat([to_keys, to_queries.masked_fill(itself, -torch.inf)], dim=1), soft_targets)


@in_full_precision
def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, soft_targets: Tensor | None = None
) -> Tensor:
    """InfoNCE with a queue (He et al., 2020, Eq. 1): a query finds its key among negatives from elsewhere.

    Args:
        queries: ``(B, D)``.
        keys: ``(B, D)``.
        negatives: ``(K, D)``.
        temperature: Above 0.
        soft_targets: ``(B, B)``, None for the identity; each positive is alone among the negatives.
    """
    queries, keys, negatives = (F.normalize(x, dim=-1) for x in (queries, keys, negatives))
    others = queries @ negatives.T
    if soft_targets is None:
        logits = torch.cat([(queries * keys).sum(dim=-1, keepdim=True), others], dim=1) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")
    positives = queries @ keys.T / temperature
    rest = (others / temperature).logsumexp(dim=1, keepdim=True)
    return _weighted(torch.logaddexp(positives, rest) - positives, soft_targets)


@in_full_precision
def info_nce_in_batch(queries: Tensor, keys: Tensor, temperature: float, soft_targets: Tensor | None = None) -> Tensor:
    """InfoNCE in the batch (Chen et al., 2021, algorithm 1, without its factor): a query finds its key among all keys.

    Keys get no gradient.

    Args:
        queries: ``(B, D)``.
        keys: ``(B, D)``.
        temperature: Above 0.
        soft_targets: ``(B, B)``, None for the identity; see the module.
    """
    queries, keys = F.normalize(queries, dim=-1), F.normalize(gathered(keys), dim=-1)
    return _find_own(queries @ keys.T / temperature, soft_targets)


@in_full_precision
def cross_entropy(
    logits: Tensor, assignments: Tensor, temperature: float, soft_targets: Tensor | None = None
) -> Tensor:
    """``H(assignments, softmax(logits / temperature))`` (Caron et al., 2021, Eq. 1 and 2), at least 0.

    Args:
        logits: ``(B, K)``.
        assignments: Probabilities ``(B, K)``.
        temperature: Above 0.
        soft_targets: ``(B, B)``, None for the identity; see the module.
    """
    if soft_targets is not None:
        assignments = _checked(soft_targets, logits) @ assignments
    return F.cross_entropy(logits / temperature, assignments, reduction="none")


def _find_own(logits: Tensor, soft_targets: Tensor | None) -> Tensor:
    """Cross entropy of finding a positive of the process's own batch among the columns of ``logits`` ``(B, ...)``."""
    own = _own_columns(logits)
    if soft_targets is None:
        return F.cross_entropy(logits, own, reduction="none")
    return _weighted(-logits.log_softmax(dim=1)[:, own], soft_targets)


def _own_columns(values: Tensor) -> Tensor:
    """Where the process's own ``B`` keys are among those of all processes, of ``values`` ``(B, ...)``."""
    return torch.arange(len(values), device=values.device) + rank() * len(values)


def _weighted(losses: Tensor, soft_targets: Tensor) -> Tensor:
    """``(B,)``: of losses ``l(i, j)``, ``(B, B)``, the sum over j by soft targets."""
    return (_checked(soft_targets, losses) * losses).sum(dim=1)


def _checked(soft_targets: Tensor, values: Tensor) -> Tensor:
    batch = len(values)
    if soft_targets.shape != (batch, batch):
        raise ValueError(
            f"soft_targets must be ({batch}, {batch}), a row for each image of the batch that says how much each image "
            f"is its positive; got {tuple(soft_targets.shape)}"
        )
    return soft_targets.to(values)
