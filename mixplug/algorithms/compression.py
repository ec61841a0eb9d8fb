"""Compression: token dropout and patch scaling by one schedule.

What it does
    Is :class:`TokenDropout` and :class:`PatchScaling` together, driven by the stages of a
    :class:`mixplug.CompressionSchedule`.

When to use it
    In self-supervised learning of two views: the compression paper reaches equal accuracy 4 times cheaper with MoCo v3,
    3.3 times with SimCLR, 2.5 times with DINO, not counting the run that its schedule was measured on.

Hyperparameters
    The schedule: by hand, from high rates and large patches to none; or measured by ``mixplug gradient-error``, whose
    ``gradient_error.json`` it reads.

Interacts with
    As its parts do. MAE chooses its tokens itself and cannot be compressed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from mixplug.algorithms.patch_scaling import PatchScaling
from mixplug.algorithms.token_dropout import TokenDropout
from mixplug.algorithms.trainer.contract import PhasedAlgorithm
from mixplug.schedules.compression import CompressionSchedule
from mixplug.training.token_dropout import PHASES


class Compression(PhasedAlgorithm):
    """Shortens sequences in training by a schedule of token dropout and patch sizes.

    Args:
        schedule: The stages, or the ``gradient_error.json`` that ``mixplug gradient-error`` wrote.
        phases: The phases in which sequences are shortened. By default those that the schedule's clock runs in:
            ``('ssl', 'mix')``, or all where it runs over 'phase' or 'run'.
        keys: Whether passes without gradient (momentum encoders) drop tokens too.

    Raises:
        TypeError: an argument has the wrong type; at INIT, the model's patches cannot be scaled.
        ValueError: there is no such phase, or the file is another.
        FileNotFoundError: there is no such file.

    Example:
        >>> schedule = CompressionSchedule({0: (0.75, 12), 0.5: (0.5, 8), 0.9: (0.0, 6)})
        >>> Trainer(..., algorithms=[MixTraining(objective=MoCoV3()), Compression(schedule)])  # doctest: +SKIP
    """

    def __init__(
        self,
        schedule: CompressionSchedule | str | os.PathLike[str],
        phases: Iterable[str] | None = None,
        keys: bool = False,
    ) -> None:
        if isinstance(schedule, (str, os.PathLike)):
            schedule = CompressionSchedule.read(schedule)
        if not isinstance(schedule, CompressionSchedule):
            raise TypeError(
                f"schedule must be one, such as CompressionSchedule({{0: (0.75, 12), 0.9: (0, 6)}}), "
                f"or the path of a gradient_error.json; got {schedule!r}"
            )
        self.schedule = schedule
        if phases is None:
            phases = ("ssl", "mix") if schedule.over in ("ssl", "mix") else PHASES
        self.token_dropout = TokenDropout(schedule.rate, phases, keys)
        self.patch_scaling = PatchScaling(schedule.patch, self.token_dropout.phases)
        self.token_dropout.part_of = self.patch_scaling.part_of = type(self).__name__

    @property
    def parts(self) -> tuple[PhasedAlgorithm, ...]:
        """The algorithms that this one is."""
        return (self.token_dropout, self.patch_scaling)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(part) for part in self.parts)})"
