"""The ``mixplug`` command: the parser of all commands, and what becomes of errors.

Each command is a module with ``add(commands)``, which adds its parser and returns it, and ``run(options)``, which may
return an exit code. A module loads torch, Composer, rich and the like in ``run`` alone, when it needs them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mixplug
from mixplug.checks import did_you_mean
from mixplug.lab.cli import (
    bench,
    compare,
    export,
    fit,
    gradient_error,
    lr_range,
    plan,
    predict,
    probe,
    recipes,
    report,
    show,
    sweep,
    train,
    views,
)
from mixplug.lab.cli.console import BAD_INPUT, FAILED, INTERRUPTED, TERMINATED

COMMANDS = (
    fit,
    compare,
    sweep,
    report,
    train,
    export,
    predict,
    probe,
    show,
    gradient_error,
    lr_range,
    views,
    bench,
    plan,
    recipes,
)
"""In the order of ``mixplug --help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 1 for a failure, 130 when interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # no encoding of a terminal is worth a run; stderr does so by itself
    options = _parse(arguments)
    try:
        _refuse_several_processes(options.command.prog)
        with _short_warnings():
            return options.run(options) or 0
    except (KeyboardInterrupt, SystemExit) as stop:  # Composer makes the latter of the signals of Ctrl-C and schedulers
        code = getattr(stop, "code", INTERRUPTED)
        if code not in (INTERRUPTED, TERMINATED):
            raise
        kept = getattr(stop, "kept", "start the same command again")
        print(f"mixplug: interrupted; {kept}", file=sys.stderr)
        return code
    except (ValueError, TypeError, OSError) as error:
        if options.traceback:
            raise
        print(f"mixplug: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if options.traceback:
            raise
        kind, text = type(error).__name__, " ".join(str(error).split())
        if isinstance(error, ImportError) and error.name == "composer":
            text = "this command needs Composer: run `pip install mixplug` with Python 3.10 to 3.12"
        print(f"mixplug: {kind}: {text} (--traceback shows where)", file=sys.stderr)
        return FAILED


def _refuse_several_processes(command: str) -> None:
    """Several would write the same files, and measure nothing that a table could hold."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise ValueError(
            f"{command} runs in one process, and was started as one of {count} (WORLD_SIZE={count}); start it "
            f"without `composer -n` or torchrun. A Trainer with mixplug's algorithms takes several processes"
        )


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Have each warning of the block said once, in one line, without the file that it comes from."""
    said = set()

    def say(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in said:
            said.add(line)
            print(f"mixplug: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = say
        # Composer says so of every last, smaller batch, which is as it should be.
        warnings.filterwarnings("ignore", message="Cannot split tensor of length")
        yield


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value may stand before, between and behind them."""
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes key=value in one run of them; what else is left over is refused.
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        known = re.findall(r"--[\w-]+", options.command.format_help())
        wrong = next((word for word in rest if word.startswith("-")), "")
        options.command.error(f"unrecognized arguments: {' '.join(rest)}{did_you_mean(wrong, known) if wrong else ''}")
    if rest:
        options.overrides += rest
    if getattr(options, "seeds", None) is not None:
        options.overrides.append(f"seeds={options.seeds}")
    return options


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations: ``--seed 3`` is not ``--seeds 3``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mixplug", description="MixTraining: self-supervised and supervised learning in one run.")
    parser.add_argument("--version", action="version", version=f"mixplug {mixplug.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        command = module.add(commands)
        command.add_argument("--traceback", action="store_true", help="show where an error comes from")
        command.set_defaults(run=module.run, command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
