"""``mixplug plan``."""

from __future__ import annotations

import argparse
import sys

from mixplug.checks import check_int, counted
from mixplug.lab.cli.options import Commands
from mixplug.schedules.phases import Phase, PhasePlan
from mixplug.schedules.resolution import ResolutionSchedule

_MARKS = {Phase.SSL: ("░", "."), Phase.MIX: ("▓", "+"), Phase.SL: ("█", "#")}
"""What draws a phase, and what does where the terminal's encoding lacks it."""


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "plan", help="show the phases of a training", epilog="example: mixplug plan --ssl 100 --sl 100 --rho 0.5"
    )
    command.add_argument("--ssl", type=int, required=True, help="epochs of self-supervised learning")
    command.add_argument("--sl", type=int, required=True, help="epochs of supervised learning")
    command.add_argument("--rho", type=float, required=True, help="mix ratio in [0, 1]")
    command.add_argument(
        "--min-scale", type=float, help="SuperProgressiveLearning's, whose stages are shown for --size"
    )
    command.add_argument("--warmup", type=float, default=80 / 480, help="its share of self-supervised learning")
    command.add_argument("--stages", type=int, default=6, help="its stages, the warm-up one of them")
    command.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    command.add_argument("--step", type=int, default=32, help="stride of the network, or side of a patch, in pixels")
    return command


def run(options: argparse.Namespace) -> None:
    """Print the phases, and draw them."""
    plan = PhasePlan(options.ssl, options.sl, options.rho)
    merged = f"e_mix = floor({options.rho:g} * min({plan.e_ssl}, {plan.e_sl})) = {plan.e_mix}"
    print(f"{counted(plan.total, 'epoch')} instead of {plan.e_ssl + plan.e_sl}: {merged} of each are merged")
    for span in plan.phases:
        print(f"  {span.phase.value.upper():3}  epochs {span.start + 1} to {span.stop} ({span.length})")
    print("  " + _bar(plan, 60))
    if options.min_scale is not None:
        schedule = ResolutionSchedule(options.min_scale, options.warmup, options.stages)
        sizes = check_int("size", options.size, 1), check_int("step", options.step, 1)
        for time, size in zip(schedule.times, schedule.sizes(*sizes), strict=True):
            print(f"  {size:3} pixels from epoch {time * plan.e_ssl + 1:g} of self-supervised learning")
        print(f"  {schedule.speedup(*sizes):.2f} times cheaper, where a step costs as its pixels do")


def _bar(plan: PhasePlan, width: int) -> str:
    """The phases as a bar of ``width`` characters, at least one for each."""
    marks = {phase: mark if _can_show(mark) else instead for phase, (mark, instead) in _MARKS.items()}
    return "".join(marks[span.phase] * max(1, round(width * span.length / plan.total)) for span in plan.phases)


def _can_show(mark: str) -> bool:
    encoding = sys.stdout.encoding or "utf-8"
    return mark.encode(encoding, "replace").decode(encoding) == mark
