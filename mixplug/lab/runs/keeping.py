"""Which weights a run of a recipe ends with, where they are not its last."""

from __future__ import annotations

import torch

from mixplug import KeepBest
from mixplug.algorithms.keep_best import SIGNALS
from mixplug.lab.recipes.schema import KEEP, Recipe
from mixplug.lab.runs.inputs import probe_loaders
from mixplug.schedules.phases import Phase, PhasePlan

assert set(KEEP) == {"last", *SIGNALS}


def make_keep_best(recipe: Recipe, seed: int, plan: PhasePlan, backbone: str | None, device: torch.device) -> KeepBest:
    """The algorithm that ``keep`` asks for.

    Args:
        recipe: The run's, whose ``keep`` is not 'last'.
        seed: The run's.
        plan: Its phases.
        backbone: Dotted name of the encoder inside of the classifier, None for the one of timm's.
        device: Where images that are kept in memory lie.

    Raises:
        ValueError: the run's last phase has no such signal.
    """
    if recipe.keep == "ssl_loss" and plan.phases[-1].phase is Phase.SL:
        raise ValueError(
            "keep=ssl_loss chooses in a run's last phase, and here that is supervised learning, without such a loss; "
            "use keep=knn, or leave out its methods"
        )
    of_images = recipe.keep in ("knn", "rankme")
    loader = probe_loaders(recipe, seed, device)[""][0] if of_images else None
    return KeepBest(recipe.keep, loader, measuring_interval(recipe), backbone)


def measuring_interval(recipe: Recipe) -> str:
    """How often a run is measured to choose by: its end alone leaves no choice."""
    return "1ep" if recipe.eval_interval == "1dur" else recipe.eval_interval
