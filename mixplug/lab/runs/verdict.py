"""What a comparison says in a sentence: which method, by how much, how sure that is, and what it does not say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixplug.checks import counted
from mixplug.lab.recipes.schema import PROBES
from mixplug.lab.runs.differences import Difference, difference_of
from mixplug.lab.runs.results import Comparison, judging_probe

LEVEL = 0.05
"""How often, at most, methods that are equal may be told apart, whichever and however many are compared."""


@dataclass(frozen=True)
class Verdict:
    """What is known of the order of some methods.

    Attributes:
        leader: Key of the method with the highest mean.
        behind: How far each other one is behind it, by its key, the nearest first.
        helped: Of the methods with self-supervised learning the best, of those without the best, and how far the first
            is ahead of the second; None where there are not both.
        looking: Whether seeds were added until the order was clear.
    """

    leader: str
    behind: dict[str, Difference]
    helped: tuple[str, str, Difference] | None
    looking: bool

    @property
    def is_decided(self) -> bool:
        """Whether the leader is ahead of each other one."""
        return not self.in_question

    @property
    def in_question(self) -> list[str]:
        """The methods that may be as good as the leader."""
        return [method for method, difference in self.behind.items() if not difference.low > 0]


def judge(comparison: Comparison) -> Verdict | None:
    """Order the methods of a comparison by the accuracy of their runs, paired by seed.

    A method is best if it is ahead of each other one. With K methods each pair has a two-sided level of 2/K times
    :data:`LEVEL`: a false winner must be ahead of the true best one, from which it is told apart wrongly, in that
    direction, with at most LEVEL/K, and there are fewer than K of them (at K equal ones, K).

    Args:
        comparison: The runs; those that diverged count for nothing.

    Returns:
        None where fewer than two methods have a run in common.
    """
    runs = {
        method: {seed: run.accuracy for seed, run in comparison.by_seed(method).items() if run.diverged is None}
        for method in comparison.recipe.methods
    }
    runs = {method: accuracies for method, accuracies in runs.items() if accuracies}
    if len(runs) < 2:
        return None
    level, resolution = min(1.0, 2 / len(runs)) * LEVEL, _resolution(comparison)

    def best(methods: Iterable[str]) -> str:
        return max(methods, key=lambda method: statistics.fmean(runs[method].values()))

    def ahead(one: str, other: str) -> Difference | None:
        seeds = [seed for seed in runs[one] if seed in runs[other]]
        first, second = ([runs[method][seed] for seed in seeds] for method in (one, other))
        if not seeds:
            return None
        found = difference_of(first, second, level, comparison.looking, resolution)
        if math.isinf(found.low):
            return found
        # No two accuracies are further apart than 0 and 1.
        return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))

    leader = best(runs)
    behind = {other: found for other in runs if other != leader and (found := ahead(leader, other))}
    objectives = {method: comparison.finished(method)[0].objective for method in runs}
    groups = [[m for m in runs if (objectives[m] is not None) == with_ssl] for with_ssl in (True, False)]
    helped = None
    if all(groups):
        one, other = (best(group) for group in groups)
        difference = ahead(one, other)
        helped = None if difference is None else (one, other, difference)
    ordered = dict(sorted(behind.items(), key=lambda item: item[1].mean))
    return Verdict(leader, ordered, helped, comparison.looking) if behind else None


def verdict_lines(comparison: Comparison, verdict: Verdict | None) -> list[str]:
    """The verdict in sentences: the order, whether self-supervised learning pays, and what they do not say."""
    if verdict is None:
        return []
    leader, (other, nearest) = verdict.leader, next(iter(verdict.behind.items()))
    label = {method: config.label for method, config in comparison.recipe.methods.items()}
    by = _by(comparison, leader, other, nearest)
    if verdict.is_decided:
        order = f"Verdict: {label[leader]} is best, {by}."
    else:
        rivals, others = len(verdict.in_question), counted(len(label) - 1, "other method")
        more = f"; {rivals} of {others} may be as good" if rivals > 1 else ""
        order = f"Verdict: undecided. {label[leader]} is {by}{more}."
    lines = [order]
    if verdict.helped is not None:
        one, none, difference = verdict.helped
        text = _by(comparison, one, none, difference)
        pays = "does not pay here" if difference.high < 0 else "pays here" if difference.low > 0 else ""
        lines.append(
            f"Self-supervised learning {pays}: {label[one]} is {text}."
            if pays
            else f"Whether self-supervised learning pays here is undecided: {label[one]} is {text}."
        )
    kind = (
        "confidence sequences, which hold however often one looks" if verdict.looking else "Student's, paired by seed"
    )
    about = f"{kind}; of all {counted(len(verdict.behind) + 1, 'method')} at most {LEVEL:.0%} false winners"
    lines.append(f"Intervals: {about}. They are about other seeds of these data, models and budgets, not about others.")
    if nearest.seeds < 2:
        lines[-1] = "One seed tells nothing of the order; --seeds and --until-decided add others."
    return lines


def verdict_content(verdict: Verdict | None, lines: list[str]) -> dict[str, Any]:
    """The verdict as primitives for ``results.json``; an end of an interval that is infinite is None."""
    if verdict is None:
        return {}

    def plain(difference: Difference) -> dict[str, Any]:
        return {name: value if math.isfinite(value) else None for name, value in asdict(difference).items()}

    helped = verdict.helped
    return {
        "text": " ".join(lines),
        "leader": verdict.leader,
        "decided": verdict.is_decided,
        "level": LEVEL,
        "intervals": "confidence sequence" if verdict.looking else "Student",
        "behind": {method: plain(difference) for method, difference in verdict.behind.items()},
        "ssl": None if helped is None else {"with": helped[0], "without": helped[1], **plain(helped[2])},
    }


def _by(comparison: Comparison, one: str, other: str, difference: Difference) -> str:
    """'1.6 points ahead of ... (interval 0.3 to 2.9, 5 seeds, at equal cost)'."""
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    way = "ahead of" if mean >= 0 else "behind"
    if math.isinf(low):
        interval = f"any interval with so few as {difference.seeds} seeds" if difference.seeds > 1 else "no interval"
    else:
        low, high = (low, high) if mean >= 0 else (-high, -low)
        interval = f"interval {low:+.1f} to {high:+.1f}"
    costs = [comparison.finished(method)[0].cost for method in (one, other)]
    cost = "at costs that are not known"
    if costs[0] and costs[1]:
        ratio = costs[0] / costs[1]
        cost = "at equal cost" if 0.95 <= ratio <= 1.05 else f"at {ratio:.2f} times its cost"
    what = _judged_by(comparison)
    seeds = counted(difference.seeds, "seed")
    apart = f"{abs(mean):.1f} points{what} {way}" if abs(mean) >= 0.05 else f"less than 0.1 points{what} from"
    return f"{apart} {comparison.recipe.methods[other].label} ({interval}, {seeds}, {cost})"


def _judged_by(comparison: Comparison) -> str:
    """' of kNN' where no classifier was trained."""
    runs = [run for method in comparison.recipe.methods for run in comparison.finished(method)]
    probe = judging_probe((phase for run in runs for phase in run.lengths), comparison.recipe.probes)
    return "" if probe is None else f" of {PROBES[probe]}"


def _resolution(comparison: Comparison) -> float:
    """One test image."""
    images = [run.test_images for run in comparison.runs.values() if run.test_images]
    return 1 / max(images) if images else 0.0
