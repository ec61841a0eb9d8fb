"""What ends work too early: Ctrl-C and signals, which say what was kept, and errors, which say whose they are."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mixplug.algorithms.trainer.divergence import DivergedError
from mixplug.lab.recipes.files import RecipeError

_CODES = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""What Composer makes of the signals: it exits."""

GO_ON = "the same command goes on from there"


class Interrupted(KeyboardInterrupt):
    """Work was interrupted.

    Attributes:
        kept: What there is to go on from, in a sentence without its full stop.
        code: The exit code: 128 and the signal's number.
    """

    def __init__(self, kept: str, code: int = 128 + signal.SIGINT) -> None:
        super().__init__(kept)
        self.kept, self.code = kept, code


@contextmanager
def saying_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    """Have an interruption of the block say what ``kept`` returns then.

    Raises:
        Interrupted: there was one.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
        if isinstance(stop, Interrupted) or not isinstance(code, int) or code not in _CODES:
            raise
        raise Interrupted(kept(), code) from stop


class RunError(RuntimeError):
    """A run failed."""


@contextmanager
def naming_run(name: str) -> Iterator[None]:
    """Have the errors of the block say which run they are of.

    Raises:
        RunError: of any error that is neither bad input nor the system's.
    """
    try:
        yield
    except RecipeError:
        raise  # of a folder or the recipe
    except DivergedError as error:
        raise DivergedError(f"{name}: {error}", error.batch, error.terms) from error
    except (ValueError, TypeError, OSError) as error:
        kind = next(k for k in (OSError, TypeError, ValueError) if isinstance(error, k))
        raise kind(f"{name}: {error}") from error
    except Exception as error:
        raise RunError(f"{name}: {type(error).__name__}: {error}") from error
