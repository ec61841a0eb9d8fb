"""What a command shows: lines, tables and how far it is; and the exit codes it ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mixplug.lab.pages.columns import Table

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def make_console() -> Console:
    """A console that prints text as it stands, whatever brackets are in it."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_table(console: Console, table: Table, file: str = "table.md") -> None:
    """Print a table and its notes; ``file`` is where columns that did not fit are said to be."""
    from rich.table import Table as RichTable

    # Five columns in the 80 characters of a plain terminal: no lines, two spaces between.
    shown = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")
    fitted = table.fitted(file=file)
    for column in fitted.columns:
        shown.add_column(column.title, justify="left" if column.words else "right", no_wrap=True)
    for row in fitted.rows:
        shown.add_row(*row)
    # A terminal that is too narrow breaks lines; rich would cut the cells.
    console.width = max(console.width, fitted.width)
    console.print(shown)
    for note in fitted.notes:
        console.print(note)


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A function (done, total, text) that shows how far a run is, while the block runs."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading torch and Composer", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
