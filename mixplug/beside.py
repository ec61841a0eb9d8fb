"""The paper's figures beside ours: which figure belongs to which method of a comparison or a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from mixplug.paper import PARAMETERS, Figure, curve, method_of, reference
from mixplug.results import Comparison


class Beside:
    """Finds the paper's figures for comparisons that differ in what a sweep varies.

    What varies is read off the runs, whatever the keys were called: beside a sweep over epochs stands no figure of
    other epochs.

    Args:
        comparisons: At least one; their recipes say which setting of the paper they reproduce, if any.
    """

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        given = [[c.parameters(method) for c in comparisons] for method in comparisons[0].recipe.methods]
        self.swept = {name for name in PARAMETERS if any(len({p[name] for p in points}) > 1 for points in given)}

    def kind(self, comparison: Comparison, method: str) -> str | None:
        """Which method of the paper it is, None for none of them."""
        run = comparison.of(method)[0]
        # One pass for both heads without phases is none of the paper's methods.
        return None if run.rho is None and run.mask is not None else method_of(run.rho)

    def figure(self, comparison: Comparison, method: str, task: str = "") -> Figure | None:
        """The paper's figure for a method; see :func:`mixplug.paper.reference`."""
        kind = self.kind(comparison, method)
        if not comparison.recipe.paper or kind is None:
            return None
        return reference(comparison.recipe.paper, kind, comparison.parameters(method), self.swept, task.lower())

    def curve(self, comparison: Comparison, method: str, name: str) -> list[tuple[float, Figure]]:
        """The paper's own study of the parameter ``name``; see :func:`mixplug.paper.curve`."""
        kind = self.kind(comparison, method)
        if not comparison.recipe.paper or kind is None:
            return []
        return curve(comparison.recipe.paper, kind, name, comparison.parameters(method), self.swept)
