from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from shared.fake_runs import fake_comparison, fake_run, fake_sweep

from mixplug.lab.cli.console import print_table
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.pages.tables import comparison_table, measured, sweep_listing, sweep_table
from mixplug.lab.runs.results import Comparison, RunResult

PAPER = ("paper=cifar10", "data.dataset=cifar10")
MULTITASK = ("paper=multitask_cifar10_svhn", "tasks={cifar10: {dataset: cifar10}, svhn: {dataset: svhn}}")


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


def test_five_columns_without_figures_of_the_paper():
    table = comparison_table(fake_comparison())
    assert titles(table) == ["Method", "Accuracy (%)", "Latency (s)", "Speedup", "SSL+MIX+SL"]
    assert table.notes == ["Latency: training, evaluation excluded. Speedup: over the SSL+SL with the same objective."]
    assert table.rows[0] == ("SL", "50.75 ± 0.07", "0.1 ± 0.0", "", "0+0+2 ep")
    assert "over 2 seeds" in measured(fake_comparison())


def test_the_papers_figures_beside_ours():
    table = comparison_table(fake_comparison(*PAPER, "fraction=0.1"))
    assert titles(table)[-2:] == ["Paper (%)", "Paper (s)"]
    assert column(table, "Paper (%)") == ["53.40", "56.79", "60.45"]
    assert column(table, "Paper (s)") == ["589.44", "1253.65", "962.16"]
    assert table.notes[1].startswith("Paper: Li et al., Table 1: CIFAR-10, 10% of the images, 100 epochs of each kind")
    assert "ViT-T, batch 256, one RTX 6000 Ada" in table.notes[1]
    assert table.width <= 100


def test_epochs_that_the_paper_has_are_compared_with_its_own():
    table = comparison_table(fake_comparison(*PAPER, "fraction=0.1", "epochs=50"))
    assert column(table, "Paper (%)") == ["53.28", "54.75", "57.60"]
    assert "Table 6: CIFAR-10, 10% of the images, 50 epochs" in table.notes[1]


def test_a_fraction_that_the_paper_does_not_have():
    table = comparison_table(fake_comparison(*PAPER, "fraction=0.2"))
    assert "Paper (%)" not in titles(table)
    assert table.notes[1] == "Paper: Li et al. report no figure for these settings."


@pytest.mark.parametrize(
    ("overrides", "data"),
    [
        (["data.dataset=digits"], "digits"),
        (["data.dataset=cifar100"], "cifar100"),
        (["data.dataset=cifar10", "ssl_data={dataset: svhn}"], "SSL on svhn, SL on cifar10"),
        (["tasks={a: {dataset: cifar10}, b: {dataset: svhn}}"], "cifar10 and svhn"),
    ],
)
def test_beside_other_data_stand_no_figures(overrides, data):
    table = comparison_table(fake_comparison("paper=cifar10", "fraction=0.1", *overrides))
    assert "Paper (%)" not in titles(table)
    assert table.notes[1] == (
        f"Paper: Li et al.'s figures for CIFAR-10 are not shown beside other data ({data}); "
        f"images that are the paper's may be given as dataset: image_folder, which keeps them."
    )


def test_a_folder_of_images_may_hold_the_papers_data():
    table = comparison_table(fake_comparison("paper=cifar10", "fraction=0.1", "data.dataset=image_folder"))
    assert column(table, "Paper (%)") == ["53.40", "56.79", "60.45"]
    assert table.notes[1].endswith("They compare if the images are those of the paper (CIFAR-10).")
    assert "They compare if" not in comparison_table(fake_comparison(*PAPER, "fraction=0.1")).notes[1]


def test_a_sweep_over_data_sets_has_figures_beside_the_papers_alone():
    table = sweep_table(fake_sweep("data.dataset=cifar10,digits", "fraction=0.1", "paper=cifar10"))
    assert column(table, "Paper: SL (%)") == ["53.40", ""]
    assert "not shown beside other data (digits)" in table.notes[2]


def test_tasks_have_columns_of_their_own():
    table = comparison_table(fake_comparison(tasks=("cifar10", "svhn")))
    assert titles(table)[:4] == ["Method", "Accuracy (%)", "cifar10 (%)", "svhn (%)"]
    assert table.rows[0][1:4] == ("50.75 ± 0.07", "45.75 ± 0.07", "55.75 ± 0.07")


def test_tasks_and_the_paper():
    table = comparison_table(fake_comparison(*MULTITASK, "fraction=0.1", tasks=("cifar10", "svhn")))
    assert column(table, "Paper (%)") == ["51.53", "60.76", "70.11"]
    assert column(table, "Paper cifar10 (%)") == ["55.20", "59.02", "63.44"]
    assert column(table, "Paper svhn (%)") == ["47.86", "62.49", "76.77"]
    assert "Tables 3 and 12" in table.notes[1]
    assert table.fitted().width <= 104
    assert table.fitted().notes[-1].startswith("In table.md too: ")


def test_older_results_without_tasks_can_be_read():
    numbers = fake_run(fake_comparison().recipe, "mix", 0).numbers()
    assert numbers.pop("task_accuracies") == {}
    assert RunResult(**json.loads(json.dumps(numbers))).task_accuracies == {}


def test_a_pass_for_both_heads_without_phases_is_not_the_papers_sl():
    comparison = fake_comparison(*PAPER, "fraction=0.1")
    runs = {k: replace(r, rho=None, lengths={"mix": 2}) if k[0] == "mix" else r for k, r in comparison.runs.items()}
    assert column(comparison_table(Comparison(comparison.recipe, runs)), "Paper (%)") == ["53.40", "56.79", ""]


def test_a_sweep_in_the_layout_of_the_paper():
    table = sweep_table(fake_sweep("epochs=50,100", *PAPER, "fraction=0.1"))
    assert titles(table) == [
        "epochs",
        "SL (%)", "SL (s)",
        "SSL+SL (%)", "SSL+SL (s)",
        "MixTraining (%)", "MixTraining (s)", "MixTraining, speedup",
        "Paper: SL (%)", "Paper: SL (s)",
        "Paper: SSL+SL (%)", "Paper: SSL+SL (s)",
        "Paper: MixTraining (%)", "Paper: MixTraining (s)",
        "Paper: table",
    ]  # fmt: skip
    assert table.rows == [
        (
            "50", "56.05 ± 0.07", "5.0 ± 0.0", "61.05 ± 0.07", "10.1 ± 0.1", "58.55 ± 0.07", "7.5 ± 0.1",
            "1.33 ± 0.00x", "53.28", "287.83", "54.75", "637.27", "57.60", "473.80", "6",
        ),
        (
            "100", "61.05 ± 0.07", "10.1 ± 0.1", "71.05 ± 0.07", "20.1 ± 0.1", "66.05 ± 0.07", "15.1 ± 0.1",
            "1.33 ± 0.00x", "53.40", "589.44", "56.79", "1253.65", "60.45", "962.16", "6",
        ),
    ]  # fmt: skip
    assert "50 and 100 epochs of each kind" in table.notes[1]


def test_a_sweep_in_lines():
    table = sweep_listing(fake_sweep("epochs=50,100", *PAPER, "fraction=0.1"))
    assert titles(table)[:2] == ["epochs", "Method"]
    assert column(table, "epochs") == ["50", "", "", "100", "", ""]
    assert column(table, "Method") == ["SL", "SSL+SL", "MixTraining"] * 2
    assert column(table, "Paper (%)") == ["53.28", "54.75", "57.60", "53.40", "56.79", "60.45"]
    assert column(table, "Table") == ["6"] * 6


@pytest.mark.parametrize(
    ("arguments", "figures"),
    [
        # Table 4, which has rho = 0.75, whatever rho ours has; no figure for values that it lacks.
        (["alpha=0.01,0.2,0.5"], {"SL": ["81.52"] * 3, "MixTraining": ["79.61", "", "85.75"]}),
        # Table 5, not Table 1, so that its lines can be compared with each other.
        (["rho=0.25,0.5,0.6"], {"SL": ["81.52"] * 3, "MixTraining": ["85.49", "85.54", ""]}),
        (["rho=0,0.5"], {"SSL+SL": ["84.69"] * 2, "MixTraining": ["", "85.54"]}),
        (["fraction=0.1,0.3,1"], {"SL": ["53.40", "", "81.52"], "MixTraining": ["60.45", "", "87.13"]}),
        (["epochs=20,100"], {"SL": ["", "81.52"], "MixTraining": ["", "87.13"]}),
        # What varies counts, not what it is called.
        (["methods.mix.algorithms.0.MixTraining.rho=0.25,0.6"], {"MixTraining": ["85.49", ""]}),
        (["sl_duration=20ep,100ep", "ssl_duration=20ep"], {"SL": ["", "81.52"], "MixTraining": None}),
        (["epochs=50,75", "fraction=0.1,1"], {"SL": ["53.28", "80.78", "53.07", "81.59"]}),
    ],
)
def test_which_figures_stand_beside_a_sweep(arguments, figures):
    defaults = [f for f in ("fraction=1", "epochs=100") if not any(f.split("=")[0] in a for a in arguments)]
    if any("duration" in a for a in arguments):
        defaults.remove("epochs=100")
    table = sweep_table(fake_sweep(*arguments, *defaults, *PAPER))
    for kind, expected in figures.items():
        if expected is None:
            assert f"Paper: {kind} (%)" not in titles(table)
        else:
            assert column(table, f"Paper: {kind} (%)") == expected


def test_the_note_on_alpha_says_which_rho_the_paper_has():
    table = sweep_table(fake_sweep("alpha=0.1,0.9", "fraction=1", *PAPER))
    assert "alpha = 0.1 and 0.9, rho = 0.75;" in table.notes[1]


def test_a_method_with_a_ramp_is_not_compared_with_a_constant_alpha(tmp_path):
    sweep = fake_sweep("alpha=0.1,{Ramp: {start: 1, stop: 0}}", "fraction=1", *PAPER)
    assert column(sweep_table(sweep), "Paper: MixTraining (%)") == ["82.19", ""]


def test_tasks_in_a_sweep():
    sweep = fake_sweep("epochs=50,75", "fraction=0.1", *MULTITASK, tasks=("cifar10", "svhn"))
    table = sweep_table(sweep)
    assert titles(table)[:5] == ["epochs", "SL (%)", "SL, cifar10 (%)", "SL, svhn (%)", "SL (s)"]
    assert column(table, "Paper: SL, svhn (%)") == ["38.98", "44.64"]
    assert column(table, "Paper: SL (s)") == ["526.70", "818.64"]
    assert "taken here" in table.notes[1]
    assert {"cifar10 (%)", "svhn (%)"} <= set(titles(sweep_listing(sweep)))


def test_a_narrow_terminal_gets_every_character():
    console = Console(file=io.StringIO(), width=40, soft_wrap=True)
    print_table(console, comparison_table(fake_comparison(*PAPER, "fraction=0.1")))
    printed = console.file.getvalue()
    assert "…" not in printed
    for text in ("SSL+MIX+SL", "Paper (s)", "MixTraining", "1253.65", "4 runs."):
        assert text in printed
