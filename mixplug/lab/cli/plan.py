"""``mixplug plan``."""

from __future__ import annotations

import argparse
import math
import sys

from mixplug.checks import check_int, check_real, counted
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
    command.add_argument("--images", type=int, help="labelled images: say what each epoch passes over, and the cost")
    command.add_argument(
        "--ssl-images", type=int, help="images of other SSL data (default: SSL sees the labelled ones)"
    )
    command.add_argument("--mixing", choices=("pixels", "side_by_side"), help="how MIX takes other SSL data in")
    command.add_argument(
        "--labelled-share",
        type=float,
        help="side by side, labelled images of a step for each of the others (default: a quarter)",
    )
    command.add_argument(
        "--min-scale", type=float, help="SuperProgressiveLearning's, whose stages are shown for --size"
    )
    command.add_argument("--warmup", type=float, help="its share of self-supervised learning (default: 1/6)")
    command.add_argument("--stages", type=int, help="its stages, the warm-up one of them (default: 6)")
    command.add_argument("--size", type=int, help="side of the images in pixels (default: 224)")
    command.add_argument("--step", type=int, help="stride of the network, or patches' side, in pixels (default: 32)")
    return command


def run(options: argparse.Namespace) -> None:
    """Print the phases, and draw them."""
    plan = PhasePlan(options.ssl, options.sl, options.rho)
    passes, stages = _passes(options), _stages(options, plan)
    merged = f"e_mix = floor({options.rho:g} * min({plan.e_ssl}, {plan.e_sl})) = {plan.e_mix}"
    print(f"{counted(plan.total, 'epoch')} instead of {plan.e_ssl + plan.e_sl}: {merged} of each are merged")
    for span in plan.phases:
        over = f", each over {passes[span.phase][1]}" if passes else ""
        print(f"  {span.phase.value.upper():3}  epochs {span.start + 1} to {span.stop} ({span.length}){over}")
    print("  " + _bar(plan, 60))
    if passes:
        total = sum(span.length * passes[span.phase][0] for span in plan.phases)
        apart = plan.e_ssl * passes[Phase.SSL][0] + plan.e_sl * passes[Phase.SL][0]
        print(f"  {total:,} images are learned from, {apart:,} in SSL and then SL; with all of their tokens that costs")
        # With gradient each is 3 forward passes: what recipes call a cost.
        print(
            f"  {3 * total / options.images:,.0f} forward passes of the plain encoder for each labelled image, and "
            f"{3 * apart / options.images:,.0f}"
        )
    for line in stages:
        print(f"  {line}")


def _stages(options: argparse.Namespace, plan: PhasePlan) -> list[str]:
    """The stages of super progressive learning, in lines; none where it is not asked.

    Raises:
        ValueError: the numbers are out of range, or one is of no use.
    """
    given = {name: getattr(options, name) for name in ("warmup", "stages", "size", "step")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.min_scale is None:
        if given:
            raise ValueError(f"--{next(iter(given))} is SuperProgressiveLearning's: give --min-scale, or leave it out")
        return []
    sizes = check_int("size", given.pop("size", 224), 1), check_int("step", given.pop("step", 32), 1)
    schedule = ResolutionSchedule(options.min_scale, **given)
    stages = [*zip(schedule.sizes(*sizes), schedule.times, strict=True)]
    # Multiples of the step may be the same for two stages.
    new = [stage for number, stage in enumerate(stages) if not number or stage[0] != stages[number - 1][0]]
    return [
        *(f"{size:3} pixels from epoch {time * plan.e_ssl + 1:g} of self-supervised learning" for size, time in new),
        f"{schedule.speedup(*sizes):.2f} times cheaper, where a step costs as its pixels do",
    ]


def _passes(options: argparse.Namespace) -> dict[Phase, tuple[int, str]]:
    """How many images an epoch of each phase has go through the encoder, and in words which; empty if it is not asked.

    Raises:
        ValueError: the numbers do not go together.
    """
    if options.ssl_images is None and options.mixing is not None:
        raise ValueError(f"--mixing {options.mixing} is for other SSL data: give --ssl-images, or leave it out")
    if options.labelled_share is not None and options.mixing != "side_by_side":
        raise ValueError(
            f"--labelled-share {options.labelled_share:g} is for --mixing side_by_side; give that, or leave it out"
        )
    if options.images is None:
        if options.ssl_images is not None:
            raise ValueError(f"--ssl-images {options.ssl_images} goes with the number of labelled ones: give --images")
        return {}
    count = check_int("images", options.images, 1)
    labelled = f"the {count:,} labelled images"
    if options.ssl_images is None:
        return dict.fromkeys(Phase, (count, labelled))
    others = check_int("ssl-images", options.ssl_images, 1)
    more = f"the {others:,} SSL images"
    if options.mixing == "side_by_side":
        share = 0.25 if options.labelled_share is None else options.labelled_share
        check_real("labelled-share", share, 0, math.inf, low_open=True, high_open=True)
        drawn = max(1, round(share * others))
        mixed = others + drawn, f"{more}, with {drawn:,} draws of {labelled} by their side"
    else:
        mixed = count, f"{labelled}, mixed pixel by pixel with {count:,} of {more}"
    return {Phase.SSL: (others, more), Phase.MIX: mixed, Phase.SL: (count, labelled)}


def _bar(plan: PhasePlan, width: int) -> str:
    """The phases as a bar of ``width`` characters, at least one for each."""
    marks = {phase: mark if _can_show(mark) else instead for phase, (mark, instead) in _MARKS.items()}
    return "".join(marks[span.phase] * max(1, round(width * span.length / plan.total)) for span in plan.phases)


def _can_show(mark: str) -> bool:
    encoding = sys.stdout.encoding or "utf-8"
    return mark.encode(encoding, "replace").decode(encoding) == mark
