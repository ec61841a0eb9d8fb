"""Finished comparisons and sweeps as one Markdown page with pictures. Needs neither torch nor Composer.

The page is a function of the folders alone: the same ones in the same order give the same page.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.recipes.grid import text_of
from mixplug.lab.runs.folders import STARTED, with_out
from mixplug.lab.runs.mean_std import MeanStd

_PICTURES = {
    "accuracy.png": "Accuracy against what was swept",
    "pareto.png": "Accuracy against training latency",
    "curves.png": "Losses and accuracy over the run",
    "reconstructions.png": "Reconstructions of test images",
}


@dataclass
class Section:
    """One folder's part of the page.

    Attributes:
        folder: Where it is.
        anchor: Its folder's name, made unique and fit for links and files.
        content: What its ``results.json`` says; of an unfinished one its ``started.json``.
        done: How many runs are finished, None where all of them are.
        expected: How many there are to be, None where that is not known.
        runs: The finished runs of an unfinished one: where, method, seed and result.
    """

    folder: Path
    anchor: str
    content: dict[str, Any]
    done: int | None = None
    expected: int | None = None
    runs: list[tuple[str, str, int, dict[str, Any]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.resolve().name

    @property
    def recipes(self) -> list[dict[str, Any]]:
        """The recipe of each point, of a comparison its own; none of an unfinished one."""
        return [part["recipe"] for part in self.content.get("points", [self.content]) if "recipe" in part]

    @property
    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """Every line of the tables, with the point that it is of."""
        parts = self.content.get("points", [self.content])
        return [(_values(part.get("values", {})), row) for part in parts for row in part.get("table", [])]


def report(folders: Sequence[Path], out: Path) -> Path:
    """Join what ``compare`` and ``sweep`` left into ``report.md``, with copies of the pictures beside it.

    Args:
        folders: Their output folders, finished or not, in the order of the page.
        out: A folder, made if missing.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a folder, or something in it, is missing.
        ValueError: a folder is named twice, or holds something else or something damaged.
    """
    sections: list[Section] = []
    for folder in folders:
        if any(folder.resolve() == other.folder.resolve() for other in sections):
            raise ValueError(f"{folder} is named twice; name each folder once")
        sections.append(_read(folder, {section.anchor for section in sections}))
    pages = [_checked_page(section) for section in sections]  # before anything is written
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in _pictures(section):
            shutil.copyfile(section.folder / picture, out / _copy_of(section, picture))
    path = out / "report.md"
    path.write_text("\n\n".join(["# Report", _overview(sections), *pages]) + "\n", encoding="utf-8")
    return path


def _read(folder: Path, taken: set[str]) -> Section:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)
    anchor = next(name for i in itertools.count(1) if (name := base if i == 1 else f"{base}-{i}") not in taken)
    if (folder / STARTED).exists():
        return _read_unfinished(folder, anchor, _json(folder / STARTED))
    if (folder / "results.json").exists():
        content = _json(folder / "results.json")
        parts = content.get("points", [content])
        whole = {"machine", "versions", "date"} <= set(content) and isinstance(parts, list)
        if not whole or not all(isinstance(part, dict) and {"recipe", "table", "runs"} <= set(part) for part in parts):
            raise ValueError(
                f"{folder / 'results.json'} is not what compare or sweep writes; {_again(content, folder)}"
            )
        if not (folder / "table.md").exists():
            raise FileNotFoundError(f"{folder} has no table.md; {_again(content, folder)}")
        return Section(folder, anchor, content)
    if (folder / "runs").is_dir():
        return _read_unfinished(folder, anchor, {})
    if (folder / "history.json").exists():
        raise ValueError(f"{folder} is a single run of 'mixplug train'; a report joins what compare and sweep left")
    inside = sorted(str(path.parent) for path in folder.glob("*/results.json"))
    hint = f"; did you mean {' '.join(inside)}?" if inside else ""
    raise FileNotFoundError(f"{folder} holds no results.json of compare or sweep{hint}")


def _read_unfinished(folder: Path, anchor: str, content: dict[str, Any]) -> Section:
    """What there is of an interrupted comparison or sweep."""
    expected = _expected(folder, content)
    found = []
    for where, runs, method, label, seed in expected:
        path = runs / f"{method}-seed{seed}.json"
        if path.exists():
            result = _json(path).get("result")
            if not isinstance(result, dict) or not all(
                isinstance(result.get(key), int | float) for key in ("accuracy", "seconds")
            ):
                raise ValueError(f"{path} is not a finished run; remove it and {_again(content, folder)}")
            found.append((where, label, seed, result))
    return Section(folder, anchor, content, len(found), len(expected) if content else None, found)


def _expected(folder: Path, content: dict[str, Any]) -> list[tuple[str, Path, str, str, int]]:
    """Every run that is to be: where in the sweep, its folder, method, label and seed."""
    if not content:  # of a version that did not write down what is to come
        content = {"runs": _runs_in(folder / "runs")}
    try:
        points = content.get("points", [{"label": "", "folder": "", **content}])
        return [
            (point["label"], folder / point["folder"] / "runs", run["method"], run["label"], run["seed"])
            for point in points
            for run in point["runs"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / STARTED} is not what compare or sweep writes; {_again(content, folder)}"
        ) from error


def _runs_in(folder: Path) -> list[dict[str, Any]]:
    names = (re.fullmatch(r"(.+)-seed(\d+)", path.stem) for path in sorted(folder.glob("*.json")))
    return [{"method": name[1], "label": name[1], "seed": int(name[2])} for name in names if name]


def _overview(sections: Iterable[Section]) -> str:
    """One line for each section."""
    lines = []
    for section in sections:
        link = f"[{_escape(section.name)}](#{section.anchor})"
        if section.done is not None:
            lines.append((link, _what(section), "", "", _unfinished(section), ""))
            continue
        point, best = max(section.rows, key=lambda line: line[1]["accuracy"]["mean"])
        name = f"{best['label']}, {point}" if point else best["label"]
        lines.append(
            (
                link,
                _what(section),
                _escape(_data(section.recipes)),
                str(section.recipes[0]["seeds"]),
                f"{MeanStd(**best['accuracy']).format(2, 100)} ({_escape(name)})",
                MeanStd(**best["seconds"]).format(1),
            )
        )
    return _table(
        ("Section", "What", "Data", "Seeds", "Best accuracy (%)", "Its latency (s)"), lines, words=(0, 1, 2, 4)
    )


def _checked_page(section: Section) -> str:
    """The section's page and, to be thrown away, its line, so that what is damaged shows by the name of its file."""
    try:
        _overview([section])
        return _page(section)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        path = section.folder / ("results.json" if section.done is None else STARTED)
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not what compare or sweep writes ({what}); {_again(section.content, section.folder)}"
        ) from error


def _page(section: Section) -> str:
    content = section.content
    description = content.get("description") or next((r["description"] for r in section.recipes), "")
    parts = [f'<a id="{section.anchor}"></a>\n\n## {_escape(section.name)}']
    parts += [_escape(description)] if description else []
    if section.done is not None:
        parts += [f"**{_unfinished(section)}**; {_again(content, section.folder)}.", _finished_runs(section)]
        return "\n\n".join(part for part in parts if part)
    parts += [(section.folder / "table.md").read_text(encoding="utf-8").strip()]
    parts += [f"![{_PICTURES[picture]}]({_copy_of(section, picture).as_posix()})" for picture in _pictures(section)]
    parts += [_provenance(section)]
    if content.get("command"):
        parts += [f"```sh\n{content['command']}\n```"]
    recipe = yaml.safe_dump(section.recipes[0], sort_keys=False, allow_unicode=True).strip()
    which = f", at {_escape(section.rows[0][0])}" if "points" in content else ""
    parts += [f"<details>\n<summary>Recipe{which}</summary>\n\n```yaml\n{recipe}\n```\n\n</details>"]
    return "\n\n".join(parts)


def _provenance(section: Section) -> str:
    """Settings, machine and versions, a line each."""
    machine, versions, recipe = section.content["machine"], section.content["versions"], section.recipes[0]
    arguments = ", ".join(f"{key} {value}" for key, value in recipe["model"]["args"].items())
    last_seed = recipe["first_seed"] + recipe["seeds"] - 1
    settings = [
        f"{_data(section.recipes)}, batches of {recipe['data']['batch_size']}",
        recipe["model"]["name"] + (f" ({arguments})" if arguments else ""),
        *dict.fromkeys(f"{r['ssl_duration']} of SSL and {r['sl_duration']} of SL" for r in section.recipes),
        ", ".join(recipe["optimizer"]),
        recipe["precision"],
        f"seeds {recipe['first_seed']} to {last_seed}" if recipe["seeds"] > 1 else f"seed {last_seed}",
    ]
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    computer = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {gpu}{machine['system']}"
    )
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = {"Settings": "; ".join(settings), "Machine": computer, "Versions": f"{software}; {section.content['date']}"}
    return "\n".join(f"- {name}: {_escape(text)}" for name, text in lines.items())


def _finished_runs(section: Section) -> str:
    """The runs that there are, as a table."""
    if not section.runs:
        return ""
    lines = [
        (_escape(where), _escape(label), str(seed), f"{100 * result['accuracy']:.2f}", f"{result['seconds']:.1f}")
        for where, label, seed, result in section.runs
    ]
    return _table(("Point", "Method", "Seed", "Accuracy (%)", "Latency (s)"), lines, words=(0, 1))


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """Lines as a Markdown table, without columns that are empty."""
    columns = (Column(title, [line[i] for line in lines], i in words) for i, title in enumerate(titles))
    return Table([column for column in columns if any(column.cells)]).markdown().strip()


def _what(section: Section) -> str:
    content = section.content
    if "points" in content and section.recipes:
        swept = []
        for key in content["points"][0]["values"]:
            values = dict.fromkeys(text_of(point["values"][key]) for point in content["points"])
            swept.append(f"{key} ({', '.join(values)})")
        return _escape(f"sweep over {' and '.join(swept)}")
    if "points" in content:
        return f"sweep of {len(content['points'])} points"
    methods = {run["method"] for run in content.get("runs", [])}
    return f"comparison of {len(methods)} methods" if methods else "comparison"


def _data(recipes: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(recipe["data"]["dataset"] for recipe in recipes)
    fractions = dict.fromkeys(f"{recipe['data']['fraction']:g}" for recipe in recipes)
    return f"{', '.join(names)}, fraction {', '.join(fractions)}"


def _unfinished(section: Section) -> str:
    of_all = "an unknown number of" if section.expected is None else section.expected
    return f"unfinished: {section.done} of {of_all} runs"


def _again(content: Mapping[str, Any], folder: Path) -> str:
    command = with_out(str(content.get("command") or ""), folder)
    command = f" with '{command}'" if command else ""
    return f"start it again{command}: it goes on with what is there"


def _pictures(section: Section) -> list[str]:
    return [] if section.done is not None else [name for name in _PICTURES if (section.folder / name).exists()]


def _copy_of(section: Section, picture: str) -> Path:
    return Path("pictures") / f"{section.anchor}-{picture}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={text_of(value)}" for key, value in values.items())


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run the same command again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what compare or sweep writes; remove it and run the same command again")
    return content


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in text)
