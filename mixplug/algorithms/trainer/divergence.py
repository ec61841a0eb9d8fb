"""A loss that is not a number: what says so, and which error it is."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from composer.core import State


class DivergedError(FloatingPointError):
    """A batch's loss is NaN or infinite.

    Attributes:
        batch: Its number in the run, from 0.
        terms: Which of the losses, such as 'sl', beside the total.
    """

    def __init__(self, message: str, batch: int, terms: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.batch, self.terms = batch, tuple(terms)


def check_losses(state: State, batch: int, when: str, fix: str, unused: Collection[str] = ()) -> None:
    """Raise if the total of the batch before is NaN or infinite.

    It reads what Composer brings to the host for its logs, so it costs no synchronisation.

    Args:
        state: At BATCH_END, which is before a checkpoint of the batch can be saved.
        batch: The batch's number in the run.
        when: The batch in words.
        fix: What to do, in words.
        unused: Terms without weight, which are NaN where a phase does not compute them.

    Raises:
        DivergedError: it is.
    """
    losses = {name.removeprefix("loss/train/"): value for name, value in (state.total_loss_dict or {}).items()}
    if math.isfinite(losses.get("total", 0.0)):
        return
    terms = [name for name, value in losses.items() if name not in {"total", *unused} and not math.isfinite(value)]
    values = ", ".join(f"{name} = {value}" for name, value in losses.items() if name not in unused)
    message = f"the {' and the '.join(terms or ['total'])} loss of {when} is not finite: {values}. {fix}"
    raise DivergedError(message, batch, terms)
