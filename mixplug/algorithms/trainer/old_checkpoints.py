"""Checkpoints from before settings were names and values, read as those of today.

There numbers, schedules and objectives were what ``repr`` made of them, and the optimizer's settings were
PhaseSwitch's own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from mixplug.objectives.settings import describe

Parts = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Settings and progress of each part of an algorithm, by the part's name."""


def modernised(parts: Parts) -> Parts:
    """``parts`` with the optimizer's settings in a part of their own, as in checkpoints of today."""
    switch = dict(parts.get("PhaseSwitch", {}).get("settings", {}))
    if "optimizer_overrides" not in switch:
        return parts
    overrides, reset = read_repr(switch.pop("optimizer_overrides"), None), switch.pop("reset_optimizer")
    settings = {"overrides": overrides or None, "reset": reset} if overrides or reset else {}
    return {
        **parts,
        "PhaseSwitch": {**parts["PhaseSwitch"], "settings": switch},
        "OptimizerSettings": {"settings": settings, "progress": {}},
    }


def read_repr(text: str, value: Any) -> Any:
    """What :func:`mixplug.objectives.settings.describe` would make of what ``text`` is the ``repr`` of.

    Args:
        text: In one line.
        value: Today's, in whose favour counts that its ``repr`` is the same: that of a user's own objective may tell
            some of its settings only.
    """
    if text == " ".join(repr(value).split()):
        return describe(value)
    # Of a module, torch's repr has the settings, then the submodules: of those the views are a setting. The others are
    # heads, which the settings decide.
    text = re.sub(r" \((?!views\b)\w+\): .*", " )", text)
    text = re.sub(r" \(views\): ", ", views=", text)
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return text


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {"name": node.func.id, **{str(keyword.arg): _value(keyword.value) for keyword in node.keywords}}
    if isinstance(node, (ast.Tuple, ast.List)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)
