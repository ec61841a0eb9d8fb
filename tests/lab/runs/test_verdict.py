from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from shared.fake_runs import fake_comparison

from mixplug.lab.runs.results import Comparison
from mixplug.lab.runs.verdict import LEVEL, judge, verdict_content, verdict_lines
from mixplug.lab.studies.compare import next_seeds


def compared(accuracies, *overrides):
    """A comparison in which each method has these accuracies."""
    seeds = max(map(len, accuracies.values()))
    made = fake_comparison(f"seeds={seeds}", *overrides)
    for (method, seed), run in list(made.runs.items()):
        if seed < len(accuracies[method]):
            run.accuracy = accuracies[method][seed]
        else:
            del made.runs[method, seed]
    return made


def looked_at(accuracies):
    """A comparison to which seeds are added."""
    return replace(compared(accuracies), looking=True)


CLEAR = {"sl": [0.5, 0.51, 0.52], "ssl_sl": [0.55, 0.561, 0.569], "mix": [0.7, 0.711, 0.72]}


def test_a_clear_order():
    verdict = judge(compared(CLEAR))
    assert verdict.leader == "mix"
    assert verdict.is_decided
    assert list(verdict.behind) == ["ssl_sl", "sl"]
    assert verdict.behind["sl"].mean == pytest.approx(0.2003, abs=1e-3)
    assert verdict.helped[:2] == ("mix", "sl")
    lines = verdict_lines(compared(CLEAR), verdict)
    assert lines[0].startswith("Verdict: MixTraining is best, 15.0 points ahead of SSL+SL (interval +")
    assert "3 seeds, at 0.75 times its cost" in lines[0]
    assert lines[1].startswith("Self-supervised learning pays here: MixTraining is 20.0 points ahead of SL")
    assert "at most 5% false winners" in lines[2]


def test_self_supervised_learning_that_does_not_pay():
    accuracies = {**CLEAR, "sl": [0.8, 0.81, 0.82]}
    lines = verdict_lines(compared(accuracies), judge(compared(accuracies)))
    assert lines[0].startswith("Verdict: SL is best, 10.0 points ahead of MixTraining")
    assert lines[1].startswith("Self-supervised learning does not pay here: MixTraining is 10.0 points behind SL")


def test_equal_methods_are_not_ahead_and_no_further_apart_than_can_be():
    accuracies = {"sl": [0.2, 0.8], "ssl_sl": [0.8, 0.2]}
    made = compared(accuracies, "methods=[sl,ssl_sl]")
    verdict = judge(made)
    (difference,) = verdict.behind.values()
    assert (difference.low, difference.high) == (-1, 1)
    assert "is less than 0.1 points from" in verdict_lines(made, verdict)[0]
    assert "interval -100.0 to +100.0" in verdict_lines(made, verdict)[0]


def test_an_order_that_is_open():
    accuracies = {"sl": [0.5, 0.6, 0.55], "ssl_sl": [0.56, 0.55, 0.56], "mix": [0.56, 0.58, 0.57]}
    verdict = judge(compared(accuracies))
    assert not verdict.is_decided
    lines = verdict_lines(compared(accuracies), verdict)
    assert lines[0].startswith("Verdict: undecided. MixTraining is 1.3 points ahead of SSL+SL (interval -")
    assert "2 of 2 other methods may be as good" in lines[0]
    assert lines[1].startswith("Whether self-supervised learning pays here is undecided")


def test_one_seed():
    accuracies = {method: values[:1] for method, values in CLEAR.items()}
    assert not judge(compared(accuracies)).is_decided
    assert verdict_lines(compared(accuracies), judge(compared(accuracies)))[-1].startswith("One seed tells nothing")


def test_one_method_and_runs_that_diverged_have_no_order():
    assert judge(compared(CLEAR, "methods=[sl]")) is None
    assert verdict_lines(compared(CLEAR), None) == []
    made = compared(CLEAR)
    for (method, _), run in made.runs.items():
        if method != "sl":
            run.diverged, run.accuracy = 3, math.nan
    assert judge(made) is None
    made.runs["mix", 0].diverged, made.runs["mix", 0].accuracy = None, 0.7
    assert judge(made).behind["sl"].seeds == 1


def test_at_equal_cost_the_verdict_says_so():
    made = compared(CLEAR)
    for run in made.runs.values():
        run.cost = 100.0
    assert "at equal cost" in verdict_lines(made, judge(made))[0]


def test_it_can_be_read_as_primitives():
    made = compared({method: values[:2] for method, values in CLEAR.items()})
    verdict = judge(replace(made, looking=True))
    content = json.loads(json.dumps(verdict_content(verdict, ["Some.", "Words."])))
    assert content["text"] == "Some. Words."
    assert content["behind"]["sl"]["low"] is None, "JSON has no infinity"
    assert content["intervals"] == "confidence sequence"
    assert verdict_content(None, []) == {}


def test_seeds_are_added_to_the_methods_in_question_alone():
    level = [0.56, 0.565, 0.558, 0.561, 0.563, 0.559, 0.56, 0.564]
    accuracies = {
        "sl": [value - 0.25 for value in level],
        "ssl_sl": level,
        "mix": [value + 0.004 * (-1) ** seed + 0.001 for seed, value in enumerate(level)],
    }
    accuracies["sl"][0] += 0.005  # two differences are not equal
    assert {seed for _, seed in next_seeds(looked_at({m: a[:3] for m, a in accuracies.items()}), 10)} == {3}
    have = {"sl": 6, "ssl_sl": 6, "mix": 6}
    shown = looked_at({m: accuracies[m][:n] for m, n in have.items()})
    assert next_seeds(shown, 10) == [("ssl_sl", 6), ("mix", 6)], "SL is beaten"
    assert next_seeds(shown, 6) == []
    behind = looked_at({m: accuracies[m][:n] for m, n in {"sl": 6, "ssl_sl": 6, "mix": 7}.items()})
    assert next_seeds(behind, 10) == [("ssl_sl", 6)], "it catches up first"
    assert next_seeds(looked_at({m: [v[0], v[1], v[2]] * 3 for m, v in CLEAR.items()}), 10) == []


@pytest.mark.parametrize("methods", ["[sl,mix]", "[sl,ssl_sl,mix]"])
def test_equal_methods_have_a_winner_in_at_most_five_percent(methods):
    """400 comparisons of equal methods with shared seeds, to which seeds are added until one wins or there are 10."""
    rng, trials, winners = np.random.default_rng(0), 400, 0
    made = fake_comparison("seeds=10", f"methods={methods}")
    for _ in range(trials):
        shared = rng.normal(0.5, 0.02, 10)
        for (method, seed), run in made.runs.items():
            run.accuracy = shared[seed] + rng.normal(0, 0.01 if method == "sl" else 0.02)
        begun = {cell: run for cell, run in made.runs.items() if cell[1] < 3}
        shown = Comparison(made.recipe, begun, looking=True)
        while more := next_seeds(shown, 10):
            shown.runs.update({cell: made.runs[cell] for cell in more})
        winners += judge(shown).is_decided
    # Three standard errors above the level.
    assert winners / trials <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / trials)
