"""Projection and prediction heads: lightly's, brought in when they are needed."""

from __future__ import annotations

from typing import Any


def lightly(module: str) -> Any:
    """The module ``lightly.<module>``.

    Raises:
        ImportError: lightly is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"lightly.{module}")
    except ImportError as error:
        raise ImportError(
            f"objectives of two views take their heads from lightly, which cannot be imported ({error}): "
            f"pip install 'mixplug[views]'"
        ) from error


def heads() -> Any:
    """The module of lightly's heads."""
    return lightly("models.modules.heads")
