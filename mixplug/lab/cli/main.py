"""The ``mixplug`` command. Imports torch and Composer only for the commands that train."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mixplug
from mixplug.checks import check_choice, check_int, check_real
from mixplug.views.recipes import VIEW_RECIPES

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 1 for a failure, 130 when interrupted."""
    options = _parse(arguments)
    # Composer says so of every last, smaller batch, which is as it should be.
    warnings.filterwarnings("ignore", message="Cannot split tensor of length")
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("mixplug: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        if options.traceback:
            raise
        print(f"mixplug: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if options.traceback:
            raise
        kind = type(error).__name__
        print(f"mixplug: {kind}: {' '.join(str(error).split())} (--traceback shows where)", file=sys.stderr)
        return FAILED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value may stand before, between and behind them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes key=value in one run of them; what else is left over is refused.
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    if getattr(options, "seeds", None) is not None:
        options.overrides.append(f"seeds={options.seeds}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixplug", description="MixTraining: self-supervised and supervised learning in one run."
    )
    parser.add_argument("--version", action="version", version=f"mixplug {mixplug.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compare = commands.add_parser("compare", help="run a recipe's methods side by side and print the table")
    _add_recipe_arguments(compare)
    compare.add_argument(
        "--seeds", type=int, metavar="N", help="short for seeds=N: how often each method is run (default: the recipe's)"
    )
    compare.set_defaults(run=_compare)

    sweep = commands.add_parser("sweep", help="compare at each of several values of some keys: tables, curves")
    _add_recipe_arguments(sweep, "key=v1,v2", "what to sweep, such as epochs=20,40,80; single values hold throughout")
    sweep.add_argument(
        "--seeds", type=int, metavar="N", help="short for seeds=N: how often each method is run (default: the recipe's)"
    )
    sweep.set_defaults(run=_sweep)

    report = commands.add_parser("report", help="join finished comparisons and sweeps into one Markdown page")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="what compare and sweep left")
    report.add_argument(
        "--out", type=Path, default=Path("report"), metavar="DIR", help="where it goes (default: report)"
    )
    report.set_defaults(run=_report)

    train = commands.add_parser("train", help="run one method of a recipe: checkpoint, history, pictures")
    _add_recipe_arguments(train)
    train.add_argument("--method", help="key of the method (default: the recipe's last)")
    train.add_argument("--seed", type=int, help="the seed (default: the recipe's first)")
    train.set_defaults(run=_train)

    probe = commands.add_parser("probe", help="judge a checkpoint's representations: nearest neighbours, linear probe")
    probe.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt of a training, or an exported .safetensors"
    )
    _add_recipe_arguments(probe, out=False)
    probe.add_argument("--method", help="key of the method that was trained (default: the recipe's last)")
    probe.add_argument("--seed", type=int, help="seed that it was trained with (default: the recipe's first)")
    probe.add_argument("--k", type=int, default=20, help="neighbours that vote (default: 20)")
    probe.set_defaults(run=_probe)

    views = commands.add_parser("views", help="draw a batch of a recipe's images and random views of them")
    _add_recipe_arguments(views)
    views.add_argument(
        "--method", help="key of the method whose objective's views to draw (default: the recipe's last)"
    )
    views.add_argument("--views", metavar="NAME", help=f"draw those of this name instead: {', '.join(VIEW_RECIPES)}")
    views.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    views.add_argument("--magnitude", type=float, default=1.0, help="of the views, 0 to 1 (default: %(default)s)")
    views.add_argument(
        "--no-blur", action="store_true", help="with --views: leave blur out, as is usual for small images"
    )
    views.add_argument("--local-size", type=int, metavar="PIXELS", help="also draw local crops of this size")
    views.set_defaults(run=_views)

    bench = commands.add_parser("bench", help="measure what each phase of each method of a recipe costs")
    _add_recipe_arguments(bench)
    bench.add_argument("--device", help="cpu, gpu or mps (default: the recipe's, or what there is)")
    bench.add_argument("--turns", type=int, help="how often everything has its turn (default: 12, with --quick 6)")
    bench.add_argument("--steps", type=int, default=4, help="timed steps in a turn of each (default: %(default)s)")
    bench.add_argument(
        "--quick", action="store_true", help="a self-check in a minute: no memory, exit code 1 if a ratio is far off"
    )
    bench.add_argument(
        "--scaling",
        action="store_true",
        help="how one method's step grows with tokens, depth, batch size and mask ratio instead: table, plots",
    )
    bench.add_argument(
        "--method", help="with --scaling: key of the method (default: the last with MAE(mask='input'), or the last)"
    )
    bench.add_argument(
        "--processes",
        type=int,
        default=0,
        metavar="N",
        help="with --scaling: measure N processes against one too, a thread each, on the CPU (default: no)",
    )
    bench.set_defaults(run=_bench)

    plan = commands.add_parser("plan", help="show the phases of a training")
    plan.add_argument("--ssl", type=int, required=True, help="epochs of self-supervised learning")
    plan.add_argument("--sl", type=int, required=True, help="epochs of supervised learning")
    plan.add_argument("--rho", type=float, required=True, help="mix ratio in [0, 1]")
    plan.set_defaults(run=_plan)

    recipes = commands.add_parser("recipes", help="list the recipes that are shipped")
    recipes.set_defaults(run=_recipes)
    for command in (compare, sweep, report, train, probe, views, bench, plan, recipes):
        command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def _add_recipe_arguments(
    command: argparse.ArgumentParser,
    metavar: str = "key=value",
    meaning: str = "settings to change, such as data.fraction=0.5, or the short epochs=50, fraction=, alpha=, rho=",
    out: bool = True,
) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    command.add_argument("overrides", nargs="*", default=[], metavar=metavar, help=meaning)
    if out:
        command.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: under runs/)")


def _compare(options: argparse.Namespace) -> None:
    from mixplug.lab.runs.folders import check_out, command_line

    recipe = _load(options)
    console = _console()
    out = options.out or _default_out(options)
    check_out(out, "comparison")
    count = len(recipe.methods) * recipe.seeds
    console.print(f"{recipe.description}: {len(recipe.methods)} methods, {recipe.seeds} seeds, {count} runs")
    with _progress_bar(console) as progress:
        from mixplug.lab.pages.tables import comparison_table
        from mixplug.lab.studies.compare import compare

        command = command_line("compare", options.recipe, options.overrides)
        comparison = compare(recipe, out, console.print, progress, command)
    _print_table(console, comparison_table(comparison))
    console.print(f"Results, table and pictures are in {out}")


def _sweep(options: argparse.Namespace) -> None:
    from mixplug.lab.recipes.grid import grid_points, read_points
    from mixplug.lab.runs.folders import check_out

    grid = grid_points(options.overrides)
    # What can be found wrong without torch is found before it is loaded.
    recipes = read_points(options.recipe, grid)
    console = _console()
    keys = "-".join(key.rpartition(".")[2] for key in grid[0].values)
    out = options.out or _default_out(options, f"-sweep-{keys}")
    check_out(out, "sweep")
    count = sum(len(recipe.methods) * recipe.seeds for recipe in recipes)
    console.print(
        f"{recipes[0].description}: {len(grid)} points, {len(recipes[0].methods)} methods, {recipes[0].seeds} seeds, "
        f"{count} runs"
    )
    with _progress_bar(console) as progress:
        from mixplug.lab.pages.tables import sweep_listing
        from mixplug.lab.studies.sweep import sweep

        finished = sweep(options.recipe, options.overrides, out, console.print, progress)
    _print_table(console, sweep_listing(finished))
    console.print(f"Results, table and pictures are in {out}, those of each point in a folder of its own")


def _report(options: argparse.Namespace) -> None:
    from mixplug.lab.runs.folders import check_out
    from mixplug.lab.studies.report import report

    check_out(options.out)
    page = report(options.folders, options.out)
    print(f"The report is {page}")


def _print_table(console: Console, table: Any, file: str = "table.md") -> None:
    from rich.table import Table

    # Five columns in the 80 characters of a plain terminal: no lines, two spaces between.
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")
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


def _train(options: argparse.Namespace) -> None:
    from mixplug.lab.runs.folders import check_out

    recipe = _load(options)
    method = options.method or list(recipe.methods)[-1]
    seed = recipe.first_seed if options.seed is None else options.seed
    out = options.out or _default_out(options, f"-{method}-seed{seed}")
    check_out(out)
    console = _console()
    with _progress_bar(console) as progress:
        from mixplug.lab.studies.train import train

        result = train(recipe, method, seed, out, progress)
    console.print(
        f"{recipe.methods[method].label}, seed {seed}: accuracy {100 * result.accuracy:.2f}% after "
        f"{result.seconds:.1f} s of training; checkpoint, history and pictures are in {out}"
    )


def _probe(options: argparse.Namespace) -> None:
    recipe = _load(options)
    k = check_int("--k", options.k, 1)
    if not options.checkpoint.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {str(options.checkpoint)!r}; mixplug train leaves one, checkpoint.pt, in its --out"
        )
    method = options.method or list(recipe.methods)[-1]
    seed = recipe.first_seed if options.seed is None else options.seed
    console = _console()
    from mixplug.lab.studies.probe import probe, probe_table

    _print_table(console, probe_table(probe(options.checkpoint, recipe, method, seed, k), k))


def _views(options: argparse.Namespace) -> None:
    from mixplug.lab.runs.folders import check_out

    recipe = _load(options)
    if options.views is not None:
        check_choice("--views", options.views, VIEW_RECIPES)
        if options.method is not None:
            raise ValueError(f"give --views {options.views} or --method {options.method}, not both")
    elif options.no_blur:
        raise ValueError("--no-blur goes with --views; a recipe's own views say blur: false themselves")
    count = check_int("--count", options.count, 1)
    check_real("--magnitude", options.magnitude, 0, 1)
    local_size = 0 if options.local_size is None else check_int("--local-size", options.local_size, 2)
    out = options.out or _default_out(options, "-views")
    check_out(out)
    from mixplug.lab.studies.views import objective_of, write_views
    from mixplug.views.views import Views

    method = options.method or list(recipe.methods)[-1]
    views = Views(options.views, blur=not options.no_blur) if options.views else objective_of(recipe, method).views
    path = write_views(recipe, views, options.views or method, out, count, options.magnitude, local_size)
    print(f"The picture is {path}")


def _bench(options: argparse.Namespace) -> int:
    from mixplug.lab.runs.folders import bench_command, check_out

    recipe = _load(options)
    if options.device is not None:
        recipe.device = options.device
    usual = 6 if options.quick else 12
    turns = usual if options.turns is None else check_int("--turns", options.turns, 1)
    steps = check_int("--steps", options.steps, 1)
    _check_scaling_options(options)
    out = options.out or _default_out(options, "-bench")
    check_out(out)
    console = _console()
    if options.scaling:
        _bench_scaling(options, recipe, turns, steps, out, console)
        return 0
    console.print(f"{recipe.description}: {len(recipe.methods)} methods, {turns} turns of {steps} steps of each phase")
    with _progress_bar(console) as progress:
        from mixplug.lab.bench.measure import measure
        from mixplug.lab.bench.outputs import measured_with, write_outputs
        from mixplug.lab.bench.pages import step_table, target_table, training_table
        from mixplug.lab.bench.targets import GENEROUS, STRICT, targets

        measured = measure(recipe, turns, steps, whole=not options.quick, report=progress)
    more = ["--quick"] if options.quick else []
    measured.command = bench_command(options.recipe, options.overrides, options.device, turns, steps, *more)
    judged = targets(measured, GENEROUS if options.quick else STRICT)
    write_outputs(measured, judged, out)
    for table in (step_table(measured), training_table(measured), target_table(judged)):
        if table.rows:
            _print_table(console, table, "bench.md")
            console.print()
    console.print(measured_with(measured).strip())
    console.print(f"Everything is in {out}")
    return FAILED if options.quick and not all(target.met for target in judged) else 0


def _check_scaling_options(options: argparse.Namespace) -> None:
    if options.scaling and options.quick:
        raise ValueError(
            "--scaling and --quick do not go together: --quick is a self-check of all methods without memory; leave "
            "one of them out, and for a shorter --scaling set --turns and --steps"
        )
    if not options.scaling:
        for name, given in (("--method", options.method is not None), ("--processes", options.processes != 0)):
            if given:
                raise ValueError(f"{name} goes with --scaling; without it, all methods are measured in one process")
    elif options.processes:
        check_int("--processes", options.processes, 2)


def _bench_scaling(
    options: argparse.Namespace, recipe: Any, turns: int, steps: int, out: Path, console: Console
) -> None:
    from mixplug.lab.runs.folders import bench_command

    with _progress_bar(console) as progress:
        from mixplug.lab.bench.outputs import growth_measured_with, write_growth
        from mixplug.lab.bench.scaling.efficiency import measure_processes
        from mixplug.lab.bench.scaling.measure import measure_scaling
        from mixplug.lab.bench.scaling.pages import growth_table, left_out_lines, processes_table

        growth = measure_scaling(recipe, turns, steps, options.method, progress)
        more = ["--scaling", "--method", growth.method]
        if options.processes:
            more += ["--processes", str(options.processes)]
        growth.command = bench_command(options.recipe, options.overrides, options.device, turns, steps, *more)
        write_growth(growth, out)
        if options.processes:  # what was measured before is kept if a process fails
            growth.processes = measure_processes(
                recipe, growth.method, options.processes, turns, steps, report=progress
            )
            write_growth(growth, out)
    console.print(f"{growth.recipe}: {growth.label}, {growth.phase.upper()}")
    _print_table(console, growth_table(growth), "scaling.md")
    for line in left_out_lines(growth):
        console.print(line)
    console.print()
    if growth.processes is not None:
        _print_table(console, processes_table(growth.processes))
        console.print()
    console.print(growth_measured_with(growth).strip())
    console.print(f"Everything is in {out}")


def _plan(options: argparse.Namespace) -> None:
    from mixplug.schedules.phases import PhasePlan

    plan = PhasePlan(options.ssl, options.sl, options.rho)
    merged = f"e_mix = floor({options.rho:g} * min({plan.e_ssl}, {plan.e_sl})) = {plan.e_mix}"
    print(f"{plan.total} epochs instead of {plan.e_ssl + plan.e_sl}: {merged} of each are merged")
    for span in plan.phases:
        print(f"  {span.phase.value.upper():3}  epochs {span.start + 1} to {span.stop} ({span.length})")
    print("  " + _bar(plan, 60))


def _bar(plan: Any, width: int) -> str:
    """The phases as a bar of ``width`` characters, at least one for each."""
    marks = {"ssl": "░", "mix": "▓", "sl": "█"}
    return "".join(marks[span.phase.value] * max(1, round(width * span.length / plan.total)) for span in plan.phases)


def _recipes(options: argparse.Namespace) -> None:
    from mixplug.lab.recipes.files import describe, shipped_recipes

    for name, path in shipped_recipes().items():
        print(f"{name}: {describe(path)}")
    print("Run one with: mixplug compare NAME [key=value ...]")


def _load(options: argparse.Namespace) -> Any:
    from mixplug.lab.recipes.schema import load_recipe

    return load_recipe(options.recipe, options.overrides)


def _default_out(options: argparse.Namespace, suffix: str = "") -> Path:
    """Under runs/, by the recipe's name: a shipped one's whole name, since small/cifar10 is another than cifar10."""
    from mixplug.lab.recipes.files import shipped_name

    return Path("runs") / f"{shipped_name(options.recipe) or Path(options.recipe).stem}{suffix}"


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def _progress_bar(console: Console) -> Iterator[Any]:
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


if __name__ == "__main__":
    sys.exit(main())
