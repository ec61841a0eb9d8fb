"""From a folder of images to a model: a few pilots, the best method's training, and a page that says how good it is.

Pilots are whole, short runs: a long one that is stopped early would be judged before its supervised phase. First every
method is tried; then, four times as long, the better one with self-supervised learning against the better one without,
which differ most in how they gain with time. The better of these is trained on all labelled images for the time that is
left. Nothing that is finished is trained again: interrupted, the same command goes on.
"""

from __future__ import annotations

import shlex
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mixplug import export
from mixplug.backbones.predicting import load_classifier, predict
from mixplug.checks import check_int, check_real, counted, expand_home
from mixplug.data.discovery import FoundImages, find_labelled_images
from mixplug.data.tables import TableRow, write_table
from mixplug.lab.pages.durations import duration
from mixplug.lab.pages.fit_page import FitPage, write_page
from mixplug.lab.pages.mistakes import Mistakes
from mixplug.lab.recipes.overrides import BUDGETS
from mixplug.lab.recipes.schema import Recipe, RecipeError, load_recipe
from mixplug.lab.runs.costs import TooLittleError
from mixplug.lab.runs.folders import check_out, clear_out
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import Comparison
from mixplug.lab.studies.budget import seconds_of_a_pass
from mixplug.lab.studies.compare import Announce, compare
from mixplug.lab.studies.fit_choice import best_of_each, choose
from mixplug.lab.studies.fit_images import are_grey, describe_images, describe_rows, of_split, split_images
from mixplug.lab.studies.fit_plan import PLAN, FitPlan
from mixplug.lab.studies.fit_settings import (
    KINDS,
    MODELS,
    PILOTS,
    Material,
    expected,
    fewest,
    longest,
    make_settings,
    shortest_pilot,
)
from mixplug.lab.studies.train import train

RECIPE, IMAGES, PILOT_IMAGES, PAGE, MODEL = "recipe.yaml", "images.csv", "pilots.csv", "report.md", "model.safetensors"
_FILES = (RECIPE, IMAGES, PILOT_IMAGES, PAGE, MODEL, f"{RECIPE}.part", "pictures/confused.png", "pictures/worst.png")
_FOLDERS = ("pilots-1", "pilots-2", "final")
_OWN = {
    **dict.fromkeys((*BUDGETS, *BUDGETS.values(), "epochs", "seeds", "methods"), "by its --minutes"),
    "first_seed": "by its --seed",
    **dict.fromkeys(("data", "data.root", "data.dataset"), "by its IMAGES"),
}
"""Settings that are no others', and what they are chosen by."""
_OVERHEAD = 0.85
"""Share of the time that goes to training; the rest to loading, evaluation and the page."""
_MOST_SEEDS = 5


@dataclass(frozen=True)
class Fitted:
    """What came of it.

    Attributes:
        method: The chosen one's label.
        mistakes: What the exported model says of the images that it is judged by.
        verdict: In sentences.
        model: Its file.
        page: The page about it.
    """

    method: str
    mistakes: Mistakes
    verdict: list[str]
    model: Path
    page: Path


def fit(
    images: Path,
    out: Path,
    labels: Path | None = None,
    minutes: float = 20.0,
    overrides: Sequence[str] = (),
    seed: int = 0,
    announce: Announce = print,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Fitted:
    """Choose a method for a folder of images, train it, export the model and write a page about it.

    Args:
        images: The folder; see :func:`mixplug.data.discovery.find_labelled_images`.
        out: Where everything goes, made if missing.
        labels: A table of labels, likewise.
        minutes: How long all of it may last, on this machine as it is now.
        overrides: ``key=value`` each, in place of what the rules of :mod:`mixplug.lab.studies.fit_settings` say.
        seed: Of the validation split and of the first run.
        announce: Called with a line of text.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        overwrite: Start anew, whatever ``out`` holds of another fit.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no images.
        ValueError: there are too few labels or minutes, or an override is wrong.
        RecipeError: ``out`` holds a fit of other images, minutes or settings, or files of others with the names of its
            own; it is in ``images``; or all pilots diverged.
        NotADirectoryError: ``out`` is a file.
    """
    check_real("minutes", minutes, 0, float("inf"), low_open=True, high_open=True)
    check_int("seed", seed, 0)
    _check_overrides(overrides)
    _check_folder(images, out)
    found = find_labelled_images(images, labels)
    pilot_rows, rows, judged = split_images(found, seed)
    described = [describe_images(found), judged]
    if overwrite:
        _clear(out)
    asked = {
        "minutes": minutes,
        "seed": seed,
        "overrides": list(overrides),
        "images": [*described, describe_rows(rows)],
    }
    plan = FitPlan(out, asked, begun=any((out / folder).exists() for folder in _FOLDERS))
    for line in described:
        announce(line)
    plan.keep()
    for name, part in ((PILOT_IMAGES, pilot_rows), (IMAGES, rows)):
        write_table(out / name, part)
    with plan.counting(), _naming_minutes(minutes):
        if "cost" not in plan:
            plan.decide(**_choose_model(found, rows, minutes, overrides, seed, out, progress))
        width, depth, _ = plan["model"]
        announce(
            f"A vision transformer {width} wide and {depth} deep, {counted(len(plan['pilots']), 'round')} of pilots, "
            f"{counted(plan['seeds'], 'seed')} of each, and "
            f"a last training of cost {plan['cost']:.3g}: {duration(plan['seconds'])} in all"
        )
    pilots: list[Comparison] = []
    methods = [method for kind in KINDS for method in (kind if len(plan["pilots"]) > 1 else kind[:1])]
    for number, share in enumerate(plan["pilots"], start=1):
        began = plan.spent
        with plan.counting(), _naming_minutes(minutes):
            recipe = _read(out, PILOT_IMAGES, methods, overrides, share * plan["cost"], plan["seeds"], seed)
            pilots.append(compare(recipe, out / f"pilots-{number}", announce, progress))
        methods = best_of_each(pilots[-1])
        left = plan["seconds"] - plan.spent
        announce(f"About {duration(left)} left" if left > 0 else f"{duration(-left)} more than that are over already")
        took = plan.spent - began
    chosen, reason = choose(pilots[-1], methods, plan["expected"])
    announce(reason)
    with plan.counting(), _naming_minutes(minutes):
        if "last" not in plan:
            growth = len(of_split(rows, "train")) / len(of_split(pilot_rows, "train"))
            # As the page prints it: what it says trains the same model again.
            plan.decide(last=float(f"{_last_cost(plan, pilots[-1], chosen, took, growth):.6g}"))
        recipe = _read(out, IMAGES, [chosen], overrides, plan["last"], 1, seed)
        train(recipe, chosen, seed, out / "final", progress, announce=announce)
        export(out / "final" / "checkpoint.pt", out / MODEL)
        mistakes = _judge_model(out / MODEL, of_split(rows, "test"))
    again = ["train", str(out / RECIPE), "--method", chosen, "--seed", str(seed), f"max_cost={plan['last']:.6g}"]
    page = FitPage(
        [*described, reason],
        recipe.methods[chosen].label,
        pilots,
        mistakes,
        shlex.join(["mixplug", *again, *overrides]),
        plan.spent,
    )
    write_page(page, out / PAGE)
    return Fitted(page.label, mistakes, page.verdict, out / MODEL, out / PAGE)


def _choose_model(
    found: FoundImages,
    rows: Sequence[TableRow],
    minutes: float,
    overrides: Sequence[str],
    seed: int,
    out: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """The model, the cost of the last training, the seeds of the pilots, and the seconds of it all."""
    began = time.monotonic()
    labelled = of_split(rows, "train")
    material = Material(
        len(labelled),
        len(labelled) + len(of_split(rows, "unlabelled")),
        min(found.width, found.height),
        are_grey([row.path for row in rows[:: -(-len(rows) // 50)]]),
        torch.cuda.is_available(),
    )
    description = f"{found.folder.resolve().name}: {len(found.classes)} classes, {len(labelled)} labelled images"
    own_model = any(override.startswith("model.") for override in overrides)
    best: dict[str, Any] = {}
    for model in MODELS[:1] if own_model else MODELS:
        settings = make_settings(material, model, str((out / IMAGES).resolve()), description)
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        part = out / f"{RECIPE}.part"
        part.write_text(f"# What mixplug fit chose; see mixplug show {out / RECIPE}\n{text}", encoding="utf-8")
        recipe = load_recipe(part, [*overrides, "cost=1e9", f"first_seed={seed}"])
        second = seconds_of_a_pass(recipe, progress)
        # What looking at the images and timing steps took is gone.
        took = time.monotonic() - began
        left = max(0.6 * minutes, 60 * minutes - took)
        long_enough = _affordable(left, second, PILOTS) * PILOTS[0] >= shortest_pilot(material.share)
        rounds = PILOTS if long_enough else PILOTS[1:]
        affordable = _affordable(left, second, rounds)
        if best and affordable < fewest(len(labelled)):
            part.unlink()
            break
        part.replace(out / RECIPE)
        cost = min(affordable, longest(material.share))
        # What one seed of everything leaves goes to others of the pilots.
        pilots = _cost_of(rounds)
        seeds = min(_MOST_SEEDS, 1 + int((affordable / cost - 1) * (1 + pilots) / pilots))
        seconds = took + cost * second * (1 + seeds * pilots) / _OVERHEAD
        best = {"model": model, "cost": cost, "pilots": rounds, "seeds": seeds, "seconds": seconds}
    return {**best, "expected": expected(material)}


def _cost_of(rounds: Sequence[float]) -> float:
    """What pilots with one seed cost, of the last training: four of the first of two rounds, two of the last."""
    return 2 * rounds[-1] + sum(4 * share for share in rounds[:-1])


def _affordable(seconds: float, second: float, rounds: Sequence[float]) -> float:
    """What the last training may cost, with pilots of one seed, at ``second`` seconds for a pass."""
    return seconds * _OVERHEAD / (1 + _cost_of(rounds)) / second


def _read(
    out: Path, table: str, methods: Sequence[str], overrides: Sequence[str], cost: float, seeds: int, seed: int
) -> Recipe:
    """The recipe with some of its methods, at a cost."""
    own = [f"methods=[{','.join(methods)}]", f"cost={cost!r}", f"seeds={seeds}", f"first_seed={seed}"]
    return load_recipe(out / RECIPE, [*own, f"data.root={(out / table).resolve()}", *overrides])


def _last_cost(plan: FitPlan, pilots: Comparison, chosen: str, took: float, growth: float) -> float:
    """What the time that is left buys, by the speed of the last pilots, and at least what one of these cost.

    Args:
        plan: The decisions before.
        pilots: The last ones.
        chosen: The method.
        took: Seconds of them all, with loading and evaluation; of pilots that were there already, none.
        growth: Labelled images of the last training for each of the pilots.
    """
    runs = [run for run in pilots.runs.values() if run.cost and run.diverged is None]
    trained = sum(run.seconds for run in runs)
    # The chosen method's own speed in training, and the share of time that went to all else.
    own = statistics.fmean(run.seconds / (run.cost or 1) for run in pilots.finished(chosen))
    affordable = (plan["seconds"] - plan.spent) / (own * growth * max(took, trained) / trained)
    return min(max(affordable, PILOTS[-1] * plan["cost"]), 1.5 * plan["cost"])


def _judge_model(model: Path, rows: Sequence[TableRow]) -> Mistakes:
    """What the exported model says of images that it did not learn from."""
    classifier = load_classifier(model)
    names = list(classifier.spec.classes[""])
    labels = torch.tensor([names.index(row.label) for row in rows])
    paths = tuple(row.path for row in rows)
    (probabilities,) = predict(classifier, paths).values()
    return Mistakes(paths, labels, probabilities, names)


@contextmanager
def _naming_minutes(minutes: float) -> Iterator[None]:
    """Have a budget that is too small be called by the option that made it."""
    try:
        with warnings.catch_warnings():
            # Phases of a few epochs have a warm-up of none, which is as it should be.
            warnings.filterwarnings("ignore", message="The warmup duration is 0")
            yield
    except TooLittleError as error:
        # Above, because a longer fit may choose a larger model.
        enough = float(f"{1.5 * minutes * error.least:.1g}")
        raise ValueError(f"--minutes {minutes:g} are too few ({error}); give {enough:g} or more") from error


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OWN:
            raise RecipeError(
                f"mixplug fit chooses {key} {_OWN[key]}, got {override!r}; leave it out, or change it in "
                f"`mixplug compare` with the {RECIPE} that a fit leaves"
            )


def _check_folder(images: Path, out: Path) -> None:
    """Refuse a folder whose files would be taken for images to learn from, or in which others' would be lost."""
    check_out(out)
    folder, own = expand_home(images).resolve(), [out / name for name in ("pictures", *_FOLDERS)]
    if out.resolve().is_relative_to(folder) or any(folder.is_relative_to(part.resolve()) for part in own):
        raise RecipeError(
            f"--out {out} and the folder of the images, {images}, share files: pictures of the fit would be learned "
            f"too; choose one beside it"
        )
    there = [name for name in _FILES if (out / name).exists()]
    if there and not (out / PLAN).exists():
        raise RecipeError(f"{out} holds {', '.join(there)}, which no fit left there; choose another --out")


def _clear(out: Path) -> None:
    """Remove what a fit left, and nothing else."""
    if not (out / PLAN).exists():
        return
    for folder in _FOLDERS:
        if (out / folder).is_dir():
            clear_out(out / folder)
    # The plan comes last: without it the others would be no fit's.
    for name in (*_FILES, PLAN):
        (out / name).unlink(missing_ok=True)
