"""The one dependency rule, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mixplug

PACKAGE = Path(mixplug.__file__).parent
CORE = [
    "exporting.py",
    "phases.py",
    "ramps.py",
    "checks.py",
    "losses.py",
    "tasks.py",
    "mixing.py",
    "probing.py",
    "backbones",
    "objectives",
    "data",
    "view_recipes.py",
    "views.py",
]
WITHOUT_TORCH = [
    "phases.py",
    "ramps.py",
    "checks.py",
    "recipes.py",
    "recipe_files.py",
    "paper.py",
    "shorthands.py",
    "grid.py",
    "commands.py",
    "spread.py",
    "table.py",
    "report.py",
    "view_recipes.py",
]


def files_of(names):
    return [
        f
        for name in names
        for f in (sorted((PACKAGE / name).rglob("*.py")) if (PACKAGE / name).is_dir() else [PACKAGE / name])
    ]


def imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", files_of([*CORE, "exporting.py"]), ids=str)
def test_the_core_knows_nothing_of_composer_or_of_what_stands_on_it(path):
    above = ("algorithms", "callbacks", "schedulers", "models", "experiment", "cli")
    banned = ("composer", *(f"mixplug.{name}" for name in above))
    assert not [name for name in imported_by(path) if name.startswith(banned)]


@pytest.mark.parametrize("path", files_of(WITHOUT_TORCH), ids=str)
def test_some_of_it_needs_no_torch(path):
    assert not [name for name in imported_by(path) if name.split(".")[0] in ("torch", "timm", "numpy")]


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


def test_what_needs_torch_loads_no_composer():
    loaded = modules_after("from mixplug import MAE, backbone_of, joint_loss, mixup_ssl, phase_weights, split_logits")
    assert "torch" in loaded
    assert "composer" not in loaded


def test_views_load_kornia_when_they_are_used():
    loaded = modules_after("from mixplug import ViewRecipe, Views; Views('byol')")
    assert "mixplug.views.views" in loaded
    assert not loaded & {"composer", "kornia", "lightly"}


def test_every_public_name_resolves():
    for name in mixplug.__all__:
        assert getattr(mixplug, name) is not None
    assert dir(mixplug) == sorted(mixplug.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MixTrainer'"):
        mixplug.MixTrainer  # noqa: B018
