from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch

from mixplug import MAE, backbone_of
from mixplug.data.datasets import DataSplit, UnlabelledImages
from mixplug.data.images import MemoryImages
from mixplug.lab.recipes.files import describe, shipped_name, shipped_recipes
from mixplug.lab.recipes.schema import RecipeError, load_recipe, to_plain
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import settings_of
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.runs.parts import make_spec

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
ROOT = Path(__file__).parents[3]


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_reading_a_recipe():
    recipe = load_recipe(TINY)
    assert recipe.data.batch_size == 32
    assert recipe.data.workers == 0, "what is not given has its default"
    assert recipe.methods["mix"].label == "MixTraining"
    assert recipe.methods["mix"].algorithms == [{"MixTraining": {"rho": 0.5}}]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seeds=5", ("seeds",), 5),
        ("data.fraction=0.5", ("data", "fraction"), 0.5),
        ("data.fraction=1", ("data", "fraction"), 1.0),
        ("device=cpu", ("device",), "cpu"),
        ("model.args.depth=3", ("model", "args", "depth"), 3),
        ("model.args.global_pool=avg", ("model", "args", "global_pool"), "avg"),
        ("scheduler=null", ("scheduler",), None),
        ("optimizer={SGD: {lr: 0.1}}", ("optimizer",), {"SGD": {"lr": 0.1}}),
        (
            "methods.mix.algorithms.0.MixTraining.rho=0.25",
            ("methods", "mix", "algorithms", 0, "MixTraining", "rho"),
            0.25,
        ),
        (
            "methods.mix.algorithms[0].MixTraining.alpha=1",
            ("methods", "mix", "algorithms", 0, "MixTraining", "alpha"),
            1,
        ),
        ("algorithms=[LabelSmoothing]", ("algorithms",), ["LabelSmoothing"]),
    ],
)
def test_overrides(override, path, value):
    at = to_plain(load_recipe(TINY, [override]))
    for key in path:
        at = at[key]
    assert at == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 3", "unknown key 'sead'; did you mean 'seeds'"),
        ("data: {fractoin: 0.1}", "unknown key 'data.fractoin'; did you mean 'fraction'"),
        ("methods: {mix: {label: M, algorithm: []}}", "unknown key 'methods.mix.algorithm'; did you mean 'algorithms'"),
        ("seeds: many", "seeds must be a whole number, got 'many'"),
        ("data: {batch_size: 1.5}", "data.batch_size must be a whole number, got 1.5"),
        ("data: {mean: 0.5}", "data.mean must be a list of numbers, such as [0.5], got 0.5"),
        ("data: {mean: [a]}", "data.mean[0] must be a number, got 'a'"),
        ("data: {flip: maybe}", "data.flip must be true or false, got 'maybe'"),
        ("data: {labels: x}", "data.labels must be a whole number or null, got 'x'"),
        ("pictures: null", "pictures must be a whole number, got null"),
        (
            "data: {train: 01}",
            "data.train must be text, and YAML reads what is written there as 1; quote it, as in train",
        ),
        ("data: {train: no}", "data.train must be text, and YAML reads what is written there as False; quote it"),
        ("ssl_data: {root: 1.5}", "ssl_data.root must be text, and YAML reads what is written there as 1.5"),
        ("methods: {sl: {label: 2024}}", "methods.sl.label must be text"),
        ("vars: {name: 01}\ndata: {train: '${vars.name}'}", "data.train must be text"),
        ("tasks: {a: {}, b: {train: no}}", "tasks.b.train must be text"),
        ("data: {test: null}", "data.test must be text, got null; leave it out, or write '' for none"),
        ("data: {train: [a]}", "data.train must be text, got ['a']"),
        ("ssl_duration: 100", "ssl_duration must be like '10ep' or '100ba', got 100; write the unit behind it"),
        ("methods: {no: {}}", "methods: names must be text, and YAML reads one as False; quote it"),
        ("tasks: {01: {}, b: {}}", "tasks: names must be text, and YAML reads one as 1; quote it"),
        ("data: 3", "data must map keys to values"),
        ("methods: [sl]", "methods must map names to settings"),
        ("- a list", "must map keys to values"),
        ("a: [b", "recipe.yaml: line"),
        ("seeds: 1\n\tdata: 2", "recipe.yaml: line"),
        ("seeds: 1\nseeds: 2\n", "line 2: found duplicate key"),
        ("algorithms: {MixTraining: {}}", "algorithms must be a list"),
        ("model: {args: [1]}", "model.args must map names to settings"),
        ("methods: {/tmp/x: {label: X}}", "the key '/tmp/x' names files"),
        ("methods: {../x: {label: X}}", "the key '../x' names files"),
        ("methods: {a: {label: X}, b: {label: X}}", "the label 'X' is used 2 times"),
        ("model: ${nothing}", "nothing"),
        ("seeds: 3", "names no method"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sead=3", "unknown key 'sead'"),
        ("data.fractoin=3", "did you mean 'fraction'"),
        ("seeds", "must be key=value"),
        ("seeds=0", "seeds must be a whole number of at least 1"),
        ("data.batch_size=-1", "data.batch_size"),
        ("data.workers=-1", "data.workers"),
        ("first_seed=4294967296", "below 2**32"),
        (
            "methods.mix.algorithms.7.MixTraining.rho=0",
            "MixTraining.rho=0' cannot be applied",
        ),
        ("algorithms.x=1", "algorithms must be a list"),
        ("data.mean=@x", "'data.mean=@x' cannot be applied"),
    ],
)
def test_a_bad_override(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe(TINY, [override])


EXPECT = "expect: {source: Somebody, accuracy: {sl: 81.5, mix_input: 90}}\n"


def test_what_a_recipe_expects(tmp_path):
    path = write(tmp_path, f"extends: digits\n{EXPECT}")
    expect = load_recipe(path, ["methods=[sl]"]).expect
    assert (expect.source, expect.accuracy) == ("Somebody", {"sl": 81.5, "mix_input": 90.0})
    (tmp_path / "child.yaml").write_text("extends: recipe.yaml\n")
    assert load_recipe(tmp_path / "child.yaml").expect is None, "it is said of the recipe itself"
    assert load_recipe("cifar10").expect.accuracy["mix_features"] == 87.13
    assert settings_of(load_recipe(path), "sl") == settings_of(load_recipe("digits"), "sl")


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("{source: A, accuracy: {mix_inptu: 3}}", "expect.accuracy: the method .*did you mean 'mix_input'"),
        ("{source: A, accuracy: {sl: 101}}", r"expect.accuracy.sl must be a number in \[0, 100\], got 101"),
        ("{source: A, accuracy: {sl: high}}", "expect.accuracy.sl"),
        ("{accuracy: {sl: 50}}", "expect.source is empty"),
        ("{source: A, acuracy: {}}", "unknown key 'expect.acuracy'; did you mean 'accuracy'"),
        ("87.1", "expect must map keys to values"),
    ],
)
def test_what_nobody_can_expect(tmp_path, expect, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, f"extends: digits\nexpect: {expect}\n"))


def test_a_missing_recipe():
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(FileNotFoundError, match="no recipe file"):
        load_recipe("nowhere/at/all.yaml")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.dataset=digit"], ValueError, "did you mean 'digits'"),
        (["data.fraction=0"], ValueError, r"data.fraction must be a number in \(0, 1\]"),
        (["data.fraction=0.0001"], ValueError, "leaves none"),
        (["model.name=vit_tiny"], ValueError, "timm cannot make"),
        (["model.args.depth=two"], ValueError, "timm cannot make"),
        (["model.args.img_size=16"], ValueError, "set model.args.img_size=8"),
        (["model.args.patch_size=3"], ValueError, "do not divide"),
        (["optimizer={Adamm: {}}"], ValueError, "did you mean 'Adam'"),
        (["optimizer={AdamW: {lrr: 1}}"], ValueError, "optimizer.AdamW has no argument 'lrr'; did you mean 'lr'"),
        (["scheduler={PhaseSchedule: {}}"], ValueError, "did you mean 'PhaseScheduler'"),
        (["methods.mix.algorithms=[MixTrainings]"], ValueError, "did you mean 'MixTraining'"),
        (["methods.mix.algorithms=[{MixTraining: {roh: 1}}]"], ValueError, "no argument 'roh'; did you mean 'rho'"),
        (["methods.mix.algorithms.0.MixTraining.rho=1.5"], ValueError, "rho must be a number"),
        (["methods.mix.algorithms.0.MixTraining.rho='0.5'"], TypeError, "without quotes"),
        (["methods.mix.algorithms.0.MixTraining.objective={MEA: {}}"], ValueError, "did you mean 'MAE'"),
        (["methods.mix.algorithms=[3]"], TypeError, "methods.mix.algorithms.0 must be a name or one name"),
        (["methods.mix.algorithms=[MixTraining, MixTraining]"], ValueError, "runs PhaseSwitch 2 times"),
        (["ssl_duration=0ep", "sl_duration=0ep"], ValueError, "leave nothing to train"),
        (["sl_duration=lots"], ValueError, "sl_duration must be like"),
        (["model.name=resnet18", "model.args={}"], TypeError, "this ResNet is none; use one"),
        (["precision=fp7"], ValueError, "fp7"),
        (["device=tpu"], ValueError, "device must be one of"),
        (["eval_interval=0ep"], ValueError, "eval_interval must be above 0"),
        (["eval_interval=often"], ValueError, "eval_interval must be like"),
        (["model.name=resnet18"], ValueError, "'resnet18' with .*: it takes no model.args.img_size; leave it out, or"),
        (["model.args.in_chans=3"], ValueError, "model.args.in_chans comes from the data"),
        (["model.args.depth=0"], ValueError, "no blocks"),
        (["optimizer={AdamW: {betas: [0.9]}}"], ValueError, "optimizer.AdamW: "),
        (["optimizer={AdamW: {lr: x}}"], TypeError, "optimizer.AdamW.lr must be a number, got 'x'"),
        (["algorithms=[{ColOut: {p_row: 2}}]"], ValueError, "algorithms.0.ColOut: p_row"),
        (["algorithms=[{LabelSmoothing: {smoothings: 1}}]"], ValueError, "did you mean 'smoothing'"),
        (
            ["scheduler={PhaseScheduler: {mix: {MAE: {}}}}"],
            TypeError,
            "scheduler.PhaseScheduler: mix must be a Composer",
        ),
        (["methods.mix.algorithms.0.MixTraining.ssl_duration=null"], ValueError, "both ssl_duration and sl_duration"),
        (
            ["methods.mix.algorithms=[{MixTraining: {ssl_duration: null, sl_duration: null}}]"],
            ValueError,
            "must not be null",
        ),
        (["methods.mix.algorithms=[{MixTraining: {optimizer_overrides: [1]}}]"], TypeError, "must map phases"),
    ],
)
def test_what_only_building_can_find(overrides, error, message):
    with pytest.raises(error, match=message):
        Experiment(load_recipe(TINY, overrides), "mix", seed=0)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="did you mean 'mix'"):
        Experiment(load_recipe(TINY), "mixx", seed=0)


def test_the_durations_reach_the_run():
    recipe = load_recipe(TINY)
    assert [str(Experiment(recipe, method, 0).max_duration.to_timestring()) for method in recipe.methods] == [
        "2ep",
        "4ep",
        "3ep",
    ]


def test_ramps_and_objectives_by_name():
    options = "{alpha: {Ramp: {start: 1, stop: 0}}, objective: {MAE: {mask: input}}}"
    recipe = load_recipe(TINY, [f"methods.mix.algorithms=[{{MixTraining: {options}}}]"])
    (algorithm,) = Experiment(recipe, "mix", 0).algorithms
    assert "Ramp(start=1, stop=0)" in repr(algorithm)
    assert "mask='input'" in repr(algorithm)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_more_pictures_than_images():
    recipe = load_recipe(TINY, ["pictures=100000", "ssl_duration=1ba", "sl_duration=1ba"])
    result = Experiment(recipe, "ssl_sl", 0).run()
    assert len(result.reconstruction.original) == 898


def test_a_method_without_phases_that_trains_both_heads_is_one_mix_phase():
    recipe = load_recipe(TINY, ["methods.mix.algorithms=[FusedBackbonePass]"])
    assert Experiment(recipe, "mix", 0).run().lengths == {"mix": 2}


@pytest.mark.parametrize(("left_out", "phase"), [("sl_duration", "ssl"), ("ssl_duration", "sl")])
def test_one_kind_of_learning_alone(left_out, phase):
    for method in ("ssl_sl", "mix"):
        result = Experiment(load_recipe(TINY, [f"{left_out}=0ep", "pictures=0"]), method, 0).run()
        assert result.lengths == {phase: 2}
        assert [time for time, _ in result.history["total"]] == [1, 2]
        assert result.history[phase] == result.history["total"], "the other loss weighs nothing"
        assert bool(result.history["ssl"]) == (phase == "ssl")


def test_a_method_without_phases_needs_supervised_learning():
    message = r"methods\.sl has no phases .*must be at least 1, got '0ep'.*methods\.sl=null"
    with pytest.raises(ValueError, match=message):
        Experiment(load_recipe(TINY, ["sl_duration=0ep"]), "sl", 0)


def test_every_shipped_recipe_is_found():
    assert set(shipped_recipes().values()) == set((ROOT / "recipes").rglob("*.yaml"))
    assert "digits" in shipped_recipes()


CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "svhn": 10}


def generated(options, *, seed, key, image_size=None):
    """Noise in the shape of the data set that a recipe names: tests have no data."""
    name, size = options.dataset, image_size or options.image_size
    classes = CLASSES.get(name, 200)  # image_folder is TinyImageNet here
    size = size or (8 if name == "digits" else 32)
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (4, 1 if name == "digits" else 3, size, size), generator=made, dtype=torch.uint8)
    images = MemoryImages(pixels, torch.randint(0, classes, (4,), generator=made))
    statistics = (0.5,) * pixels.shape[1]
    return DataSplit(images, images, classes, statistics, statistics)


def generated_unlabelled(options, *, seed, image_size):
    split = generated(options, seed=seed, key="ssl_data", image_size=image_size)
    return UnlabelledImages(split.train, split.mean, split.std)


def test_the_name_of_a_recipe(tmp_path):
    small = ROOT / "recipes" / "small" / "cifar10.yaml"
    assert [shipped_name(r) for r in ("cifar10", "small/cifar10", small)] == [
        "cifar10",
        "small/cifar10",
        "small/cifar10",
    ]
    assert shipped_name(write(tmp_path, "extends: digits")) is None


@pytest.mark.parametrize(
    "name",
    # Those of the papers' sizes have variants with the same methods that are small.
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (f"small/{name}" in shipped_recipes() or name.startswith("two_view/"))
        )
        for name in shipped_recipes()
    ],
)
def test_every_shipped_recipe_is_valid_documented_and_trains(name, monkeypatch):
    monkeypatch.setattr("mixplug.lab.runs.inputs.load_dataset", generated)
    monkeypatch.setattr("mixplug.lab.runs.inputs.load_unlabelled", generated_unlabelled)
    path = shipped_recipes()[name]
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 5, "a header says what it is, how to launch it and what to expect"
    launches = [
        f"mixplug {command} {given}" for command in ("compare", "bench") for given in (name, f"recipes/{name}.yaml")
    ]
    assert any(launch in line for line in header for launch in launches)
    assert any(line.startswith("# Expect: ") for line in header)
    assert describe(path)
    # Two batches of each phase's parent: one of SSL, one of MIX, one of SL.
    short = ["ssl_duration=2ba", "sl_duration=2ba", "max_cost=null", "eval_interval=1dur", "pictures=1", "probes=[]"]
    recipe = load_recipe(path, [*short, "data.batch_size=2"])
    recipe.model.args.pop("pretrained", None)  # nothing is to be fetched here
    for spec in (spec for method in recipe.methods.values() for spec in method.algorithms if isinstance(spec, dict)):
        for arguments in spec.values():
            arguments.pop("ssl_duration", None), arguments.pop("sl_duration", None)
    for method in recipe.methods:
        Experiment(recipe, method, seed=0).trainer.close()
    result = Experiment(recipe, list(recipe.methods)[-1], seed=0).run()
    lengths = {0.5: {"ssl": 1, "mix": 1, "sl": 1}, 0: {"ssl": 2, "sl": 2}, 1: {"mix": 2}, None: {"sl": 2}}
    assert result.lengths == lengths[result.rho]
    assert 0 <= result.accuracy <= 1


def test_the_papers_model_is_as_appendix_a3_says():
    for name, tokens in (("cifar10", 256), ("tinyimagenet", 256)):
        recipe = load_recipe(name)
        model = timm.create_model(recipe.model.name, **recipe.model.args)
        assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == (192, 12, 3)
        assert model.patch_embed.num_patches == tokens
        assert recipe.data.batch_size == 256
        assert (recipe.ssl_duration, recipe.sl_duration) == ("100ep", "100ep")
        objective = recipe.methods["mix_features"].algorithms[0]["MixTraining"]["objective"]["MAE"]
        built = MAE(**objective).build(backbone_of(model))
        assert len(built.blocks) == 2
        assert built.blocks[0].attn.num_heads == 3
        assert built.mask_ratio == 0.75


def test_pretrained_weights_reach_the_model(tmp_path):
    args = load_recipe(TINY).model.args
    weights = timm.create_model("vit_tiny_patch16_224", **args, num_classes=7).state_dict()
    file = tmp_path / "weights.pth"
    torch.save(weights, file)
    own = ["model.args.pretrained=true", f"model.args.pretrained_cfg_overlay={{file: {file}}}"]
    made = Experiment(load_recipe(TINY, own), "mix", 0)
    model = made.trainer.state.model.module.state_dict()
    other = {"patch_embed.proj.weight", "head.weight", "head.bias"}  # grey images, and classes of another data set
    assert {name for name in model if not torch.equal(model[name], weights[name])} == other
    grey = weights["patch_embed.proj.weight"].sum(1, keepdim=True)
    assert torch.allclose(model["patch_embed.proj.weight"], grey, atol=1e-6)
    file.unlink()
    assert made_of(load_recipe(TINY, own)).make(trained=True), "an exported model needs them no more"
    with pytest.raises(
        OSError, match=r"pretrained weights of 'vit_tiny_patch16_224' .*pretrained_cfg_overlay=\{file: "
    ):
        Experiment(load_recipe(TINY, own), "mix", 0)
    assert load_recipe("pretrained").model.args == {"pretrained": True}


def made_of(recipe):
    return make_spec(recipe, make_inputs(recipe, 0, torch.device("cpu")))


def test_a_methods_own_optimizer_and_scheduler():
    own = ["methods.mix.optimizer={SGD: {lr: 0.25}}", "methods.mix.scheduler={PhaseScheduler: {ssl_factor: 0.5}}"]
    recipe = load_recipe(TINY, own)
    mix, other = (Experiment(recipe, method, 0).trainer.state for method in ("mix", "ssl_sl"))
    assert isinstance(mix.optimizers[0], torch.optim.SGD)
    assert isinstance(other.optimizers[0], torch.optim.AdamW)
    assert (mix.schedulers[0].base_lrs[0], other.schedulers[0].base_lrs[0]) == (0.25, 1e-3)
    assert settings_of(recipe, "ssl_sl") == settings_of(load_recipe(TINY), "ssl_sl")
    assert settings_of(recipe, "mix") != settings_of(load_recipe(TINY), "mix")


@pytest.mark.slow
def test_compiled_as_eager():
    short = ["ssl_duration=2ba", "sl_duration=2ba"]
    eager, compiled = (
        Experiment(load_recipe(TINY, [*short, f"compile={backend}"]), "mix", 0).run() for backend in ("''", "aot_eager")
    )
    for name in ("ssl", "sl"):
        for one, other in zip(eager.history[name], compiled.history[name], strict=True):
            assert one == pytest.approx(other, rel=1e-4)


def test_a_learning_rate_that_is_no_number():
    with pytest.raises(TypeError, match=r"^optimizer\.AdamW\.lr must be a number, got 'abc'$"):
        Experiment(load_recipe(TINY, ["optimizer.AdamW.lr=abc"]), "mix", 0)


def test_a_precision_that_is_not_there():
    with pytest.raises(ValueError, match=r"precision must be one of .*fp32.*got .fp8"):
        Experiment(load_recipe(TINY, ["precision=fp8"]), "mix", 0)


def test_a_backend_that_is_not_there():
    with pytest.raises(ValueError, match=r"compile.*did you mean 'inductor'"):
        Experiment(load_recipe(TINY, ["compile=inducter"]), "mix", 0)


def test_a_methods_own_scheduler_that_is_wrong():
    recipe = load_recipe(TINY, ["methods.mix.scheduler={PhaseSchedule: {}}"])
    with pytest.raises(ValueError, match=r"methods\.mix\.scheduler.*did you mean 'PhaseScheduler'"):
        Experiment(recipe, "mix", 0)


def test_a_recipe_over_another(tmp_path):
    write(tmp_path, "extends: digits_epochs\ndescription: mine\nmethods: {ssl_sl_features: null, sl: {label: Plain}}\n")
    recipe, parent = load_recipe(tmp_path / "recipe.yaml"), load_recipe("digits_epochs")
    assert recipe.description == "mine"
    assert recipe.model == parent.model
    assert recipe.methods["sl"].label == "Plain"
    assert list(recipe.methods) == [key for key in parent.methods if key != "ssl_sl_features"]


def test_the_file_beside_and_one_optimizer(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: digits\nssl_duration: 7ep\n")
    recipe = load_recipe(write(tmp_path, "extends: parent.yaml\noptimizer: {SGD: {lr: 0.1}}\n"))
    assert recipe.ssl_duration == "7ep"
    assert recipe.optimizer == {"SGD": {"lr": 0.1}}


def test_a_methods_own_optimizer_takes_the_place_of_the_extended_ones(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: digits\nmethods: {sl: {optimizer: {SGD: {lr: 0.1}}}}\n")
    recipe = load_recipe(write(tmp_path, "extends: parent.yaml\nmethods: {sl: {optimizer: {AdamW: {lr: 0.2}}}}\n"))
    assert recipe.methods["sl"].optimizer == {"AdamW": {"lr": 0.2}}
    assert recipe.methods["sl"].label == "SL"


def test_the_file_beside_comes_before_that_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "parent.yaml").write_text("extends: digits\nseeds: 7\n")
    (tmp_path / "parent.yaml").write_text("extends: digits\nseeds: 9\n")
    child = write(tmp_path / "x", "extends: parent.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(child).seeds == 7


def test_tasks_can_be_left_out_and_replaced(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: digits\ntasks: {a: {fraction: 1}, b: {flip: true}, c: {}}\n")
    assert list(load_recipe(write(tmp_path, "extends: parent.yaml\ntasks: {b: null}\n")).tasks) == ["a", "c"]
    assert load_recipe(write(tmp_path, "extends: parent.yaml\ntasks: null\n")).tasks == {}
    parent = tmp_path / "parent.yaml"
    assert load_recipe(parent, ["tasks.b.flip=false"]).task_data()["b"].flip is False
    assert list(load_recipe(parent, ["tasks.b=null", "tasks.d={fraction: 0.5}"]).tasks) == ["a", "c", "d"]


def test_vars_whose_users_are_left_out(tmp_path):
    left_out = [name for name in load_recipe("cifar10").methods if name != "sl"]
    text = f"extends: cifar10\nmethods: {{{', '.join(f'{name}: null' for name in left_out)}}}\n"
    assert list(load_recipe(write(tmp_path, text)).methods) == ["sl"]


def test_short_keys_pass_over_what_is_left_out():
    recipe = load_recipe(TINY, ["methods.sl=null", "rho=0.25"])
    assert recipe.methods["mix"].algorithms[0]["MixTraining"]["rho"] == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("methods.mxi=null", "there is no methods.mxi; did you mean 'mix'"),
        ("methods.mxi.label=foo", "there is no methods.mxi; did you mean 'mix'"),
        ("methods.mxi.algorithms.0.MixTraining.rho=0.25", "there is no methods.mxi"),
        ("methods.mxi[0]=3", "there is no methods.mxi"),
        ("vars.depth=3", r"there is no vars.depth; there are \[\]"),
        ("tasks.a.root=x", "there is no tasks.a"),
    ],
)
def test_names_that_the_recipe_does_not_have(change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(TINY, [change])


def test_a_new_method_from_the_command_line():
    recipe = load_recipe(TINY, ["methods.mine={label: Mine, algorithms: [LabelSmoothing]}"])
    assert recipe.methods["mine"].label == "Mine"


def test_a_model_of_another_name_has_arguments_of_its_own(tmp_path):
    recipe = load_recipe(write(tmp_path, "extends: digits\nmodel: {name: resnet18}\n")).model
    assert (recipe.name, recipe.args) == ("resnet18", {})
    args = load_recipe(write(tmp_path, "extends: digits\nmodel: {args: {depth: 1}}\n")).model.args
    assert args == {**load_recipe("digits").model.args, "depth": 1}


def test_a_var_is_replaced_as_a_whole(tmp_path):
    use = "methods: {mix_input: {algorithms: [MixTraining: {objective: '${vars.objective}'}]}}\n"
    (tmp_path / "parent.yaml").write_text(f"extends: digits\nvars: {{objective: {{MAE: {{mask: input}}}}}}\n{use}")
    recipe = load_recipe(write(tmp_path, "extends: parent.yaml\nvars: {objective: {SimSiam: {out_dim: 8}}}\n"))
    assert recipe.methods["mix_input"].algorithms == [{"MixTraining": {"objective": {"SimSiam": {"out_dim": 8}}}}]


def test_the_name_of_a_shipped_recipe_in_any_case():
    assert load_recipe("Small/CIFAR10").description == load_recipe("small/cifar10").description


def test_some_of_the_methods():
    assert list(load_recipe("digits", ["methods=[sl,mix_input]"]).methods) == ["sl", "mix_input"]
    for value in ("[sl,mix_inptu]", "[]", "[3]"):
        with pytest.raises(RecipeError, match="methods must be one of"):
            load_recipe("digits", [f"methods={value}"])


def test_vars(tmp_path):
    text = "extends: digits\nvars: {depth: 2}\nmodel: {args: {depth: '${vars.depth}'}}\n"
    path = write(tmp_path, text)
    assert load_recipe(path).model.args["depth"] == 2
    assert load_recipe(path, ["vars.depth=5"]).model.args["depth"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: digit", "none of that name is shipped.*did you mean 'digits'"),
        ("extends: recipe.yaml", "extends itself"),
        ("extends: [digits]", "extends must be a recipe's name or file"),
        ("extends: null", "extends must be a recipe's name or file"),
        ("3", "must map keys to values"),
        ("extends: digits\nvars: 3", "vars must map names to values, got 3"),
        ("extends: digits\nvars: null", "vars must map names to values, got None"),
        (
            "extends: digits\nmethods: {mix_featurs: null}",
            "leaves it out, but there is none; did you mean 'mix_features'",
        ),
        ("extends: digits\ntasks: {a: null}", "leaves it out, but there is none"),
        ("extends: digits\nvars: {depht: 2}", "vars.depht is used nowhere"),
        ("extends: digits\nmodel: {args: {depth: '${vars.depth}'}}", "vars"),
        ("extends: digits\nssl_data: {batch_size: 3}", "unknown key 'ssl_data.batch_size'"),
        ("extends: digits\nssl_data: {dataset: [digits]}", "ssl_data.dataset"),
        ("extends: digits\ntasks: {a: {dataset: digits}}", "one task, 'a', is what `data` is for"),
        ("extends: digits\ntasks: {a: {dataset: digits}, b: {batch_size: 3}}", "batch_size'; all tasks share"),
        (
            "extends: digits\ntasks: {a: {dataset: digits}, b: {datset: svhn}}",
            "'tasks.b.datset'; did you mean 'dataset'",
        ),
        (
            "extends: digits\ntasks: {a: {dataset: digits}, b: {fraction: many}}",
            "tasks.b.fraction must be a number, got 'many'",
        ),
        ("extends: digits\ntasks: {a: digits, b: svhn}", "tasks.a must map settings"),
    ],
)
def test_bad_families(tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_recipe(write(tmp_path, text))
