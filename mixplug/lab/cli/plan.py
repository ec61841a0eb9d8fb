"""``mixplug plan``."""

from __future__ import annotations

import argparse

from mixplug.lab.cli.options import Commands
from mixplug.schedules.phases import Phase, PhasePlan

_MARKS = {Phase.SSL: "░", Phase.MIX: "▓", Phase.SL: "█"}


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser("plan", help="show the phases of a training")
    command.add_argument("--ssl", type=int, required=True, help="epochs of self-supervised learning")
    command.add_argument("--sl", type=int, required=True, help="epochs of supervised learning")
    command.add_argument("--rho", type=float, required=True, help="mix ratio in [0, 1]")
    return command


def run(options: argparse.Namespace) -> None:
    """Print the phases, and draw them."""
    plan = PhasePlan(options.ssl, options.sl, options.rho)
    merged = f"e_mix = floor({options.rho:g} * min({plan.e_ssl}, {plan.e_sl})) = {plan.e_mix}"
    print(f"{plan.total} epochs instead of {plan.e_ssl + plan.e_sl}: {merged} of each are merged")
    for span in plan.phases:
        print(f"  {span.phase.value.upper():3}  epochs {span.start + 1} to {span.stop} ({span.length})")
    print("  " + _bar(plan, 60))


def _bar(plan: PhasePlan, width: int) -> str:
    """The phases as a bar of ``width`` characters, at least one for each."""
    return "".join(_MARKS[span.phase] * max(1, round(width * span.length / plan.total)) for span in plan.phases)
