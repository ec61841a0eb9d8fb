"""Who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import mixplug

PACKAGE = Path(mixplug.__file__).parent
ROOMS = ["checks", "schedules", "views", "data", "backbones", "objectives", "training", "algorithms", "lab"]
"""Each may import those before it. Only the last one may import ``mixplug`` itself, whose names come from all rooms."""

WITH_COMPOSER = {"algorithms", "lab"}
PURE_PYTHON = {"checks", "schedules"}


def room_of(path: Path, package: Path) -> str:
    """The folder, or the file's own name where it lies in none; ``python -m mixplug`` is the lab's command."""
    name = path.relative_to(package).parts[0].removesuffix(".py")
    return "lab" if name == "__main__" else name


def imports_of(path: Path, package: Path) -> set[str]:
    """The dotted names that a file of mixplug imports anywhere, inside functions and for type checkers too."""
    here = ["mixplug", *path.relative_to(package).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            names |= {".".join([*module, alias.name]) for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    """The rooms that imported names lie in; a public name, or ``mixplug`` itself, lies in "mixplug"."""
    parts = [name.split(".") for name in names if name.split(".")[0] == "mixplug"]
    return {of[1] if len(of) > 1 and of[1] in ROOMS else "mixplug" for of in parts}


def broken_rules(package: Path) -> list[str]:
    """A line for each import that the order of the rooms forbids."""
    broken = []
    for path in sorted(package.rglob("*.py")):
        if path == package / "__init__.py":
            continue
        room, names = room_of(path, package), imports_of(path, package)
        if room not in ROOMS:
            broken.append(f"{path}: {room} is no room")
            continue
        allowed = {*ROOMS[: ROOMS.index(room) + 1], *(["mixplug"] if room == "lab" else [])}
        others = {name.split(".")[0] for name in names} - {"mixplug"}
        if room not in WITH_COMPOSER:
            broken += [f"{path}: {room} imports {name}" for name in sorted(others & {"composer", "torchmetrics"})]
        if room in PURE_PYTHON:
            broken += [f"{path}: {room} imports {name}" for name in sorted(others - sys.stdlib_module_names)]
        broken += [f"{path}: {room} imports {other}" for other in sorted(rooms_of(names) - allowed)]
    return broken


def longest_chain(package: Path) -> list[str]:
    """The rooms of the longest chain of imports, each importing the next: the floors of the house.

    Raises:
        graphlib.CycleError: Rooms import each other.
    """
    imported: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        room = room_of(path, package)
        imported.setdefault(room, set()).update(rooms_of(imports_of(path, package)) - {room, "mixplug"})
    chains: dict[str, list[str]] = {}
    for room in graphlib.TopologicalSorter(imported).static_order():
        below = max((chains[other] for other in imported.get(room, ())), key=len, default=[])
        chains[room] = [room, *below]
    return max(chains.values(), key=len)


def test_each_room_imports_earlier_ones_alone():
    assert broken_rules(PACKAGE) == []


def test_the_house_has_no_more_floors_than_rooms():
    chain = longest_chain(PACKAGE)
    assert chain[0] == "lab"
    assert chain[-1] == "checks"
    assert len(chain) <= len(ROOMS), chain


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("views/views.py", "from mixplug.data.images import read", "views imports data"),
        ("views/views.py", "def f():\n    from mixplug import data", "views imports data"),
        ("views/views.py", "from ..data.images import read", "views imports data"),
        ("views/views.py", "from mixplug import MixTraining", "views imports mixplug"),
        ("algorithms/part.py", "import mixplug.lab.cli", "algorithms imports lab"),
        ("training/step.py", "from composer.core import State", "training imports composer"),
        ("data/loaders.py", "import torchmetrics", "data imports torchmetrics"),
        ("schedules/phases.py", "import torch.nn", "schedules imports torch"),
        ("checks.py", "import numpy as np", "checks imports numpy"),
        ("attic/box.py", "", "attic is no room"),
    ],
)
def test_what_breaks_the_rule_is_found(tmp_path, file, line, told):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(line)
    assert broken_rules(tmp_path) == [f"{tmp_path / file}: {told}"]


def test_what_the_rule_allows_is_not(tmp_path):
    (tmp_path / "__init__.py").write_text("from mixplug.lab import cli")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "run.py").write_text("import composer, torch\nfrom mixplug import MAE\nfrom . import result")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images.py").write_text("import torch\nfrom mixplug.views import mixing\nfrom .order import f")
    (tmp_path / "checks.py").write_text("import math")
    assert broken_rules(tmp_path) == []


def test_files_are_read_and_written_in_utf_8():
    """Without an encoding they would be in the locale's."""
    names = {"read_text", "write_text", "open"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names:
                call = ast.unparse(node)
                assert "encoding='utf-8'" in call or "'rb'" in call or "'wb'" in call or ".open(" in call, (path, call)


@pytest.mark.slow
def test_tests_of_rooms_without_composer_import_none():
    code = """
import sys
sys.modules["composer"] = None
import pytest
sys.exit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stdout
    for room in set(ROOMS) - WITH_COMPOSER - {"checks"}:
        assert f"tests/{room}/" in done.stdout


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def quietly(*arguments: str) -> str:
    return (
        "import contextlib, io\nfrom mixplug.lab.cli.main import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({list(arguments)!r})"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import mixplug",
        "from mixplug import Phase, PhasePlan, Ramp",
        quietly("--help"),
        quietly("plan", "--ssl", "10", "--sl", "10", "--rho", "0.5"),
        quietly("recipes"),
        quietly("report", "nowhere"),
        quietly("sweep", "digits", "epochs=0,1"),
    ],
)
def test_what_needs_no_torch_loads_none(code):
    loaded = modules_after(code)
    assert "mixplug" in loaded
    assert not loaded & {"torch", "composer", "timm"}


def test_views_need_torch_alone():
    loaded = modules_after("import torch; from mixplug import Views; Views('byol')(torch.rand(2, 3, 8, 8))")
    assert "mixplug.views.views" in loaded
    assert not loaded & {"composer", "kornia", "lightly"}
