"""What needs an NVIDIA GPU. Run by name where there is one: pytest -m gpu."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.core import Callback
from composer.utils.parallelism import FSDP2Config, FSDPConfig
from shared.settings import (
    TASKS,
    classifier,
    logged,
    multi_task_classifier,
    multi_task_loader,
    ssl_loader,
    trainer,
    weights,
)
from shared.tiny import images, labels, loader
from torch._dynamo.testing import CompileCounterWithBackend

from mixplug import MAE, LinearProbe, MixTraining, OnlineKNN
from mixplug.data.multi_task import MultiTaskEvalLoader
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

TINY = Path(__file__).parents[1] / "shared/tiny.yaml"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
masks = pytest.mark.parametrize("mask", ["features", "input"])


@pytest.fixture
def fixed_masks(monkeypatch):
    """Hides the same patches of each image, so that runs can be compared."""

    def first(batch, patches, device, *, share, hidden):
        return torch.arange(patches // 4, device=device).expand(batch, -1)

    monkeypatch.setattr("mixplug.backbones.selection._random_share", first)


compared = pytest.mark.usefixtures("fixed_masks")


def run(mask="input", algorithm=None, **options):
    options.setdefault("train_dataloader", loader(24))
    made = trainer(
        options.pop("model", None) or classifier(),
        [algorithm or MixTraining(objective=MAE(mask))],
        device="gpu",
        eval_dataloader=loader(24),
        **{"optimizer": torch.optim.SGD, **options},
    )
    made.fit()
    assert made.state.timestamp.epoch == 6
    assert torch.tensor(logged(made, "loss/train/total")).isfinite().all()
    if options.get("eval_interval") != 0:
        assert 0 <= made.state.eval_metric_values["MulticlassAccuracy"] <= 1
    return made


def losses(made):
    return torch.tensor(logged(made, "loss/train/total"))


@compared
@masks
@pytest.mark.parametrize(("precision", "tolerance"), [("amp_bf16", 3e-2), ("amp_fp16", 5e-3)])
def test_mixed_precision_agrees_with_float32(mask, precision, tolerance):
    whole, half = run(mask, precision="fp32"), run(mask, precision=precision)
    torch.testing.assert_close(losses(half), losses(whole), rtol=tolerance, atol=tolerance)
    assert all(p.dtype == torch.float32 for p in half.state.model.parameters())


def test_gradients_are_scaled_in_float16():
    scales = []

    class Scale(Callback):
        def batch_end(self, state, logger):
            scales.append(state.scaler.get_scale())

    run(precision="amp_fp16", callbacks=[Scale()])
    assert min(scales) > 1


@pytest.mark.parametrize("precision", ["amp_bf16", "amp_fp16"])
def test_the_ssl_loss_is_float32_inside_of_autocast(precision):
    kinds = set()

    class Kind(Callback):
        def before_backward(self, state, logger):
            kinds.update({name: loss.dtype for name, loss in state.loss.items() if name == "ssl"}.values())

    run(precision=precision, callbacks=[Kind()])
    assert kinds == {torch.float32}


@compared
@masks
def test_compiled_with_mixed_precision(mask):
    counter = CompileCounterWithBackend("inductor")
    compiled = run(mask, precision="amp_bf16", compile_config={"backend": counter}, eval_interval=0)
    eager = run(mask, precision="amp_bf16", eval_interval=0)
    torch.testing.assert_close(losses(compiled), losses(eager), rtol=3e-2, atol=3e-2)
    assert counter.frame_count <= 3


@compared
@masks
@pytest.mark.parametrize("config", [FSDPConfig, FSDP2Config])
def test_sharded_models_agree_with_whole_ones(mask, config, tmp_path):
    whole = run(mask, precision="fp32")
    sharded = run(mask, precision="fp32", parallelism_config={"fsdp": config()})
    torch.testing.assert_close(losses(sharded), losses(whole), rtol=1e-4, atol=1e-4)


@compared
def test_automatic_microbatches_change_nothing():
    """Composer offers them under FSDP1 alone."""
    sharding = {"parallelism_config": {"fsdp": FSDPConfig()}, "precision": "fp32"}
    found, whole = run(device_train_microbatch_size="auto", **sharding), run(**sharding)
    torch.testing.assert_close(losses(found), losses(whole), rtol=1e-4, atol=1e-4)


def test_data_that_is_on_the_device():
    """Labelled and SSL batches that need no transfer, and masks drawn there."""
    batches = [[images(8).cuda(), labels(8).cuda()]] * 3
    unlabelled = [images(5, seed=30).cuda()] * 4
    algorithm = MixTraining(objective=MAE("input"), ssl_dataloader=unlabelled)
    made = run(algorithm=algorithm, train_dataloader=batches, device_train_microbatch_size=8)
    assert made.state.timestamp.batch == 4 * 2 + 3 * 4


def test_a_run_resumes_bit_for_bit_on_the_device(tmp_path):
    def options(**more):
        algorithm = MixTraining(objective=MAE("input"), ssl_dataloader=ssl_loader())
        return {"algorithm": algorithm, "train_dataloader": loader(24, shuffle=True), "precision": "amp_bf16", **more}

    whole = run(**options(save_folder=str(tmp_path), save_interval="1ba", save_filename="{batch}.pt"))
    for batch in (3, 7, 12, 14, 20):
        resumed = run(**options(load_path=str(tmp_path / f"{batch}.pt")))
        for name, value in weights(whole.state.model).items():
            assert torch.equal(value, weights(resumed.state.model)[name]), (batch, name)


@pytest.mark.parametrize("compiler", ["''", "inductor"])
def test_a_recipe_with_its_images_on_the_gpu(compiler):
    recipe = load_recipe(TINY, ["device=gpu", "precision=amp_bf16", f"compile={compiler}", "data.crop_padding=1"])
    made = Experiment(recipe, "mix", 0)
    assert made.inputs.train.images.is_cuda
    result = made.run()
    assert result.lengths == {"ssl": 1, "mix": 1, "sl": 1}
    assert all(value == value for _, value in result.history["ssl"])


def test_probes_change_nothing_on_the_device():
    """Dropout and masks draw from the device's own generator."""
    results = []
    for probed in (False, True):
        probes = [OnlineKNN(loader(24), loader(16), "2ba", k=5), LinearProbe(loader(24), loader(16), "2ba")]
        options = {"callbacks": probes if probed else [], "precision": "amp_bf16"}
        made = run(model=classifier(proj_drop_rate=0.1), train_dataloader=loader(24, shuffle=True), **options)
        results.append((weights(made.state.model), torch.cuda.get_rng_state()))
    assert len(made.memory.data["knn/accuracy"]) == len(made.memory.data["linear_probe/accuracy"]) > 5
    (plain, numbers), (probed, probed_numbers) = results
    assert torch.equal(numbers, probed_numbers)
    assert all(torch.equal(value, probed[name]) for name, value in plain.items())


def test_several_tasks():
    made = trainer(
        multi_task_classifier(),
        [MixTraining(objective=MAE("input"))],
        device="gpu",
        precision="amp_bf16",
        train_dataloader=multi_task_loader(),
        eval_dataloader=MultiTaskEvalLoader(multi_task_loader().loaders, TASKS),
    )
    made.fit()
    assert all(0 <= made.state.eval_metric_values[f"accuracy/{name}"] <= 1 for name in TASKS)
