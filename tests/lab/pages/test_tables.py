from __future__ import annotations

import io
import json

from rich.console import Console
from shared.fake_runs import fake_comparison, fake_run, fake_sweep

from mixplug.lab.cli.console import print_table
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.tables import comparison_table, measured, sweep_listing, sweep_table
from mixplug.lab.runs.results import RunResult

EXPECT = "expect={source: 'Li et al., Table 1', accuracy: {sl: 53.4, mix: 60.45}}"


def titles(table):
    return [column.title for column in table.columns]


def column(table, title):
    return list(next(c for c in table.columns if c.title == title).cells)


def test_markdown():
    table = Table([Column("a", ["x|y", "z"], words=True), Column("b", ["1", "22"], note="Note.")], ["Remark."])
    assert table.markdown("More.") == (
        "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n| z | 22 |\n\nNote.\n\nRemark.\n\nMore.\n"
    )


def test_a_line_break_is_shown_as_a_space():
    table = Table([Column("a\nb", ["x\ny", "z"], words=True)])
    assert table.markdown() == "| a b |\n| --- |\n| x y |\n| z |\n"
    assert table.width == 3


def test_a_table_that_is_too_wide_leaves_spare_columns_to_the_file():
    columns = [
        Column("a" * 10, ["1"]),
        Column("b" * 10, ["1"], spare=True, note="B."),
        Column("c" * 10, ["1"], spare=True),
    ]
    table = Table(columns, ["Remark."])
    assert table.width == 34
    assert table.fitted(34) is table
    assert titles(table.fitted(33)) == ["a" * 10, "b" * 10]
    assert table.fitted(33).notes == ["B.", "Remark.", f"In table.md too: {'c' * 10}."]
    assert titles(table.fitted(1)) == ["a" * 10]
    assert table.fitted(1).notes == ["Remark.", f"In table.md too: {'b' * 10}, {'c' * 10}."]


def test_columns_without_expectations_accuracy_and_cost_first():
    table = comparison_table(fake_comparison())
    assert titles(table) == ["Method", "Accuracy (%)", "Cost", "GFLOPs", "Speedup", "Latency (s)", "SSL+MIX+SL"]
    (note,) = table.notes
    assert note.endswith("SSL+SL with the same objective. Latency: training, evaluation excluded.")
    assert table.rows[0] == ("SL", "50.75 ± 0.07", "6", "6", "", "0.1 ± 0.0", "0+0+2 ep")
    assert table.rows[2] == ("MixTraining", "50.85 ± 0.07", "9", "9", "1.33x", "0.2 ± 0.0", "1+1+1 ep")
    assert "over 2 seeds" in measured(fake_comparison())


def test_at_equal_cost_there_is_no_speedup():
    assert "Speedup" not in titles(comparison_table(fake_comparison("cost=10")))


def test_a_busy_machine_is_said_to_be_one():
    compared = fake_comparison()
    assert not comparison_table(compared).remarks
    for run in compared.runs.values():
        run.cpu_seconds = run.seconds / 3.8
    (remark,) = comparison_table(compared).remarks
    assert "wall time is 3.8 times CPU time" in remark


def test_seeds_are_counted_where_methods_have_different_ones():
    compared = fake_comparison()
    del compared.runs["sl", 1]
    table = comparison_table(compared)
    assert column(table, "Seeds") == ["1", "2", "2"]
    assert column(table, "Accuracy (%)")[0] == "50.70"


def test_what_others_report_beside_ours():
    table = comparison_table(fake_comparison(EXPECT))
    assert titles(table)[-1] == "Expected (%)"
    assert column(table, "Expected (%)") == ["53.40", "", "60.45"]
    assert table.notes[0].endswith("Expected: Li et al., Table 1.")
    assert table.width <= 100
    assert "Expected (%)" not in titles(comparison_table(fake_comparison(EXPECT, "methods=[ssl_sl]")))


def test_tasks_have_columns_of_their_own():
    table = comparison_table(fake_comparison(tasks=("cifar10", "svhn")))
    assert titles(table)[:4] == ["Method", "Accuracy (%)", "cifar10 (%)", "svhn (%)"]
    assert table.rows[0][1:4] == ("50.75 ± 0.07", "45.75 ± 0.07", "55.75 ± 0.07")


def test_probes_have_columns_of_their_own():
    compared = fake_comparison("methods=[ssl_sl]")
    for run in compared.runs.values():
        run.probes = {"linear": 0.5, "knn200": 0.25}
    assert titles(comparison_table(compared))[:4] == ["Method", "Accuracy (%)", "Linear probe (%)", "kNN, k=200 (%)"]
    for run in compared.runs.values():
        run.lengths = {"ssl": 5}
    table = comparison_table(compared)
    assert titles(table)[:3] == ["Method", "Linear probe (%)", "kNN, k=200 (%)"]
    assert table.rows[0][1:3] == ("50.00 ± 0.00", "25.00 ± 0.00")


def test_older_results_without_tasks_can_be_read():
    numbers = fake_run(fake_comparison().recipe, "mix", 0).numbers()
    assert numbers.pop("task_accuracies") == numbers.pop("probes") == {}
    assert RunResult(**json.loads(json.dumps(numbers))).task_accuracies == {}


def test_the_methods_of_a_sweep_side_by_side():
    table = sweep_table(fake_sweep("epochs=50,100", "fraction=0.1", EXPECT))
    assert titles(table) == [
        "epochs",
        "SL (%)", "SL (s)",
        "SSL+SL (%)", "SSL+SL (s)",
        "MixTraining (%)", "MixTraining (s)", "MixTraining, speedup",
    ]  # fmt: skip
    assert table.rows == [
        (
            "50", "56.05 ± 0.07", "5.0 ± 0.0", "61.05 ± 0.07", "10.1 ± 0.1", "58.55 ± 0.07", "7.5 ± 0.1",
            "1.33x",
        ),
        (
            "100", "61.05 ± 0.07", "10.1 ± 0.1", "71.05 ± 0.07", "20.1 ± 0.1", "66.05 ± 0.07", "15.1 ± 0.1",
            "1.33x",
        ),
    ]  # fmt: skip


def test_a_sweep_in_lines():
    table = sweep_listing(fake_sweep("epochs=50,100", "fraction=0.1"))
    assert titles(table) == ["epochs", "Method", "Accuracy (%)", "Cost", "Latency (s)", "Speedup"]
    assert column(table, "epochs") == ["50", "", "", "100", "", ""]
    assert column(table, "Method") == ["SL", "SSL+SL", "MixTraining"] * 2


def test_tasks_in_a_sweep():
    sweep = fake_sweep("epochs=50,75", "fraction=0.1", tasks=("cifar10", "svhn"))
    table = sweep_table(sweep)
    assert titles(table)[:5] == ["epochs", "SL (%)", "SL, cifar10 (%)", "SL, svhn (%)", "SL (s)"]
    assert {"cifar10 (%)", "svhn (%)"} <= set(titles(sweep_listing(sweep)))


def test_a_narrow_terminal_gets_every_character():
    console = Console(file=io.StringIO(), width=40, soft_wrap=True)
    print_table(console, comparison_table(fake_comparison(EXPECT)))
    printed = console.file.getvalue()
    assert "…" not in printed
    for text in ("SSL+MIX+SL", "Expected (%)", "MixTraining", "60.45", "Li et al., Table 1."):
        assert text in printed
