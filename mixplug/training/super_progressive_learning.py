"""Smaller images and weaker views by one schedule, as an amendment; see :class:`mixplug.SuperProgressiveLearning`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from mixplug.backbones import Backbone, PassRequest, Role
from mixplug.backbones.patches import fitting_sizes
from mixplug.checks import check_choice, check_int
from mixplug.schedules.phases import Phase
from mixplug.schedules.resolution import ResolutionSchedule, scaled_size
from mixplug.schedules.shapes import Ramp, Schedule, check_schedule, value_at

PHASES = tuple(phase.value for phase in Phase)
MAGNITUDE = Ramp(0.2, 1.0)
"""From 1 to 5 on the paper's scale, whose limits it does not state."""

Size = tuple[int, int]


class ScaleImages:
    """Has the encoder see smaller images, and views made weaker or stronger.

    A plugin of :class:`mixplug.Training` and :class:`mixplug.EncoderPass`. Views are cropped at the size directly; what
    has no view (a masked objective's images, the classifier's) is resized once.

    Args:
        min_scale: The smallest images' height over the full ones', in (0, 1].
        warmup: Share of the clock at full resolution in the beginning, in [0, 1).
        stages: Stages, the warm-up one of them, at least 3.
        magnitude: Of the views, in the SSL and the MIX phase: a number or a schedule, by default over both; None
            leaves it to the objective's views.
        scales: 'jitter': ``magnitude``, at least 0, multiplies the strengths of colour jitter alone, beyond 1 too.
            'all': it is that of :class:`mixplug.Views`, in [0, 1].
        step: What sizes are multiples of, in pixels; None for the side of a patch, or the network's stride.
        phases: The phases in which images are smaller; in MIX and SL they are the classifier's.
        over: The clock of the resolution; by default 'ssl', or 'run' where SL is among the phases.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, or there is no such phase or clock.
    """

    def __init__(
        self,
        min_scale: float = 96 / 224,
        warmup: float = 80 / 480,
        stages: int = 6,
        magnitude: Schedule | None = MAGNITUDE,
        scales: str = "jitter",
        step: int | None = None,
        phases: Iterable[str] = ("ssl",),
        over: str | None = None,
    ) -> None:
        if isinstance(phases, str) or not isinstance(phases, Iterable):
            raise TypeError(f"phases must be several of {list(PHASES)}, such as ('ssl',); got {phases!r}")
        self.phases = tuple(check_choice("a phase of SuperProgressiveLearning", str(p), PHASES) for p in phases)
        self.over = ("run" if "sl" in self.phases else "ssl") if over is None else over
        self.schedule = ResolutionSchedule(min_scale, warmup, stages, self.over)
        self.min_scale, self.warmup, self.stages = min_scale, warmup, stages
        self.scales = check_choice("scales", scales, ("jitter", "all"))
        if magnitude is not None:
            high = 1 if scales == "all" else math.inf
            check_schedule("magnitude", magnitude, 0, high, high_open=scales == "jitter")
        self.magnitude = magnitude
        self.step = None if step is None else check_int("step", step, 1)

    @property
    def changes(self) -> tuple[str, list[float]]:
        """On which clock and when the cost of a step changes."""
        return self.over, self.schedule.times

    def yields_to(self, request: PassRequest) -> bool:
        """No objective needs images of one size."""
        return False

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with a size, and a magnitude of views."""
        if request.role is not Role.SHARED:
            return request
        position, metrics = request.position, dict(request.metrics)
        changed: dict[str, Any] = {}
        if position.phase.value in self.phases:
            scale = metrics["resolution_scale"] = self.schedule.scale(position)
            if scale < 1:
                changed["size"] = partial(_size, scale=scale, step=self.step)
        if self.magnitude is not None and position.phase is not Phase.SL:
            name = "jitter" if self.scales == "jitter" else "magnitude"
            changed[name] = metrics[f"view_{name}"] = value_at(self.magnitude, position, "ssl")
        return dataclasses.replace(request, metrics=metrics, **changed)

    def check_patches(self, sides: Iterable[int], scales: Iterable[float], images: Size, backbone: Backbone) -> None:
        """Refuse sizes of images that patches of other sizes than the native one do not cut without rest.

        Args:
            sides: Of the patches, in pixels.
            scales: The sizes of images that meet them, over the full ones.
            images: Height and width of the full ones.
            backbone: The encoder.

        Raises:
            ValueError: one of ``sides`` does not divide one of the sizes.
        """
        sides, sizes = list(sides), sorted({_size(*images, backbone, scale, self.step) for scale in scales})
        unfit = {side: [size for size in sizes if side not in fitting_sizes(*size)] for side in sides}
        for side, (first, *_) in ((side, found) for side, found in unfit.items() if found):
            step = math.lcm(*sides, backbone.stride())
            raise ValueError(
                f"SuperProgressiveLearning shows images of {' and '.join(f'{h}x{w}' for h, w in sizes)} pixels, and "
                f"patches of {side} pixels do not divide {first[0]}x{first[1]}; give it step={step}, or PatchScaling a "
                f"schedule, which takes the nearest size that fits"
            )

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        given = ("min_scale", "warmup", "stages", "magnitude", "scales", "step", "phases", "over")
        return {name: getattr(self, name) for name in given}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"


def _size(height: int, width: int, backbone: Backbone, scale: float, step: int | None) -> tuple[int, int]:
    step = backbone.stride() if step is None else step
    return scaled_size(height, scale, step), scaled_size(width, scale, step)
