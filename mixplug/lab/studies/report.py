"""Comparisons and sweeps, finished or not, as one Markdown page with pictures. Needs neither torch nor Composer.

The page is a function of the folders alone: the same ones in the same order give the same page.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from mixplug.checks import counted
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.runs.folders import STARTED, with_out
from mixplug.lab.runs.mean_std import MeanStd

_PICTURES = {
    "accuracy.png": "Accuracy against what was swept",
    "pareto.png": "Accuracy against cost",
    "curves.png": "Losses and accuracy over the run",
    "schedules.png": "What changed over the run",
    "reconstructions.png": "Reconstructions of test images",
}


class _Section(NamedTuple):
    """One folder's line of the overview, its part of the page, and its pictures by the names of their copies."""

    line: tuple[str, ...]
    page: str
    pictures: dict[str, Path]


def report(folders: Sequence[Path], out: Path) -> Path:
    """Join what ``compare`` and ``sweep`` left into ``report.md``, with copies of the pictures in ``pictures/``.

    Args:
        folders: Their output folders, finished or not, in the order of the page.
        out: A folder, made if missing.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a folder, or something in it, is missing.
        ValueError: a folder is named twice, or holds something else or something damaged.
    """
    sections: dict[str, _Section] = {}
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise ValueError(f"{folder} is named twice; name each folder once")
        anchor = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)
        while anchor in sections:
            anchor += f"-{index + 1}"
        sections[anchor] = _read(folder, anchor)  # all of them before anything is written
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for section in sections.values():
        for copy, picture in section.pictures.items():
            shutil.copyfile(picture, out / copy)
    titles = ("Section", "What", "Data", "Seeds", "Best accuracy (%)", "Its cost")
    overview = _table(titles, [section.line for section in sections.values()], words=(0, 1, 2, 4))
    page = out / "report.md"
    parts = ["# Report", overview, *(section.page for section in sections.values())]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _read(folder: Path, anchor: str) -> _Section:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    for name, make in ((STARTED, _unfinished), ("results.json", _finished)):
        if (folder / name).exists():
            return make(folder, anchor, folder / name)
    inside = sorted(str(path.parent) for path in folder.glob("*/results.json"))
    hint = f"; did you mean {' '.join(inside)}?" if inside else ""
    raise FileNotFoundError(f"{folder} holds no results.json of compare or sweep{hint}")


def _finished(folder: Path, anchor: str, path: Path) -> _Section:
    with _named(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        points = content.get("points", [content])
        recipes = [point["recipe"] for point in points]
        where = [", ".join(f"{k}={text_of(v)}" for k, v in point.get("values", {}).items()) for point in points]
        rows = [(name, row) for name, point in zip(where, points, strict=True) for row in point["table"]]
        if not rows:
            raise ValueError("its table is empty")
        trained = [(name, row) for name, row in rows if row["accuracy"] is not None]
        accuracy, cost = "all runs diverged", ""
        if trained:
            name, best = max(trained, key=lambda pair: pair[1]["accuracy"]["mean"])
            which = _escape(", ".join(filter(None, (best["label"], name))))
            accuracy = f"{MeanStd(**best['accuracy']).format(2, 100)} ({which})"
            cost = "" if best["cost"] is None else f"{best['cost']:.0f}"
        what = f"comparison of {counted(len(rows), 'method')}"
        if "points" in content:
            swept = {key: dict.fromkeys(text_of(p["values"][key]) for p in points) for key in points[0]["values"]}
            what = "sweep over " + " and ".join(f"{key} ({', '.join(values)})" for key, values in swept.items())
        datasets = dict.fromkeys(recipe["data"]["dataset"] for recipe in recipes)
        fractions = dict.fromkeys(f"{recipe['data']['fraction']:g}" for recipe in recipes)
        line = (
            _escape(what),
            _escape(f"{', '.join(datasets)}, fraction {', '.join(fractions)}"),
            str(recipes[0]["seeds"]),
            accuracy,
            cost,
        )
        # Below the table stand the processor and two versions; here the rest of what it was measured with.
        software = ", ".join(f"{package} {version}" for package, version in content["versions"].items())
        measured = f"{content['machine']['threads']} threads; {software}; {content['date']}"
        command, description = str(content["command"]), _escape(recipes[0]["description"])
    if not (folder / "table.md").exists():
        raise FileNotFoundError(f"{folder} has no table.md; start the command that made it again")
    pictures = {f"pictures/{anchor}-{file}": folder / file for file in _PICTURES if (folder / file).exists()}
    recipe = yaml.safe_dump(recipes[0], sort_keys=False, allow_unicode=True).strip()
    which = f", at {_escape(where[0])}" if where[0] else ""
    parts = [
        description,
        (folder / "table.md").read_text(encoding="utf-8").strip(),
        *(f"![{_PICTURES[picture.name]}]({copy})" for copy, picture in pictures.items()),
        _escape(measured),
        f"```sh\n{command}\n```" if command else "",
        f"<details>\n<summary>Recipe{which}</summary>\n\n```yaml\n{recipe}\n```\n\n</details>",
    ]
    return _section(folder, anchor, line, parts, pictures)


def _unfinished(folder: Path, anchor: str, path: Path) -> _Section:
    with _named(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        points = content.get("points", [{"label": "", "folder": "", **content}])
        runs = [(p["label"], p["folder"], r["label"], r["method"], r["seed"]) for p in points for r in p["runs"]]
        command, description = str(content["command"]), _escape(content["description"])
    lines = []
    for where, inside, label, method, seed in runs:
        numbers = folder / inside / "runs" / f"{method}-seed{seed}.json"
        if numbers.exists():
            with _named(numbers):
                result = json.loads(numbers.read_text(encoding="utf-8"))["result"]
                batch = result.get("diverged")  # no key in files from before it was told
                shown = f"{100 * result['accuracy']:.2f}" if batch is None else f"diverged at batch {batch}"
                cells = shown, f"{result['seconds']:.1f}"
            lines.append((_escape(where), _escape(label), str(seed), *cells))
    methods = {method for _, _, _, method, _ in runs}
    compared = f"comparison of {counted(len(methods), 'method')}"
    what = f"sweep of {counted(len(points), 'point')}" if "points" in content else compared
    state = f"unfinished: {len(lines)} of {counted(len(runs), 'run')}"
    table = _table(("Point", "Method", "Seed", "Accuracy (%)", "Latency (s)"), lines, words=(0, 1))
    how = f" with '{with_out(command, folder)}'" if command else ""
    parts = [description, f"**{state}**; start it again{how}: it goes on with what is there.", table]
    return _section(folder, anchor, (what, "", "", state, ""), parts, {})


def _section(
    folder: Path, anchor: str, line: tuple[str, ...], parts: Sequence[str], pictures: dict[str, Path]
) -> _Section:
    name = _escape(folder.resolve().name)
    page = "\n\n".join([f'<a id="{anchor}"></a>\n\n## {name}', *filter(None, parts)])
    return _Section((f"[{name}](#{anchor})", *line), page, pictures)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the block are those of what is in ``path``."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not what compare or sweep writes ({what}); remove it and start the same command again"
        ) from error


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], words: Sequence[int]) -> str:
    """Lines as a Markdown table, without columns that are empty; nothing without lines."""
    columns = [Column(title, [line[i] for line in lines], i in words) for i, title in enumerate(titles)]
    return Table([column for column in columns if any(column.cells)]).markdown().strip() if lines else ""


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in text)
