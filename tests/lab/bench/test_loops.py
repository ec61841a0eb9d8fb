"""The loop beside a phase has its arithmetic, and is written by hand where that can be."""

from __future__ import annotations

import itertools

import pytest
import torch
from shared.small_recipes import mixtraining, on_trainer, stage_of, tiny

from mixplug.backbones.costs import counting_flops
from mixplug.lab.bench.loops import FunctionLoop, PlainLoop, loop_for
from mixplug.lab.bench.watches import FlopWatch
from mixplug.lab.runs.experiment import Experiment
from mixplug.schedules.phases import Phase

VIEWS = "views: {Views: {recipe: simsiam, blur: false}}"
SIMSIAM = f"{{objective: {{SimSiam: {{hidden_dim: 8, out_dim: 8, bottleneck_dim: 4, {VIEWS}}}}}}}"
RAMP = "{Ramp: {start: 0.75, stop: 0.25}}"


def loops_of(*overrides, method="mix"):
    experiment = Experiment(tiny(*overrides), method, 0)
    return {phase.value: loop_for(experiment, method, phase) for phase in Phase}


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ("{}", (PlainLoop, PlainLoop)),
        ("{alpha: 0.9, objective: {MAE: {mask: input, fused: false, decoder_depth: 1}}}", (PlainLoop, PlainLoop)),
        (f"{{alpha: {RAMP}}}", (PlainLoop, FunctionLoop)),
        ("{alpha: 1}", (PlainLoop, FunctionLoop)),
        ("{alpha: 0}", (PlainLoop, FunctionLoop)),
        (f"{{objective: {{MAE: {{mask_ratio: {RAMP}}}}}}}", (FunctionLoop, FunctionLoop)),
        ("{objective: {MAE: {mask_ratio: 0.9}}}", (FunctionLoop, FunctionLoop)),
        ("{objective: {MAE: {norm_pix: true}}}", (FunctionLoop, FunctionLoop)),
        ("{objective: {MAE: {decoder_dim: 8}}}", (FunctionLoop, FunctionLoop)),
        (SIMSIAM, (FunctionLoop, FunctionLoop)),
    ],
)
def test_it_is_written_by_hand_where_it_can_be(options, kinds):
    loops = loops_of(mixtraining(options))
    assert tuple(loops[phase][1] for phase in ("ssl", "mix", "sl")) == (*kinds, PlainLoop)
    assert len({key for key, _ in loops.values()}) == 3


@pytest.mark.parametrize(
    ("algorithms", "kinds"),
    [
        ("[TokenDropout: {rate: 0.5}]", (PlainLoop, PlainLoop, PlainLoop)),
        ("[TokenDropout: {rate: {sl: 0.5}, phases: [sl]}]", (PlainLoop, PlainLoop, FunctionLoop)),
        ("[PatchScaling: {size: 4, phases: [sl]}]", (PlainLoop, PlainLoop, FunctionLoop)),
    ],
)
def test_what_is_hidden_in_a_phase(algorithms, kinds):
    options = "- MixTraining: {objective: {MAE: {mask: input}}}"
    whole = loops_of(mixtraining(options.removeprefix("- MixTraining: ")))
    amended = loops_of(mixtraining(options.removeprefix("- MixTraining: ")), f"algorithms={algorithms}")
    assert tuple(amended[phase][1] for phase in ("ssl", "mix", "sl")) == kinds
    assert {phase for phase in whole if whole[phase] != amended[phase]} == {"sl"}, "MAE hides patches itself"


def test_images_of_another_size_than_the_models():
    larger = ["model.args.img_size=16", "model.args.dynamic_img_size=true"]
    assert [kind for _, kind in loops_of(*larger).values()] == [FunctionLoop, FunctionLoop, PlainLoop]


def test_phases_without_an_objective_are_supervised():
    loops = loops_of("methods.mix.algorithms=[PhaseSwitch]")
    assert len(set(loops.values())) == 1
    experiment = Experiment(tiny("methods.mix.algorithms=[PhaseSwitch]"), "mix", 0)
    loop = PlainLoop(experiment, "mix", Phase.SSL)
    assert loop.decoder is None
    assert len(loop.run(0, 2)) == 2


@pytest.mark.parametrize(
    "override",
    [
        "algorithms=[EMA]",
        "ssl_data={dataset: digits, fraction: 0.1}",
        "tasks={a: {}, b: {fraction: 0.1}}",
        "compile=aot_eager",
    ],
)
def test_there_is_none(override):
    assert set(loops_of(override).values()) == {None}


def test_there_is_none_where_a_method_decides_while_training():
    loops = loops_of("algorithms=[AutoCompression: {phases: [sl], over: run}]")
    assert [loops[phase] is None for phase in ("ssl", "mix", "sl")] == [False, False, True]


def test_methods_of_the_same_arithmetic_share_a_loop():
    def keys(*overrides, method="mix"):
        return {phase: key for phase, (key, _) in loops_of(*overrides, method=method).items()}

    mix = keys()
    assert keys(method="ssl_sl")["ssl"] == mix["ssl"]
    assert keys(method="sl")["sl"] == keys(method="ssl_sl")["sl"] == mix["sl"]
    assert keys("methods.mix.optimizer={AdamW: {lr: 1.0e-3}}") == mix, "the recipe's own"
    others = {
        "optimizer": (keys("methods.mix.optimizer={SGD: {lr: 0.1}}"), {"ssl", "mix", "sl"}),
        "alpha": (keys(mixtraining("{alpha: 0.9}")), {"mix"}),
        "objective": (keys(mixtraining("{objective: {MAE: {mask: input}}}")), {"ssl", "mix"}),
    }
    for name, (other, differ) in others.items():
        assert {phase for phase in mix if other[phase] != mix[phase]} == differ, name
    views = [keys(mixtraining(f"{{objective: {{SimSiam: {{views: {views}}}}}}}")) for views in ("simclr", "byol")]
    assert views[0]["mix"] != views[1]["mix"]


@pytest.mark.parametrize(
    ("options", "progress"),
    [
        ("{objective: {MAE: {mask: features}}}", 0),
        ("{objective: {MAE: {mask: input}}}", 0),
        ("{objective: {MAE: {mask: input, fused: false}}}", 0),
        ("{alpha: 1}", 0),
        (SIMSIAM, 0),
        (f"{{objective: {{MAE: {{mask: input, mask_ratio: {RAMP}}}}}}}", 0.5),
    ],
)
def test_a_step_of_the_loop_is_a_step_on_the_trainer(options, progress):
    """In its operations; but for the classifier, which no hand-written loop runs for self-supervised learning."""
    overrides = (mixtraining(options), "ssl_duration=4ep", "sl_duration=4ep")
    method, experiment = on_trainer(*overrides), Experiment(tiny(*overrides), "mix", 0)
    for phase in Phase:
        watch = FlopWatch()
        with watch.counting():
            method.run(stage_of(method, phase.value), progress, 0, watch)
        _, kind = loop_for(experiment, "mix", phase)
        steps = kind(experiment, "mix", phase).steps(progress)
        with counting_flops() as counter:
            next(steps)
        classifier = 2 * 32 * 16 * 10 if phase is Phase.SSL and kind is PlainLoop else 0
        expected = watch.forward + watch.backward - classifier
        # How many images of two views get other colours is left to chance.
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.03 if options is SIMSIAM else 0), phase


@pytest.mark.parametrize("options", ["{}", SIMSIAM], ids=["by hand", "with functions"])
def test_it_trains_what_the_method_trains(options):
    experiment = Experiment(tiny(mixtraining(options)), "mix", 0)
    _, kind = loop_for(experiment, "mix", Phase.MIX)
    loop = kind(experiment, "mix", Phase.MIX)
    trained = [p for group in loop.optimizer.param_groups for p in group["params"]]
    theirs = [p for group in experiment.trainer.state.optimizers[0].param_groups for p in group["params"]]
    assert sorted(p.numel() for p in trained) == sorted(p.numel() for p in theirs)
    before = [p.detach().clone() for p in trained]
    seconds = loop.run(0, 3)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert not any(torch.equal(p, old) for p, old in zip(trained, before, strict=True) if p.grad is not None)


def test_batches_go_on_and_are_full():
    experiment = Experiment(tiny("data.batch_size=32"), "sl", 0)  # of 45 images
    loop = PlainLoop(experiment, "sl", Phase.SL)
    batches = list(itertools.islice(loop.batches(), 3))
    assert [len(images) for images, _ in batches] == [32, 32, 32]
    assert not torch.equal(batches[0][0], batches[1][0]), "another epoch, another order"
