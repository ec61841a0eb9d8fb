"""Tables of text, for a terminal and for Markdown. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100
"""How many characters of a terminal a table may take before spare columns are left to the file."""


@dataclass(frozen=True)
class Column:
    """A column of text.

    Attributes:
        title: Above it.
        cells: One for each row.
        words: Whether it is words, which go to the left.
        spare: Whether it may be left out where a table gets too wide.
        note: A sentence on what it shows.
    """

    title: str
    cells: Sequence[str]
    words: bool = False
    spare: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Put title and cells in one line each: a label with a newline would break the table."""
        object.__setattr__(self, "title", _one_line(self.title))
        object.__setattr__(self, "cells", [_one_line(cell) for cell in self.cells])


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


@dataclass(frozen=True)
class Table:
    """A table and what to know about it.

    Attributes:
        columns: The columns, of equal length.
        remarks: What to know beside the notes of the columns, a sentence or more each.
    """

    columns: Sequence[Column]
    remarks: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        """What to print below it: the notes of the columns in one line, then the remarks."""
        of_columns = " ".join(dict.fromkeys(column.note for column in self.columns if column.note))
        return [of_columns, *self.remarks] if of_columns else [*self.remarks]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, line by line."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def width(self) -> int:
        """Characters of a line, two between columns."""
        return sum(2 + max(map(len, (column.title, *column.cells))) for column in self.columns) - 2

    def fitted(self, width: int = WIDTH, file: str = "table.md") -> Table:
        """Without as many spare columns, from the right, as make it too wide; a note says in which file they are."""
        table = self
        missing: list[str] = []
        while table.width > width and any(column.spare for column in table.columns):
            last = max(index for index, column in enumerate(table.columns) if column.spare)
            missing.insert(0, table.columns[last].title)
            table = Table([*table.columns[:last], *table.columns[last + 1 :]], self.remarks)
        return Table(table.columns, [*self.remarks, f"In {file} too: {', '.join(missing)}."]) if missing else self

    def markdown(self, *more: str) -> str:
        """The table in Markdown, below it its notes and ``more`` of them."""
        lines = [
            [column.title for column in self.columns],
            ["---" if column.words else "---:" for column in self.columns],
            *self.rows,
        ]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([table, *self.notes, *more]) + "\n"
