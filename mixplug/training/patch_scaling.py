"""Patch scaling as an amendment of the encoder's pass; see :class:`mixplug.PatchScaling` for what it is good for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from mixplug.backbones import PassRequest, Role
from mixplug.backbones.patches import fitting_sizes
from mixplug.checks import check_choice, check_int
from mixplug.schedules.phases import Phase
from mixplug.schedules.shapes import Schedule, Shape, check_schedule, value_at

PHASES = tuple(phase.value for phase in Phase)


class ScalePatches:
    """Has the encoder cut its images into patches of another size.

    Args:
        size: Side of a patch in pixels, at least 1: a number; a schedule, rounded to the nearest size that fits the
            images, by default over the whole training; or several sizes, one of which is drawn for each step.
        phases: The phases in which patches are scaled.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a size is below 1, none is given, or there is no such phase.
    """

    def __init__(self, size: Schedule | Sequence[int], phases: Iterable[str] = PHASES) -> None:
        if isinstance(phases, str) or not isinstance(phases, Iterable):
            raise TypeError(f"phases must be several of {list(PHASES)}, such as ('ssl',); got {phases!r}")
        self.phases = tuple(check_choice("a phase of PatchScaling", str(phase), PHASES) for phase in phases)
        if isinstance(size, Shape):
            check_schedule("PatchScaling's size", size, 1, float("inf"), high_open=True)
        elif isinstance(size, Sequence) and not isinstance(size, str):
            if not size:
                raise ValueError("PatchScaling's size needs at least one size to draw from, got none")
            for one in size:
                check_int("a size of PatchScaling", one, 1)
        else:
            check_int("PatchScaling's size", size, 1)
        self.size = size

    @property
    def fixed_sides(self) -> list[int]:
        """Sides that are given and not adapted to the images, as a schedule's are."""
        if isinstance(self.size, Shape):
            return []
        return [int(side) for side in self.size] if isinstance(self.size, Sequence) else [int(self.size)]

    def yields_to(self, request: PassRequest) -> bool:
        """Whether the objective predicts native patches, as MAE does."""
        return request.native_patches

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with a size of patches."""
        if (
            request.role in (Role.LOCAL, Role.SCORE)
            or self.yields_to(request)
            or request.position.phase.value not in self.phases
        ):
            return request
        size = self.size
        if isinstance(size, Shape):
            wanted = value_at(size, request.position, "run")
            return dataclasses.replace(request, patch=lambda h, w: _nearest(wanted, h, w))
        if isinstance(size, Sequence):
            size = _drawn(size, request.position.step)
        side = int(size)
        return dataclasses.replace(request, patch=lambda h, w: side)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size!r}, phases={self.phases!r})"


def _drawn(sizes: Sequence[int], step: int) -> int:
    """The size of ``step``: each comes once in as many steps as there are, in random order.

    By the step alone all processes cut alike, all passes of a step too, and a resumed run goes on.
    """
    cycle, place = divmod(step, len(sizes))
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(cycle))
    return sizes[int(order[place])]


def _nearest(wanted: float, height: int, width: int) -> int:
    return min(fitting_sizes(height, width), key=lambda side: abs(side - wanted))
