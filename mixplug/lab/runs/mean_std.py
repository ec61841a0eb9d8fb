"""Mean and standard deviation over seeds. Pure Python."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation over seeds; the latter is None for one seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> MeanStd:
        """Of ``values``, at least one."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def format(self, digits: int, scale: float = 1.0) -> str:
        """``mean ± deviation`` with ``digits`` decimals, both times ``scale``."""
        if self.deviation is None:
            return f"{self.mean * scale:.{digits}f}"
        return f"{self.mean * scale:.{digits}f} ± {self.deviation * scale:.{digits}f}"
