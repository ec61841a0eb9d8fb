"""How good the gradients of compressed steps are, at several checkpoints of a training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.core import TimeUnit, get_precision_context
from torch import Tensor

from mixplug import FusedBackbonePass, JointLoss
from mixplug.algorithms.trainer.contract import find_in
from mixplug.backbones import ViTBackbone, backbone_of
from mixplug.backbones.exporting import load_state
from mixplug.backbones.patches import fitting_sizes
from mixplug.checks import check_int, check_real
from mixplug.data.batches import images_of
from mixplug.data.passes import repeatable_pass
from mixplug.lab.pages.error_tables import error_table, stage_table
from mixplug.lab.pages.figures import save_figure
from mixplug.lab.pages.heat_maps import error_maps
from mixplug.lab.recipes.schema import Recipe, to_plain
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment, Progress
from mixplug.lab.runs.measured_stages import MeasuredStages
from mixplug.objectives.joint import ALPHA
from mixplug.schedules.phases import Phase, PhasePlan, Position
from mixplug.training.costs import CostCounter
from mixplug.training.error_estimates import HiddenGradientError
from mixplug.training.gradient_error import Strategy, gradient_error

UNTRAINED = "untrained"
"""Stands for a checkpoint of the weights that a training begins with."""
RATES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Those of the compression paper's Fig. 4."""
SAMPLES = 2048


def measure_stages(
    recipe: Recipe,
    method: str,
    seed: int,
    checkpoints: Sequence[str],
    rates: Sequence[float] = RATES,
    patches: Sequence[int] | None = None,
    samples: int = SAMPLES,
    sub_batch: int | None = None,
    budget: float = 1.0,
    progress: Progress | None = None,
) -> MeasuredStages:
    """Measure bias and variance of compressed steps' gradients at checkpoints of a training.

    Each checkpoint is measured on the same images, as the training augments them: passes over its data until there are
    enough. What the method itself compresses is left out.

    Args:
        recipe: What they were trained with.
        method: Key of the method.
        seed: Of the training.
        checkpoints: Composer checkpoints (only load files you trust), or 'untrained'.
        rates: Shares of dropped tokens.
        patches: Sides of patches in pixels; by default the native one and all larger ones that cut an image into at
            least four.
        samples: Images in all.
        sub_batch: Images of a sub-batch; by default the recipe's batch.
        budget: What a step may cost, in uncompressed steps of the recipe's batch.
        progress: Called as ``progress(done, total, text)``.

    Raises:
        FileNotFoundError: there is no such checkpoint, or data is not there.
        TypeError: something in the recipe has the wrong type, or the model is no vision transformer.
        ValueError: a file is no checkpoint, or one of another training; an argument is out of range; or the objective
            cannot be compressed.
    """
    check_real("--budget", budget, 0, float("inf"), low_open=True, high_open=True)
    states = {name: None if name == UNTRAINED else load_state(name) for name in checkpoints}
    experiment = Experiment(recipe, method, seed)
    try:
        return _measure(experiment, states, rates, patches, samples, sub_batch, budget, progress)
    finally:
        close_trainer(experiment.trainer)


def _measure(
    experiment: Experiment,
    states: Mapping[str, Mapping[str, Any] | None],
    rates: Sequence[float],
    patches: Sequence[int] | None,
    samples: int,
    sub_batch: int | None,
    budget: float,
    progress: Progress | None,
) -> MeasuredStages:
    recipe, model, inputs = experiment.recipe, experiment.model, experiment.inputs
    fused, joint = find_in(experiment.algorithms, FusedBackbonePass), find_in(experiment.algorithms, JointLoss)
    alpha, path = ALPHA if joint is None else joint.alpha, None if fused is None else fused.backbone_path
    objective = getattr(model, "ssl_objective", None)
    native = _native_patch(model.module, path)
    if patches is None:
        patches = [side for side in fitting_sizes(*inputs.shape[1:]) if native <= side <= min(inputs.shape[1:]) // 2]
    strategies = [Strategy(rate, None if patch == native else patch) for patch in patches for rate in rates]
    batch_size = recipe.data.batch_size
    size = batch_size if sub_batch is None else check_int("--sub-batch", sub_batch, 1)
    state = experiment.trainer.state
    # Weights are loaded one after another, those of the beginning too.
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    stages, hidden = {}, {}
    for index, (name, saved) in enumerate(states.items()):
        position = experiment.plan.position(0) if saved is None else _position_of(saved, experiment, name)
        if position.phase is not Phase.SSL and len(inputs.tasks) > 1:
            raise ValueError(
                f"{name} is in the {position.phase} phase of several tasks, each of which has a loss of its own; give "
                f"checkpoints of the SSL phase"
            )
        _load(model, fresh if saved is None else saved["model"], name)
        count = CostCounter(model.module, objective, inputs.shape, batch_size, alpha, backbone=path)
        loader = inputs.ssl if position.phase is Phase.SSL and inputs.ssl is not None else inputs.train

        def images(name: str = name, index: int = index, loader: Any = loader) -> Iterator[tuple[Tensor, Any]]:
            for batch, done in _enough(loader, recipe.first_seed, samples):
                if progress is not None:
                    progress(index * samples + done, len(states) * samples, name)
                yield batch

        try:
            with get_precision_context(state.precision, state.precision_config, fp8_autocast_enabled=False):
                stages[name] = gradient_error(
                    model.module,
                    None if position.phase is Phase.SL else objective,
                    images(),
                    strategies,
                    budget * batch_size * count.at(position).passes,
                    samples,
                    size,
                    position,
                    alpha,
                    backbone=path,
                )
        except HiddenGradientError as error:
            hidden[name] = str(error)
    return MeasuredStages(stages, hidden, native)


def write_stages(measured: MeasuredStages, recipe: Recipe, method: str, seed: int, out: Path) -> None:
    """Leave ``gradient_error.json``, which CompressionSchedule reads, ``gradient_error.md`` and ``.png`` in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "method": method,
        "seed": seed,
        "native_patch": measured.native,
        "stages": [measured.numbers(name) for name in measured.stages],
        "hidden": dict(measured.hidden),
        "recipe": to_plain(recipe),
        **describe_environment(),
    }
    (out / "gradient_error.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    tables = (stage_table(measured), error_table(measured))
    (out / "gradient_error.md").write_text(
        f"# {recipe.description}\n\n" + "\n".join(t.markdown() for t in tables), encoding="utf-8"
    )
    if measured.stages:
        save_figure(error_maps(measured), out / "gradient_error.png")


def _native_patch(module: Any, path: str | None) -> int:
    backbone = backbone_of(module, path)
    if not isinstance(backbone, ViTBackbone):
        raise TypeError(
            f"gradient-error is for a timm VisionTransformer, whose patches are tokens, and the recipe's model is "
            f"{type(backbone.model).__name__}"
        )
    backbone.detach()
    return max(backbone.patch_size)


def _position_of(saved: Mapping[str, Any], experiment: Experiment, name: str) -> Position:
    """Where the training was; at a phase's end, still in it: that is what the weights come from."""
    plan: PhasePlan = experiment.plan
    unit, time = experiment.max_duration.unit, saved["timestamp"]["Timestamp"]
    elapsed = float(time["epoch"] if unit is TimeUnit.EPOCH else time["batch"])
    if unit is TimeUnit.EPOCH:
        elapsed += time["batch_in_epoch"] / max(1, len(experiment.inputs.train))
    if elapsed > plan.total:
        raise ValueError(
            f"{name} is of a training's {unit.name.lower()} {elapsed:g}, and the recipe's lasts {plan.total}; give the "
            f"recipe, the method and the settings that it was trained with"
        )
    ended = next((span for span in plan.phases if elapsed == span.stop), None)
    return plan.position(elapsed, ended)


def _load(model: Any, weights: Mapping[str, Tensor], name: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{name} is of another model than the recipe's; give the recipe, the method and the settings that it was "
            f"trained with: {' '.join(str(error).split())[:300]}"
        ) from error


def _enough(loader: Any, seed: int, samples: int) -> Iterator[tuple[Any, int]]:
    """Batches of pass after pass until there are ``samples`` images, and how many have been."""
    done, epoch = 0, 0
    while True:
        before = done
        for batch in repeatable_pass(loader, seed, epoch):
            yield batch, done
            done += len(images_of(batch))
            if done >= samples:
                return
        if done == before:
            return
        epoch += 1
