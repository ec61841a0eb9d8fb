"""Seconds as people say them. Pure Python."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 20 s``, ``2 h 05 min`` or ``3 d 04 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    for unit, size, below, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        whole, rest = divmod(round(seconds / part), size // part)
        if unit == "d" or whole < (60 if unit == "min" else 24):
            return f"{whole} {unit} {rest:02} {below}"
    raise AssertionError("days have no end")
