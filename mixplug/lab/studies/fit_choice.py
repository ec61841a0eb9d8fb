"""Which method a fit goes on with, by its pilots and by what did best on images like these."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from mixplug.lab.recipes.schema import RecipeError
from mixplug.lab.runs.results import Comparison
from mixplug.lab.studies.fit_settings import KINDS


def best_of_each(comparison: Comparison) -> list[str]:
    """The most accurate method without and with self-supervised learning, of those that did not all diverge."""
    working = [method for method in comparison.recipe.methods if comparison.finished(method)]
    if not working:
        raise RecipeError(
            f"all runs of {', '.join(comparison.recipe.methods)} diverged; start anew with --overwrite and a lower "
            f"rate, such as lr=5e-4"
        )
    groups = [[method for method in kind if method in working] for kind in KINDS]
    return [choose(comparison, group, group[0])[0] for group in groups if group]


def choose(comparison: Comparison, methods: Sequence[str], expected: str) -> tuple[str, str]:
    """The best of some methods, or, where the pilots cannot tell it from that, the expected one; and why."""
    label = {method: config.label for method, config in comparison.recipe.methods.items()}
    best = max(methods, key=lambda method: (_accuracy(comparison, method), method == expected))
    if best == expected or expected not in methods:
        first = [method for method in methods if _accuracy(comparison, method) == _accuracy(comparison, best)]
        return best, f"{label[best]} did {'best' if len(first) == 1 else 'as well as any'} in the pilots"
    ahead = _accuracy(comparison, best) - _accuracy(comparison, expected)
    images = max(run.test_images or 1 for run in comparison.finished(best))
    error = math.sqrt(sum(a * (1 - a) / images for a in (_accuracy(comparison, m) for m in (best, expected))))
    shown = f"{label[best]} is {100 * ahead:.1f} points ahead of {label[expected]} in the pilots"
    if ahead > error:
        return best, f"{shown}, more than the standard error of {100 * error:.1f} points"
    return expected, f"{shown}, which {images} images cannot tell; the latter did better on images like these"


def _accuracy(comparison: Comparison, method: str) -> float:
    """Mean over the runs that did not diverge."""
    return statistics.fmean(run.accuracy for run in comparison.finished(method))
