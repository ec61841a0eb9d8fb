"""``mixplug report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixplug.checks import expand_home
from mixplug.lab.cli.options import Commands


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "report",
        help="join finished comparisons and sweeps into one Markdown page",
        epilog="example: mixplug report runs/digits runs/digits-sweep-fraction",
    )
    command.add_argument("folders", nargs="+", type=expand_home, metavar="DIR", help="what compare and sweep left")
    command.add_argument(
        "--out", type=expand_home, default=Path("report"), metavar="DIR", help="where it goes (default: report)"
    )
    return command


def run(options: argparse.Namespace) -> None:
    """Write the page."""
    from mixplug.lab.runs.folders import check_out
    from mixplug.lab.studies.report import report

    check_out(options.out)
    print(f"The report is {report(options.folders, options.out)}")
