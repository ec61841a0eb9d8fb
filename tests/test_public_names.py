"""The public names: one list, on every Python, for people and for type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mixplug

STUB = Path(mixplug.__file__).with_suffix(".pyi")
TYPES_OF_MIXPLUG_ALONE = """
[mypy]
ignore_missing_imports = True
follow_imports = skip
[mypy-mixplug.*]
follow_imports = silent
"""


def run(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)


def test_the_names_are_those_of_the_stub():
    exported = re.findall(r"^from \.[\w.]+ import (\w+) as \1$|^(__version__): str$", STUB.read_text(), re.MULTILINE)
    names = ["".join(either) for either in exported]
    assert len(names) == len(set(names)) > 40
    assert set(mixplug.__all__) == set(names)
    assert dir(mixplug) == sorted(names)


@pytest.mark.skipif(find_spec("composer") is None, reason="no Composer for this Python")
def test_every_name_resolves():
    for name in mixplug.__all__:
        assert getattr(mixplug, name) is vars(mixplug)[name], "found once"


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="module 'mixplug' has no attribute 'MixTrainer'"):
        mixplug.MixTrainer  # noqa: B018


def test_without_composer_a_name_resolves_or_says_on_one_line_what_it_needs():
    code = """
import sys
sys.modules["composer"] = None
import mixplug
for name in mixplug.__all__:
    try:
        getattr(mixplug, name)
    except ImportError as error:
        print(f"{name}: {error}")
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    refused = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    needing = set(re.findall(r"^from \.algorithms[\w.]* import (\w+)", STUB.read_text(), re.MULTILINE))
    assert set(refused) == needing
    assert {"MixTraining", "OnlineKNN"} <= needing
    assert all("`pip install mixplug` with Python 3.10 to 3.12" in message for message in refused.values())


def test_a_type_checker_sees_them_all(tmp_path):
    """Other packages are skipped: the types are ours, and mypy takes 2 s in place of 30."""
    pytest.importorskip("mypy", reason="the dev extra is not installed")
    names = [name for name in mixplug.__all__ if name != "__version__"]
    (tmp_path / "users.ini").write_text(TYPES_OF_MIXPLUG_ALONE)
    (tmp_path / "users.py").write_text(
        f"from mixplug import {', '.join(names)}\n"
        + "".join(f"reveal_type({name})\n" for name in names)
        + 'MixTraining(rho="much")\n'
    )
    done = run("-m", "mypy", "--config-file", "users.ini", "--cache-dir", "cache", "users.py", cwd=tmp_path)
    *notes, error, _ = done.stdout.splitlines()
    seen = dict(zip(names, (line.partition("Revealed type is ")[2] for line in notes), strict=True))
    assert not [name for name, kind in seen.items() if kind in ("", '"Any"')], seen
    assert all("mixplug." in kind for name, kind in seen.items() if name[0].isupper()), seen
    assert 'Argument "rho" to "MixTraining" has incompatible type "str"' in error
