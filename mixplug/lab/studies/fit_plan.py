"""What a fit decided and how long it took, kept in its folder: interrupted, it goes on by the same decisions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mixplug.lab.recipes.schema import RecipeError
from mixplug.lab.runs.files import write

PLAN = "plan.json"


class FitPlan:
    """Decisions by name, the seconds spent, and what the fit was asked for.

    Args:
        out: The folder, in which ``plan.json`` is made if missing.
        asked: What the decisions depend on, as primitives.
        begun: Whether anything was trained by them; otherwise a plan for something else is forgotten.

    Raises:
        RecipeError: the folder's plan is for something else.
    """

    def __init__(self, out: Path, asked: dict[str, Any], begun: bool = True) -> None:
        self._path = out / PLAN
        asked = json.loads(json.dumps(asked))
        self._content: dict[str, Any] = {"asked": asked, "decided": {}, "spent": 0.0}
        there = asked
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if begun or content["asked"] == asked:
                there, self._content = content["asked"], content
        changed = [name for name in asked if there.get(name) != asked[name]]
        different = [f"{name} was {there.get(name)!r}, now {asked[name]!r}" for name in changed]
        if different:
            raise RecipeError(
                f"{out} holds a fit of something else: {'; '.join(different)}; choose another --out, or start anew "
                f"with --overwrite"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._content["decided"]

    def __getitem__(self, name: str) -> Any:
        return self._content["decided"][name]

    def keep(self) -> None:
        """Write it down, which makes the folder a fit's."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._save()

    def decide(self, **decided: Any) -> None:
        """Keep decisions."""
        self._content["decided"] |= decided
        self._save()

    @property
    def spent(self) -> float:
        """Seconds that the fit has taken, over interruptions."""
        return self._content["spent"]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the time of the block, one that is interrupted too."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._content["spent"] += time.monotonic() - began
            self._save()

    def _save(self) -> None:
        write(self._path, json.dumps(self._content, indent=1))
