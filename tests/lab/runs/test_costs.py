"""What runs of a recipe cost, and recipes whose length is a cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixplug import PhasePlan, backbone_of
from mixplug.backbones.costs import counting_flops, encoder_flops
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
DROPOUT = "methods.drop={algorithms: [{TokenDropout: {rate: 0.5}}]}"
PURE = "methods.pure={algorithms: [{PhaseSwitch: {ssl_duration: 0ep, sl_duration: 3ep}}]}"
AUTO = "methods.auto={algorithms: [{AutoCompression: {rates: [0.75, 0.5], sub_batch: 4, share: 0.3, over: run}}]}"
RESIZED = "methods.resized={algorithms: [{ProgressiveResizing: {}}]}"


def experiment(method, *overrides):
    made = Experiment(load_recipe(TINY, ["model.args.dynamic_img_size=true", *overrides]), method, 0)
    made.trainer.close()
    return made


def test_each_method_has_a_cost_and_dropout_lowers_it():
    sl, drop, mix = (experiment(method, DROPOUT) for method in ("sl", "drop", "mix"))
    assert sl.plan == PhasePlan(0, sl.max_duration.value, 0)
    # Two and a half of four patches are kept, and the class token.
    assert 0.5 < drop.cost / sl.cost < 0.8
    assert mix.cost > 0


def test_what_is_chosen_in_the_run_has_a_cost_when_it_is_over():
    made = Experiment(load_recipe(TINY, [AUTO, "pictures=0"]), "auto", 0)
    assert made.cost is None
    auto = made.algorithms[0].amendment
    result = made.run()
    plain = experiment("sl").cost
    assert auto.spent > 0
    assert result.cost == pytest.approx(result.lengths["sl"] * (auto.trained + auto.spent) / auto.images)
    assert 0.5 * plain < result.cost < plain


def test_at_a_cost_what_is_chosen_in_the_run_counts_as_it_begins():
    dropout = DROPOUT.replace("0.5", "0.75")
    measured, fixed = (experiment(method, AUTO, dropout, "max_cost=60") for method in ("auto", "drop"))
    assert measured.cost is None
    # It begins with the same dropout, and may spend 0.3 of what that costs on measuring.
    assert measured.max_duration.value == pytest.approx(fixed.max_duration.value / 1.3, abs=1)


def test_a_schedule_of_compression_has_a_cost():
    stages = "{0: [0.75, 4], 0.5: [0.0, 4]}"
    schedule = f"{{CompressionSchedule: {{stages: {stages}, over: run}}}}"
    cost = experiment("short", f"methods.short={{algorithms: [{{Compression: {{schedule: {schedule}}}}}]}}").cost
    assert 0.5 * experiment("sl").cost < cost < experiment("sl").cost


def test_other_algorithms_make_a_cost_that_is_not_known():
    assert experiment("resized", RESIZED).cost is None


@pytest.mark.parametrize("method", ["sl", "drop", "mix", "pure"])
@pytest.mark.parametrize("max_cost", [20, 55.5])
def test_a_cost_in_place_of_a_length(method, max_cost):
    made = experiment(method, DROPOUT, PURE, f"max_cost={max_cost}")
    assert made.cost <= max_cost
    one_more = experiment(method, DROPOUT, PURE, f"max_cost={2 * max_cost}")
    assert one_more.cost > made.cost
    assert made.max_duration.value == made.plan.total
    ratio = {"mix": 1, "pure": 0}.get(method, 0)
    assert made.plan.e_ssl == ratio * made.plan.e_sl, "the proportions stay"


def test_the_same_cost_is_more_epochs_with_dropout():
    sl, drop = (experiment(method, DROPOUT, "max_cost=60") for method in ("sl", "drop"))
    assert drop.max_duration > sl.max_duration
    assert sl.cost == pytest.approx(60, rel=0.06)
    assert drop.cost == pytest.approx(60, rel=0.06)


def test_operations_are_a_cost_times_the_images():
    sl = experiment("sl", "max_cost=60")
    flops = 60 * sl.run_cost.encoder_flops * 45
    assert experiment("mix", f"max_flops={flops}").plan == experiment("mix", "max_cost=60").plan


def test_a_run_of_a_cost_trains_that_long():
    made = Experiment(load_recipe(TINY, ["max_cost=12", "pictures=0"]), "mix", 0)
    result = made.run()
    assert sum(result.lengths.values()) == made.plan.total
    assert result.cost == made.cost <= 12
    assert result.flops == pytest.approx(result.cost * made.run_cost.encoder_flops * 45)
    assert result.test_images == 898


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["max_cost=0.001"], "max_cost must be at least"),
        (["max_cost=0"], r"max_cost must be a number in \(0, inf\)"),
        (["max_cost=20", "ssl_duration=9ba", "sl_duration=9ba"], "max_cost is for durations in epochs"),
        (["max_flops=-1"], r"max_flops must be a number in \(0, inf\)"),
        (["max_minutes=3"], "max_minutes=3 becomes a cost by timed steps in compare, sweep, train and show alone"),
    ],
)
def test_bad_costs(overrides, says):
    with pytest.raises(ValueError, match=says):
        experiment("mix", *overrides)


SIDE = (
    "methods.side={algorithms: [{MixTraining: {mixing: side_by_side, labelled_per_step: 4, ssl_duration: 4ep, "
    "sl_duration: 4ep, objective: {MAE: {mask: input}}}}%s]}"
)


@pytest.mark.parametrize("more", ["", ", {PseudoLabels: {weight: 1.0}}"], ids=["alone", "and pseudo-labels"])
def test_side_by_side_costs_its_passes_over_the_other_images(more):
    recipe = load_recipe(TINY, [SIDE % more, "ssl_data={same: true, fraction: 0.2}", "data.batch_size=16"])
    made = Experiment(recipe, "side", 0)
    assert len(made.algorithms) == 1 + bool(more)
    labelled, others = (made.inputs.summary[key]["training_images"] for key in ("data", "ssl_data"))
    assert (labelled, others) == (45, 180)
    made.trainer.state.evaluators = []
    with counting_flops() as counter:
        made.trainer.fit()
    plain = encoder_flops(backbone_of(made.model), made.inputs.shape)
    # The last batch of a pass over the others is smaller, and has as many labelled images.
    assert made.cost == pytest.approx(counter.get_total_flops() / plain / labelled, rel=0.02)


@pytest.mark.parametrize("exact", [False, True])
def test_a_run_with_exact_microbatches_costs_what_it_computes(exact):
    """As side by side: against what a whole run is seen to compute."""
    objective = "objective: {SimCLR: {hidden_dim: 16, out_dim: 8}}"
    method = f"methods.pure={{algorithms: [{{FusedBackbonePass: {{exact_microbatches: {exact}, {objective}}}}}]}}"
    made = Experiment(load_recipe(TINY, [method]), "pure", 0)
    made.trainer.state.evaluators = []
    with counting_flops() as counter:
        made.trainer.fit()
    plain = encoder_flops(backbone_of(made.model), made.inputs.shape)
    images = made.inputs.summary["data"]["training_images"]
    assert made.cost == pytest.approx(counter.get_total_flops() / plain / images, rel=0.03)


def test_an_epoch_of_ssl_as_long_as_a_labelled_one_costs_as_much():
    costs = {}
    for epoch in ("data", "labelled"):
        made = experiment("mix", f"ssl_data={{same: true, epoch: {epoch}}}", "data.fraction=0.05")
        assert made.trainer.state.algorithms[0].mixup_ssl_data.ssl_epoch == epoch
        costs[epoch] = made.run_cost.passes
    assert costs["data"]["ssl"] == pytest.approx(20 * costs["labelled"]["ssl"], rel=0.05)
    assert costs["data"]["sl"] == costs["labelled"]["sl"]
