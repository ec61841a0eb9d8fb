"""A last batch of one image, which BatchNorm cannot be trained on: said before training, not at the end of an epoch."""

from __future__ import annotations

import warnings
from typing import Any

from composer.core import State
from torch import nn

from mixplug.backbones.modes import batch_norms
from mixplug.data.batches import length_of, sizes_of


def check_batches_of_one(
    state: State,
    loader: Any,
    whose: str,
    head: nn.Module,
    encoder: nn.Module,
    microbatch: int | float | str | None = None,
) -> None:
    """Refuse a loader that leaves a batch, or a microbatch, of one image for a head that normalises over the batch.

    For an encoder that does, it is warned of: its statistics would be one image's, and where its last map is one pixel
    torch refuses the batch.

    Args:
        state: A run at FIT_START.
        loader: What an epoch passes over.
        whose: What its user calls it.
        head: The self-supervised head.
        encoder: The encoder.
        microbatch: Images of a microbatch, as the Trainer has it; None for whole batches.

    Raises:
        ValueError: it does, and the head normalises.
    """
    found = _part_of_one(state, loader, microbatch)
    in_head = bool(batch_norms(head))
    if found is None or not (in_head or batch_norms(encoder)):
        return
    text = (
        f"{found} of the {whose} {'has' if found.startswith('the last') else 'have'} 1 image, and BatchNorm in the "
        f"{'SSL head' if in_head else 'encoder'} takes its statistics from it: use drop_last=True "
        f"(data.drop_last=true in recipes), or another batch size"
    )
    if in_head:
        raise ValueError(text)
    warnings.warn(text, stacklevel=2)


def _part_of_one(state: State, loader: Any, size: int | float | str | None) -> str | None:
    """In words, which batches or microbatches have one image."""
    sizes, length = sizes_of(loader), length_of(loader)
    if sizes is None:
        return None
    whole, last, count = sizes
    if state.dataloader is loader and state.dataloader_len is not None and state.dataloader_len.value < (length or 0):
        last = whole  # train_subset_num_batches ends the epoch before
    if whole == 1:
        return "all batches"
    if last == 1:
        return f"the last batch ({count} images in batches of {whole})"
    if isinstance(size, int) and 1 < size < whole:
        for part, which in ((whole, "each batch"), (last, "the last batch")):
            if part % size == 1:
                return f"the last microbatch of {which} ({part} images in microbatches of {size})"
    return None
