"""What a benchmark leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixplug.lab.bench.charts import growth_chart, parts_chart
from mixplug.lab.bench.pages import parts_table, step_table, target_table, training_table
from mixplug.lab.bench.results import Bench
from mixplug.lab.bench.scaling.growth import Growth
from mixplug.lab.bench.scaling.pages import growth_table, left_out_lines, processes_table
from mixplug.lab.bench.targets import Target


def write_outputs(bench: Bench, judged: list[Target], out: Path) -> None:
    """Leave ``bench.json``, ``bench.md`` and, where parts of steps were measured, ``parts.png`` in ``out``.

    Args:
        bench: What was measured.
        judged: Its targets.
        out: A folder, made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    bench.write(out / "bench.json")
    tables = [("Steps", step_table(bench)), ("Trainings", training_table(bench)), ("Targets", target_table(judged))]
    if any(stage.parts for stage in bench.stages):
        tables.insert(1, ("Parts of a step", parts_table(bench)))
        parts_chart(bench).savefig(out / "parts.png")
    sections = [f"## {title}\n\n{table.markdown()}" for title, table in tables if table.rows]
    (out / "bench.md").write_text("\n".join([f"# {bench.recipe}\n", *sections, measured_with(bench)]), encoding="utf-8")


def write_growth(growth: Growth, out: Path) -> None:
    """Leave ``scaling.json``, ``scaling.md`` and ``scaling.png`` in ``out``.

    Args:
        growth: What was measured.
        out: A folder, made if missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    growth.write(out / "scaling.json")
    growth_chart(growth).savefig(out / "scaling.png")
    sections = [f"# {growth.recipe}: how the cost of {growth.label}'s {growth.phase.upper()} step grows\n"]
    sections += [growth_table(growth).markdown(), "![Step time and memory](scaling.png)\n"]
    if growth.left_out:
        sections.append("\n".join(f"- {line}" for line in left_out_lines(growth)) + "\n")
    if growth.processes is not None:
        sections.append(f"## {growth.processes.count} processes against one\n")
        sections.append(processes_table(growth.processes).markdown())
    (out / "scaling.md").write_text("\n".join([*sections, growth_measured_with(growth)]), encoding="utf-8")


def measured_with(bench: Bench) -> str:
    """A line on how, with what and where."""
    return _line(bench.command, bench.turns, len(bench.stages[0].blocks[0]), bench.environment)


def growth_measured_with(growth: Growth) -> str:
    """See :func:`measured_with`."""
    blocks = [point.blocks for point in growth.points]
    return _line(growth.command, len(blocks[0]), max(len(block[0]) for block in blocks), growth.environment)


def _line(command: str, turns: int, steps: int, environment: dict[str, Any]) -> str:
    machine, versions = environment["machine"], environment["versions"]
    parts = [
        f"`{command}`" if command else "",
        f"{turns} turns of {steps} steps",
        machine["gpu"] or machine["processor"],
        f"{machine['threads']} threads",
        f"torch {versions['torch']}",
        f"Composer {versions['mosaicml']}",
        environment["date"],
    ]
    return ", ".join(filter(None, parts)) + "\n"
