"""What a benchmark leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from mixplug.bench.charts import parts_chart
from mixplug.bench.results import Bench
from mixplug.bench.tables import parts_table, step_table, target_table, training_table
from mixplug.bench.targets import Target


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


def measured_with(bench: Bench) -> str:
    """A line on how, with what and where."""
    machine, versions = bench.environment["machine"], bench.environment["versions"]
    turns, steps = bench.turns, len(bench.stages[0].blocks[0])
    parts = [
        f"`{bench.command}`" if bench.command else "",
        f"{turns} turns of {steps} steps",
        machine["gpu"] or machine["processor"],
        f"{machine['threads']} threads",
        f"torch {versions['torch']}",
        f"Composer {versions['mosaicml']}",
        bench.environment["date"],
    ]
    return ", ".join(filter(None, parts)) + "\n"
