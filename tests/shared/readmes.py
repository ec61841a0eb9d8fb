"""The READMEs as tests read them: blocks of code, commands, links. Knows no Composer."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
READMES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "recipes").rglob("README.md"), *(ROOT / "mixplug").rglob("README.md"))
)
"""Their paths from the repository's root."""

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A block of code or of what a command prints."""

    readme: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """What a report calls it."""
        return f"{self.readme}: {self.text.splitlines()[0]}"


def read(readme: str) -> str:
    return (ROOT / readme).read_text(encoding="utf-8")


def blocks(readme: str) -> list[Block]:
    """All of a README's blocks, in order."""
    return [Block(readme, language, textwrap.dedent(text)) for _, language, text in _BLOCK.findall(read(readme))]


def block(readme: str, part: str) -> str:
    """The text of the one block that has ``part`` in it."""
    (found,) = [each.text for each in blocks(readme) if part in each.text]
    return found


def spans(readme: str) -> list[str]:
    """What stands in backticks outside of blocks, each in one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(_BLOCK.sub("", read(readme)))]


def run(text: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Execute a block where ``names`` are known, and give all names that are known then."""
    known = dict(names or {})
    exec(compile(text, "README.md", "exec"), known)
    return known
