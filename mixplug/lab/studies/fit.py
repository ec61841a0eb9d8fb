"""From a folder of images to a model: a few pilots, the best method's training, and a page that says how good it is.

Pilots are whole, short runs: a long one that is stopped early would be judged before its supervised phase. First every
method is tried; then, four times as long, the better one with self-supervised learning against the better one without,
which differ most in how they gain with time. The better of these is trained on all labelled images for the time that is
left. Nothing that is finished is trained again: interrupted, the same command goes on.
"""

from __future__ import annotations

import hashlib
import math
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
from mixplug.data.images import read_square
from mixplug.data.subsets import is_small_validation, split_validation
from mixplug.data.tables import TableRow, write_table
from mixplug.lab.pages.durations import duration
from mixplug.lab.pages.fit_page import FitPage, write_page
from mixplug.lab.pages.mistakes import Mistakes
from mixplug.lab.recipes.overrides import BUDGETS
from mixplug.lab.recipes.schema import Recipe, RecipeError, load_recipe
from mixplug.lab.runs.folders import check_out, clear_out
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import Comparison
from mixplug.lab.studies.budget import seconds_of_a_pass
from mixplug.lab.studies.compare import Announce, compare
from mixplug.lab.studies.fit_plan import PLAN, FitPlan
from mixplug.lab.studies.fit_settings import (
    MODELS,
    PILOTS,
    WITH_SSL,
    WITHOUT_SSL,
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
_FLATTERING = "The method was chosen by them too, so its accuracy is a little flattering."
_KINDS = (WITHOUT_SSL, WITH_SSL)


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
    pilot_rows, rows, judged = _splits(found, seed)
    described = [_describe(found), judged]
    if overwrite:
        _clear(out)
    asked = {"minutes": minutes, "seed": seed, "overrides": list(overrides), "images": [*described, _digest(rows)]}
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
    methods = [method for kind in _KINDS for method in (kind if len(plan["pilots"]) > 1 else kind[:1])]
    for number, share in enumerate(plan["pilots"], start=1):
        began = plan.spent
        with plan.counting(), _naming_minutes(minutes):
            recipe = _read(out, PILOT_IMAGES, methods, overrides, share * plan["cost"], plan["seeds"], seed)
            pilots.append(compare(recipe, out / f"pilots-{number}", announce, progress))
        methods = _best_of_each(pilots[-1])
        announce(f"About {duration(max(0, plan['seconds'] - plan.spent))} left")
        took = plan.spent - began
    chosen, reason = _choose(pilots[-1], methods, plan["expected"])
    announce(reason)
    with plan.counting(), _naming_minutes(minutes):
        if "last" not in plan:
            growth = len(_of(rows, "train")) / len(_of(pilot_rows, "train"))
            # As the page prints it: what it says trains the same model again.
            plan.decide(last=float(f"{_last_cost(plan, pilots[-1], chosen, took, growth):.6g}"))
        recipe = _read(out, IMAGES, [chosen], overrides, plan["last"], 1, seed)
        train(recipe, chosen, seed, out / "final", progress, announce=announce)
        export(out / "final" / "checkpoint.pt", out / MODEL)
        mistakes = _judge_model(out / MODEL, _of(rows, "test"))
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


def _splits(found: FoundImages, seed: int) -> tuple[list[TableRow], list[TableRow], str]:
    """The images of the pilots and of the last training, each with those to judge by, and that in words."""
    labelled = [row for row in found.rows if row.split in ("", "train")]
    test, others = _of(found.rows, "test"), _of(found.rows, "unlabelled")
    labels = [row.label for row in labelled]
    held = split_validation(labels, seed)
    if not len(held):
        raise ValueError(
            f"{found.folder} has {counted(len(labelled), 'labelled image')} of {len(found.classes)} classes, too few "
            f"to hold some out by which methods are judged; label five at least, and two of a class"
        )
    out = set(held.tolist())
    training = [row._replace(split="train") for n, row in enumerate(labelled) if n not in out]
    validation = [row._replace(split="test") for n, row in enumerate(labelled) if n in out]
    pilots = [*training, *validation, *others]
    share = f"{counted(len(held), 'labelled image')} of {len(labelled)}, held out"
    if is_small_validation(labels, held):
        share += ", so few that close methods cannot be told apart"
    if not test:
        return (
            pilots,
            pilots,
            f"There are no test images: pilots and the last model are judged by {share}. " + _FLATTERING,
        )
    last = f"the last model, trained on all, by {counted(len(test), 'test image')}"
    rows = [*(row._replace(split="train") for row in labelled), *test, *others]
    return pilots, rows, f"Pilots are judged by {share}; {last}."


def _of(rows: Sequence[TableRow], split: str) -> list[TableRow]:
    return [row for row in rows if row.split == split]


def _describe(found: FoundImages) -> str:
    counts = {split: len(_of(found.rows, split)) for split in ("test", "unlabelled")}
    fewest, most = min(found.classes.values()), max(found.classes.values())
    per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return (
        f"{found.folder.resolve().name}: {sum(found.classes.values())} labelled images of {len(found.classes)} classes "
        f"({per_class} of each), {counts['test']} to test on, {counts['unlabelled']} without labels; about "
        f"{found.width} x {found.height} pixels"
    )


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
    labelled = _of(rows, "train")
    material = Material(
        len(labelled),
        len(labelled) + len(_of(rows, "unlabelled")),
        min(found.width, found.height),
        _are_grey([row.path for row in rows[:: -(-len(rows) // 50)]]),
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


def _best_of_each(comparison: Comparison) -> list[str]:
    """The most accurate method without and with self-supervised learning, of those that did not all diverge."""
    working = [method for method in comparison.recipe.methods if comparison.finished(method)]
    if not working:
        raise RecipeError(
            f"all runs of {', '.join(comparison.recipe.methods)} diverged; start anew with --overwrite and a lower "
            f"rate, such as lr=5e-4"
        )
    groups = [[method for method in kind if method in working] for kind in _KINDS]
    return [_choose(comparison, group, group[0])[0] for group in groups if group]


def _choose(comparison: Comparison, methods: Sequence[str], expected: str) -> tuple[str, str]:
    """The best of some methods, or, where the pilots cannot tell it from that, the expected one; and why."""
    label = {method: config.label for method, config in comparison.recipe.methods.items()}
    best = max(methods, key=lambda method: _accuracy(comparison, method))
    if best == expected or expected not in methods:
        return best, f"{label[best]} did best in the pilots"
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
    second = max(took, sum(run.seconds for run in runs)) / sum(run.cost or 0 for run in runs)
    own = [run.seconds / (run.cost or 1) for run in pilots.finished(chosen)]
    mean = sum(run.seconds for run in runs) / sum(run.cost or 0 for run in runs)
    second *= growth * statistics.fmean(own) / mean
    affordable = (plan["seconds"] - plan.spent) / second
    return min(max(affordable, PILOTS[-1] * plan["cost"]), 1.5 * plan["cost"])


def _judge_model(model: Path, rows: Sequence[TableRow]) -> Mistakes:
    """What the exported model says of images that it did not learn from."""
    classifier = load_classifier(model)
    names = list(classifier.spec.classes[""])
    labels = torch.tensor([names.index(row.label) for row in rows])
    paths = tuple(row.path for row in rows)
    (probabilities,) = predict(classifier, paths).values()
    return Mistakes(paths, labels, probabilities, names)


def _are_grey(paths: Sequence[Path]) -> bool:
    """Whether all of some images have no colours."""
    for path in paths:
        red, green, blue = (band.tobytes() for band in read_square(path, None).split())
        if not red == green == blue:
            return False
    return True


@contextmanager
def _naming_minutes(minutes: float) -> Iterator[None]:
    """Have a budget that is too small be called by the option that made it."""
    try:
        with warnings.catch_warnings():
            # Phases of a few epochs have a warm-up of none, which is as it should be.
            warnings.filterwarnings("ignore", message="The warmup duration is 0")
            yield
    except ValueError as error:
        if "the shortest run costs" not in str(error):
            raise
        raise ValueError(f"--minutes {minutes:g} are too few: {error}; give more") from error


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


def _digest(rows: Sequence[TableRow]) -> str:
    """Of files and labels: of others of them a fit is another one."""
    text = repr([(str(row.path.resolve()), row.label, row.split) for row in rows])
    return f"files and labels {hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


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
