"""What a command shows: lines, tables and how far it is; and the exit codes it ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mixplug.lab.pages.columns import Table

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143


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
def show_progress(console: Console) -> Iterator[Callable[[float, float, str], None]]:
    """A function (done, total, text) that shows how far a run is, while the block runs.

    In a terminal of 80 characters a run has two lines: its name, which is what stands before the text's last colon, and
    below it a bar, the rest of the text and the time left.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class NamedProgress(Progress):
        """Bars below the name of what they are about."""

        name = ""

        def get_renderables(self) -> Iterator[Any]:
            if self.name:
                yield Text(self.name, no_wrap=True, overflow="ellipsis")
            yield self.make_tasks_table(self.tasks)

    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        TimeRemainingColumn(compact=True),
    )
    with NamedProgress(*columns, console=console, transient=True, disable=not console.is_terminal, expand=True) as bar:
        task = bar.add_task("loading torch and Composer", total=None)

        def show(done: float, total: float, text: str) -> None:
            name, _, status = text.rpartition(": ")
            if name != bar.name or bar.tasks[0].completed > done or bar.tasks[0].total != total:
                # Another run: its time left has nothing to do with the last one's, nor with where it goes on.
                bar.name = name
                bar.reset(task, total=total, completed=done, description=status)  # type: ignore[arg-type]
            else:
                bar.update(task, completed=done, description=status)

        yield show


def make_lines(console: Console) -> Callable[[str], None] | None:
    """What prints a line at the end of each epoch: outside of a terminal, where there are no bars."""
    return None if console.is_terminal else console.print
