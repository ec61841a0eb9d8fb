"""CompressionSchedule: how much shorter sequences are made, stage by stage. Pure Python."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixplug.checks import check_choice, check_int, check_real
from mixplug.schedules.shapes import CLOCKS, Steps, pairs_of

Stage = tuple[float, int]
"""The share of dropped patch tokens, in [0, 1), and the side of a patch in pixels."""


@dataclass(frozen=True)
class CompressionSchedule:
    """Stages of token dropout and patch size over a training.

    Much compression in the beginning, where gradients are noisy anyway; less towards the end, where bias matters (the
    compression paper, section 6.3, takes the strategy of least CA-MSE at each stage).

    Args:
        stages: ``{time: (rate, patch)}``, or pairs of a time and these, in order of time: from when on, in [0, 1],
            which share of the patch tokens is dropped, in [0, 1), and how many pixels a side of a patch has, at least
            1; the native number is no scaling. The first stage holds from the beginning.
        over: The clock; see :mod:`mixplug.schedules.shapes`. By default all self-supervised learning.

    Raises:
        TypeError: a stage is no pair, or a number is none.
        ValueError: there is no stage, times are out of range or order, a rate or size is out of range, or there is no
            such clock.

    Example:
        >>> schedule = CompressionSchedule({0: (0.75, 12), 0.5: (0.5, 8), 0.9: (0.0, 6)})
        >>> schedule.rate.at(0.6), schedule.patch.at(0.6)
        (0.5, 8)
    """

    stages: Mapping[float, Stage] | Sequence[tuple[float, Stage]]
    over: str = "ssl"

    def __post_init__(self) -> None:
        pairs = pairs_of(type(self).__name__, self.stages, "{0: (0.75, 12), 0.9: (0, 6)}")
        object.__setattr__(self, "stages", tuple((time, _check_stage(stage)) for time, stage in pairs))
        check_choice("CompressionSchedule's over", self.over, CLOCKS)

    @property
    def rate(self) -> Steps:
        """The rates, as :class:`mixplug.TokenDropout` takes them."""
        return self._steps(0)

    @property
    def patch(self) -> Steps:
        """The patch sizes, as :class:`mixplug.PatchScaling` takes them."""
        return self._steps(1)

    def _steps(self, index: int) -> Steps:
        return Steps([(time, stage[index]) for time, stage in pairs_of("stages", self.stages)], self.over)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CompressionSchedule:
        """The schedule of least CA-MSE from what ``mixplug gradient-error`` wrote, over self-supervised learning.

        The strategy that is best at a checkpoint holds half of the way to the checkpoints before and after it.

        Args:
            path: Its ``gradient_error.json``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {str(path)!r}; mixplug gradient-error writes gradient_error.json"
            )
        try:
            measured = sorted(
                (stage["ssl_progress"], _best_of(stage["rows"]))
                for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]
                if stage["phase"] != "sl"
            )
            middles = [(one + two) / 2 for (one, _), (two, _) in itertools.pairwise(measured)]
            return cls([(time, stage) for time, (_, stage) in zip([0.0, *middles], measured, strict=True)])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} must be what mixplug gradient-error wrote, with a stage of self-supervised learning: "
                f"{type(error).__name__}: {error}"
            ) from error


def _best_of(rows: Sequence[Mapping[str, Any]]) -> Stage:
    best = min(rows, key=lambda row: row["ca_mse"]["value"])
    return best["rate"], best["patch"]


def _check_stage(stage: Any) -> Stage:
    if not isinstance(stage, Sequence) or isinstance(stage, str) or len(stage) != 2:
        raise TypeError(f"a stage of CompressionSchedule must be (rate, patch), such as (0.5, 8); got {stage!r}")
    rate, patch = stage
    check_real("a rate of CompressionSchedule", rate, 0, 1, high_open=True)
    return float(rate), check_int("a patch size of CompressionSchedule", patch, 1)
