"""The paper's figures beside ours: which figure belongs to which method of a comparison or a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from mixplug.lab.papers.figures import PARAMETERS, SETTINGS, Figure, curve, has_data, method_of, reference
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.results import Comparison


class Beside:
    """Finds the paper's figures for comparisons that differ in what a sweep varies.

    What varies is read off the runs, whatever the keys were called: beside a sweep over epochs stands no figure of
    other epochs.

    Beside other data than the paper's stands no figure either; an image_folder may hold the paper's.

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
        return None if run.rho is None and run.objective is not None else method_of(run.rho)

    def figure(self, comparison: Comparison, method: str, task: str = "") -> Figure | None:
        """The paper's figure for a method; see :func:`mixplug.lab.papers.figures.reference`."""
        kind = self.kind(comparison, method)
        if kind is None or not _same_data(comparison.recipe):
            return None
        return reference(comparison.recipe.paper, kind, comparison.parameters(method), self.swept, task.lower())

    def curve(self, comparison: Comparison, method: str, name: str) -> list[tuple[float, Figure]]:
        """The paper's own study of the parameter ``name``; see :func:`mixplug.lab.papers.figures.curve`."""
        kind = self.kind(comparison, method)
        if kind is None or not _same_data(comparison.recipe):
            return []
        return curve(comparison.recipe.paper, kind, name, comparison.parameters(method), self.swept)


def data_remark(recipe: Recipe) -> str:
    """A sentence that the paper's figures are missing because the data is not the paper's; empty where it may be."""
    if not recipe.paper or _same_data(recipe):
        return ""
    labelled, unlabelled = _data(recipe)
    data = (
        f"SSL on {' and '.join(unlabelled)}, SL on {' and '.join(labelled)}" if unlabelled else " and ".join(labelled)
    )
    return (
        f"Paper: Li et al.'s figures for {SETTINGS[recipe.paper]} are not shown beside other data ({data}); "
        f"images that are the paper's may be given as dataset: image_folder, which keeps them."
    )


def is_assumed(recipe: Recipe) -> bool:
    """Whether only the user can know if the data is the paper's."""
    return any("image_folder" in names for names in _data(recipe))


def _same_data(recipe: Recipe) -> bool:
    return bool(recipe.paper) and has_data(recipe.paper, *_data(recipe))


def _data(recipe: Recipe) -> tuple[list[str], list[str]]:
    """The names of the labelled data sets, and of the one for SSL alone."""
    labelled = [task.dataset for task in recipe.task_data().values()] or [recipe.data.dataset]
    return labelled, [recipe.ssl_data.dataset] if recipe.ssl_data else []
