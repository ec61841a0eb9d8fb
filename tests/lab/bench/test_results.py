from __future__ import annotations

import json

import pytest
from shared.hand_made import bench, cost, loop, pair

from mixplug.lab.bench.pages import parts_chart, parts_table, step_table, training_table
from mixplug.lab.bench.results import Bench, Loop, Quartiles, StepCost, ratios


def test_quartiles():
    quartiles = Quartiles.of([1, 2, 3, 4, 5])
    assert quartiles == (3, 2, 4)
    assert quartiles.format(".1f", 10) == "30.0 (20.0 to 40.0)"


def test_ratios_are_of_the_medians_of_each_turn():
    assert ratios([[2, 4, 100], [9, 9]], [[2, 2, 2], [3, 3]]) == Quartiles.of([2, 3])


def test_a_training_costs_its_steps():
    made = bench(*pair(), cost("sl", "sl"))
    assert made.methods == ["ssl_sl", "mix", "sl"]
    assert made.work("ssl_sl") == 100 * 10 * 18 + 100 * 10 * 6
    assert made.work("mix") == 100 * 10 * 18
    assert made.seconds("ssl_sl") == pytest.approx(400)
    assert made.seconds("mix") == pytest.approx(300)
    assert made.turns == 2
    assert made.supervised is made.of("sl")[0]


def test_where_operations_change_within_a_phase_their_mean_counts():
    stage = cost("mix", "mix", forward=[1.0, 3.0], backward=[2.0, 6.0])
    assert stage.flops == [3, 9]
    assert stage.work == 100 * 10 * 6


def test_the_share_of_the_ideal():
    # 24 units of work against 18: ideally 4/3 as fast. It takes 400 s against 300 s in one turn, 600 s in the other.
    made = bench(*pair(seconds=(3.0, 6.0)))
    assert made.of_ideal("mix", "ssl_sl") == pytest.approx(Quartiles.of([1, 0.5]))


def test_each_turn_is_held_to_its_own_operations():
    # Half the work at first, and half the time.
    made = bench(*pair(seconds=(1.5, 3.0), forward=[3.0, 6.0], backward=[6.0, 12.0]))
    assert made.of_ideal("mix", "ssl_sl") == pytest.approx((1, 1, 1))


def test_baselines():
    made = bench(
        cost("sl", "sl"),
        *pair(),
        cost("other", "mix", "MAE (input)", 0.5),
        cost("switch", "sl", None, 0.0),
    )
    assert [made.baseline_of(m) for m in made.methods] == [None, "ssl_sl", "ssl_sl", None, None]
    assert made.papers == "ssl_sl"
    assert bench(cost("sl", "sl", None, 0.5)).supervised is None
    assert bench(cost("sl", "sl")).papers is None


def test_over_the_loop():
    stage = cost("sl", "sl", seconds=(1.0, 3.0), loop="a")
    made = bench(stage, cost("x", "sl"), loops={"a": loop(0.5, 1.0)})
    assert made.over_loop(stage) == pytest.approx(Quartiles.of([2, 3]))
    assert made.over_loop(made.stages[1]) is None


def test_all_of_it_is_kept(tmp_path):
    parts = {"data": 0.1, "forward": 0.9}
    made = bench(*pair(loop="a", parts=parts, peak=3, held=4, others=["EMA"]), loops={"a": loop(1.0, 2.0)})
    made.command = "mixplug bench x"
    made.write(tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text())
    read["stages"] = [StepCost(**stage) for stage in read["stages"]]
    read["loops"] = {key: Loop(**kept) for key, kept in read["loops"].items()}
    assert Bench(**read) == made


def test_the_tables():
    made = bench(
        cost("sl", "sl", loop="a", peak=2**20, held=2**21),
        *pair(loop="b", peak=0),
        loops={"a": loop(1.0, 1.0), "b": loop(2.0, 2.0, label="mixplug's functions")},
    )
    cells = {column.title: list(column.cells) for column in step_table(made).columns}
    assert cells["Phase"] == ["SL", "SSL", "SL", "MIX"]
    assert cells["Images/s"] == ["10", "3", "10", "3"]
    assert cells["Over loop"] == ["1.000 (1.000 to 1.000)", "-", "-", "1.500 (1.500 to 1.500)*"]
    assert cells["Memory (MiB)"] == ["2.0 + 1.0", "0.0 + 0.0", "0.0 + 0.0", "0.0 + 0.0"]
    cells = {column.title: list(column.cells) for column in training_table(made).columns}
    assert cells["Steps"] == ["100 SL", "100 SSL + 100 SL", "100 MIX"]
    assert cells["Ideal"] == cells["Measured"] == ["-", "1.00x", "1.33x"]
    assert cells["Of ideal"] == ["-", "-", "1.000 (1.000 to 1.000)"]
    assert cells["Over the paper's"] == ["4.00x", "1.00x", "1.33x"]


def test_parts_of_steps():
    made = bench(cost("mix", "mix", parts={"data": 0.001, "forward": 0.25}))
    cells = {column.title: list(column.cells) for column in parts_table(made).columns}
    assert cells == {"Method": ["MIX"], "Phase": ["MIX"], "data (ms)": ["1.00"], "forward (ms)": ["250.00"]}
    (axes,) = parts_chart(made).axes
    assert [bar.get_width() for bar in axes.patches] == [1, 250]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MIX, MIX"]
