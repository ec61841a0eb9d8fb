"""The figures of Li et al., "MixTraining", 2025: Tables 1 to 6 and 8 to 16, as data. Needs neither torch nor Composer.

They are of ViT-Tiny with batches of 256 images on one RTX 6000 Ada, means of 4 runs; Table 4 has rho = 0.75. What a
column does not have is empty: a task in tables of one data set or of the average over tasks, alpha and rho of SL and
SSL+SL, seconds in Tables 4 and 5.
"""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from mixplug.checks import check_choice

SETTINGS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "TinyImageNet",
    "tinyimagenet_to_cifar10": "SSL on TinyImageNet, SL on CIFAR-10",
    "tinyimagenet_to_cifar100": "SSL on TinyImageNet, SL on CIFAR-100",
    "multitask_cifar10_svhn": "CIFAR-10 and SVHN at once",
}
"""What the paper trains on, by the name that a recipe's ``paper`` gives."""

_DATA: dict[str, tuple[set[str], set[str]]] = {
    "cifar10": ({"cifar10"}, set()),
    "cifar100": ({"cifar100"}, set()),
    "tinyimagenet": ({"tinyimagenet"}, set()),
    "tinyimagenet_to_cifar10": ({"cifar10"}, {"tinyimagenet"}),
    "tinyimagenet_to_cifar100": ({"cifar100"}, {"tinyimagenet"}),
    "multitask_cifar10_svhn": ({"cifar10", "svhn"}, set()),
}
"""Of each setting the labelled data sets, and those for SSL where they are others."""

METHODS = ("SL", "SSL+SL", "MixTraining")

PARAMETERS = ("fraction", "epochs", "alpha", "rho")
"""What its studies vary."""

MAIN = {"epochs": 100.0, "alpha": 0.5, "rho": 0.5}
"""What it holds constant elsewhere (section 3.1)."""

# Table 4 was measured at rho = 0.75, so that a study of alpha is compared with one of the same paper.
_MAIN_WHILE_SWEPT = {"alpha": {"rho": 0.75}}
_STUDIES = {"alpha": {4}, "rho": {5}, "epochs": {6, *range(8, 17)}, "fraction": {1, 2, 3}}


@dataclass(frozen=True)
class Figure:
    """One measurement of the paper.

    Attributes:
        table: Number of its table.
        setting: One of :data:`SETTINGS`.
        task: Of the multi-task setting 'cifar10' or 'svhn'; empty for the average, and for one data set.
        fraction: Share of the training images, in (0, 1].
        epochs: Epochs of SSL and of SL, each; of a method that has them.
        alpha: LOSS-RATIO, None for a method without.
        rho: MIX-RATIO, None for a method without.
        method: One of :data:`METHODS`.
        accuracy: In percent.
        seconds: Latency of the training, None where the paper gives none.
    """

    table: int
    setting: str
    task: str
    fraction: float
    epochs: float
    alpha: float | None
    rho: float | None
    method: str
    accuracy: float
    seconds: float | None


@cache
def all_figures() -> tuple[Figure, ...]:
    """Every figure, by table."""
    lines = files("mixplug").joinpath("paper.csv").read_text(encoding="utf-8").splitlines()
    return tuple(
        Figure(
            int(row["table"]),
            row["setting"],
            row["task"],
            float(row["fraction"]),
            float(row["epochs"]),
            _number(row["alpha"]),
            _number(row["rho"]),
            row["method"],
            float(row["accuracy"]),
            _number(row["seconds"]),
        )
        for row in csv.DictReader(lines)
    )


def figures(
    setting: str,
    method: str,
    *,
    fraction: float = 1.0,
    epochs: float = 100,
    alpha: float = 0.5,
    rho: float = 0.5,
    task: str = "",
) -> list[Figure]:
    """What the paper reports of one experiment, by table: nothing, one figure, or several that may differ.

    Of the multi-task setting's average it gives Table 3 alone; Tables 4, 5 and 12 to 16 are averaged here.

    Args:
        setting: One of :data:`SETTINGS`.
        method: One of :data:`METHODS`.
        fraction: Share of the training images, in (0, 1].
        epochs: Epochs of SSL and of SL, each.
        alpha: LOSS-RATIO in [0, 1]; SL and SSL+SL do not depend on it.
        rho: MIX-RATIO in [0, 1]; SL and SSL+SL do not depend on it.
        task: 'cifar10' or 'svhn' of the multi-task setting, empty for the average.

    Raises:
        ValueError: an unknown setting or method.
    """
    check_choice("setting", setting, SETTINGS)
    check_choice("method", method, METHODS)
    wanted = {"fraction": fraction, "epochs": epochs}
    if method == "MixTraining":
        wanted |= {"alpha": alpha, "rho": rho}
    found = [
        figure
        for figure in all_figures()
        if figure.setting == setting
        and figure.method == method
        and all(math.isclose(getattr(figure, name), value) for name, value in wanted.items())
    ]
    chosen = [figure for figure in found if figure.task == task]
    if task == "":
        separate = itertools.groupby((f for f in found if f.task), key=lambda figure: figure.table)
        for _, group in separate:
            tasks = list(group)
            mean = round(statistics.fmean(figure.accuracy for figure in tasks), 3)
            chosen.append(replace(tasks[0], task="", accuracy=mean))
    return sorted(chosen, key=lambda figure: figure.table)


def reference(
    setting: str, method: str, given: Mapping[str, float | None], swept: Collection[str] = (), task: str = ""
) -> Figure | None:
    """The figure to hold beside a run: of the same fraction, and the same in everything that is swept.

    In what is not swept it has the run's value if the paper has it too, else that of its main experiments
    (:data:`MAIN`; rho = 0.75 beside a sweep over alpha, as in Table 4). Of several figures it is that of the
    study of what is swept, else that of the first table.

    Args:
        setting: One of :data:`SETTINGS`.
        method: One of :data:`METHODS`.
        given: Each of :data:`PARAMETERS` as the run had it, None for what cannot be compared.
        swept: Those that a sweep varies.
        task: See :func:`figures`.
    """
    constant = {**MAIN, **{k: v for name in swept for k, v in _MAIN_WHILE_SWEPT.get(name, {}).items()}}
    choices: list[list[float]] = []
    for name in PARAMETERS:
        value = given.get(name)
        if name == "fraction" or name in swept:
            if value is None and (method == "MixTraining" or name in ("fraction", "epochs")):
                return None
            choices.append([constant[name] if value is None else value])
        elif constant[name] != MAIN[name] or value is None:
            choices.append([constant[name]])
        else:
            choices.append([value, constant[name]])
    studies = set().union(*(_STUDIES[name] for name in swept))
    for values in itertools.product(*choices):
        found = figures(setting, method, **dict(zip(PARAMETERS, values, strict=True)), task=task)
        if found:
            return min(found, key=lambda figure: (figure.table not in studies, figure.table))
    return None


def curve(
    setting: str,
    method: str,
    name: str,
    given: Mapping[str, float | None],
    swept: Collection[str] = (),
    task: str = "",
) -> list[tuple[float, Figure]]:
    """The paper's own study of ``name``: each value that it has, with its figure; see :func:`reference`."""
    values = sorted({v for f in all_figures() if f.setting == setting and (v := getattr(f, name)) is not None})
    swept = {*swept, name}
    found = ((value, reference(setting, method, {**given, name: value}, swept, task)) for value in values)
    return [(value, figure) for value, figure in found if figure is not None]


def has_data(setting: str, labelled: Collection[str], unlabelled: Collection[str] = ()) -> bool:
    """Whether data sets can be those of a setting: by name, an image_folder may hold any of them.

    Args:
        setting: One of :data:`SETTINGS`.
        labelled: The names of the labelled data sets, one for each task.
        unlabelled: Those of the data for SSL alone, none where it is the labelled data.
    """
    for names, wanted in zip((labelled, unlabelled), _DATA[setting], strict=True):
        named = [name for name in names if name != "image_folder"]
        if len(names) != len(wanted) or len(set(named)) < len(named) or not wanted.issuperset(named):
            return False
    return True


def method_of(rho: float | None) -> str:
    """Which of :data:`METHODS` a run with the mix ratio ``rho`` is; None is a run without phases."""
    if rho is None:
        return "SL"
    return "SSL+SL" if rho == 0 else "MixTraining"


def caption(shown: Iterable[Figure], assumed: bool = False) -> str:
    """What the reader of ``shown`` figures must know about them; empty for none.

    Args:
        shown: The figures.
        assumed: Whether that the data is the paper's is the reader's to know.
    """
    shown = list(shown)
    if not shown:
        return ""
    settings = " / ".join(dict.fromkeys(SETTINGS[figure.setting] for figure in shown))
    tables = sorted({figure.table for figure in shown})
    conditions = [
        f"{_listed(f'{100 * figure.fraction:g}%' for figure in shown)} of the images",
        f"{_listed(f'{figure.epochs:g}' for figure in shown)} epochs of each kind",
    ]
    mixed = [figure for figure in shown if figure.method == "MixTraining"]
    if mixed:
        conditions += [
            f"{name} = {_listed(f'{getattr(figure, name):g}' for figure in mixed)}" for name in ("alpha", "rho")
        ]
    ours = any(not f.task and f.setting == "multitask_cifar10_svhn" and f.table != 3 for f in shown)
    proviso = f" They compare if the images are those of the paper ({settings})." if assumed else ""
    return (
        f"Paper: Li et al., Table{'s' if len(tables) > 1 else ''} {_listed(map(str, tables))}: {settings}, "
        f"{', '.join(conditions)}; ViT-T, batch 256, one RTX 6000 Ada, 4 runs."
        f"{' Averages over tasks are theirs in Table 3 and taken here elsewhere.' if ours else ''}{proviso}"
    )


def _listed(words: Iterable[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _number(text: str) -> float | None:
    return float(text) if text else None
