"""One training run of a recipe: a method and a seed in, numbers and pictures' data out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.core import Callback, Precision, Time, TimeUnit
from composer.utils import get_device

from mixplug import ExactResumption, JointLoss, KeepBest, PhaseSwitch
from mixplug.algorithms.multi_task_classifier import MultiTaskClassifier
from mixplug.algorithms.trainer.contract import find_in
from mixplug.algorithms.trainer.divergence import DivergedError
from mixplug.backbones import backbone_of
from mixplug.backbones.probing import unattached_backbone
from mixplug.checks import check_choice, import_named
from mixplug.lab.recipes.objects import build
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.callbacks import ModelDescription, StopOnNaN, make_savers
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.cpu_time import CPUTime
from mixplug.lab.runs.history import RunHistory
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.runs.keeping import make_keep_best, measuring_interval
from mixplug.lab.runs.parts import (
    encoder_path,
    make_algorithms,
    make_classifier,
    make_loggers,
    make_optimizer,
    make_scheduler,
    make_spec,
)
from mixplug.lab.runs.planning import plan_run
from mixplug.lab.runs.probes import check_probes, judge_features, probe_features
from mixplug.lab.runs.progress import Progress, RunProgress
from mixplug.lab.runs.results import RunResult, judging_probe
from mixplug.lab.runs.resumption import ProgressSaver, Unfinished, describe_time
from mixplug.objectives import MAE, Reconstruction


class Experiment:
    """One run of a recipe, built and ready.

    Args:
        recipe: The recipe.
        method: Key of one of its methods.
        seed: Of the data-limitation subset, the initial weights and the training.
        progress: Called as ``progress(done, total, text)`` as the batches go, in the unit of the run.
        save_folder: Where to keep checkpoints of the finished run, ``checkpoint.pt``, and of the end of each phase
            before, such as ``checkpoint-ssl.pt``; None for nowhere.
        checkpoints: N also keeps those after each Nth of the run, such as ``checkpoint-25.pt`` after a quarter.
        logs: Where the recipe's loggers write; None to log nothing.
        announce: Called with a line at the end of each epoch; see :class:`mixplug.lab.runs.progress.RunProgress`.
        unfinished: Where to keep what an interrupted run goes on from, and to look for it; None for nowhere.
        save_interval: How often, such as '2ep' or '100ba'; empty for as often as costs little.

    Raises:
        TypeError: something in the recipe has the wrong type.
        ValueError: something in the recipe is out of range or unknown, or ``unfinished`` is of another run.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: str,
        seed: int,
        progress: Progress | None = None,
        save_folder: Path | None = None,
        checkpoints: int = 1,
        logs: Path | None = None,
        announce: Callable[[str], None] | None = None,
        unfinished: Unfinished | None = None,
        save_interval: str = "",
    ) -> None:
        check_choice("method", method, recipe.methods)
        check_choice("device", recipe.device, ("", "cpu", "gpu", "mps"))
        check_choice("precision", recipe.precision, [precision.value for precision in Precision])
        if recipe.compile:
            check_choice("compile", recipe.compile, torch.compiler.list_backends(None))
        check_interval("eval_interval", recipe.eval_interval)
        if save_interval:
            check_interval("save_interval", save_interval)
        for module in recipe.imports:
            import_named(module, "imports")
        self.recipe, self._seed = recipe, seed
        device = get_device(recipe.device or None)
        place = device.tensor_to_device(torch.empty(0)).device
        self.inputs = make_inputs(recipe, seed, place)
        check_probes(recipe.probes, self.inputs)
        torch.manual_seed(seed)
        self.model = make_classifier(recipe, self.inputs)
        self.backbone_path = encoder_path(recipe)
        self.algorithms = make_algorithms(recipe, method, self.inputs)
        self.plan, self.max_duration, self.run_cost = plan_run(recipe, method, self.model, self.algorithms, self.inputs)
        if recipe.keep != "last":
            self.algorithms.append(make_keep_best(recipe, seed, self.plan, self.backbone_path, place))
        self._accuracy = "accuracy" if isinstance(self.model, MultiTaskClassifier) else "MulticlassAccuracy"
        self._cpu_time = CPUTime()
        self._history = RunHistory(self.max_duration.unit, len(self.inputs.train))
        resumed_from = None if unfinished is None else unfinished.begin(self.inputs.summary)
        self._saver = None if unfinished is None else ProgressSaver(unfinished.folder, save_interval)
        # With MixTraining or without, a run that goes on sees the batches that it would have seen.
        resuming = [ExactResumption()] if unfinished and not find_in(self.algorithms, ExactResumption) else []
        self.trainer = Trainer(
            model=self.model,
            train_dataloader=self.inputs.train,
            eval_dataloader=self.inputs.evaluation,
            max_duration=self.max_duration,
            eval_interval=measuring_interval(recipe) if recipe.keep == "accuracy" else recipe.eval_interval,
            algorithms=[*self.algorithms, *resuming],
            optimizers=make_optimizer(recipe, method, self.model),
            schedulers=make_scheduler(recipe, method, self.algorithms),
            callbacks=[
                self._cpu_time,
                ModelDescription(make_spec(recipe, self.inputs)),
                *(build(spec, Callback, f"callbacks.{index}") for index, spec in enumerate(recipe.callbacks)),
                *([RunProgress(progress, announce, self._accuracy, self._work)] if progress or announce else []),
                *([] if save_folder is None else make_savers(save_folder, self.plan, self.max_duration, checkpoints)),
                *([] if self._saver is None else [self._saver]),
            ],
            loggers=[self._history, *([] if logs is None else make_loggers(recipe, logs, f"{method}-seed{seed}"))],
            run_name=f"{method}-seed{seed}",
            load_path=None if resumed_from is None else str(resumed_from),
            progress_bar=False,
            auto_log_hparams=False,
            precision=recipe.precision,
            compile_config={"backend": recipe.compile} if recipe.compile else None,
            device=device,
            seed=seed,
        )

    @property
    def cost(self) -> float | None:
        """What the run costs: see :class:`mixplug.lab.runs.costs.RunCost`; None where that cannot be told."""
        return self.run_cost.of(self.plan) if self._unit_costs else None

    @property
    def _unit_costs(self) -> dict[str, float]:
        known = self.run_cost.is_exact and self.max_duration.unit is TimeUnit.EPOCH
        return {phase.value: passes for phase, passes in self.run_cost.of_units().items()} if known else {}

    @functools.cached_property
    def _weights(self) -> dict[str, float]:
        """What a unit of each phase costs as the run begins; the same for all where that is not known."""
        return self._unit_costs or dict.fromkeys((span.phase.value for span in self.plan.phases), 1.0)

    def _work(self, done: float) -> float:
        """How much of the run's work its first ``done`` units are, in units of average cost.

        An epoch of SSL may pass over a hundred times as many images as one of SL.
        """
        spans = [(span, self._weights[span.phase.value]) for span in self.plan.phases]
        whole = sum(span.length * weight for span, weight in spans)
        begun = sum(min(max(done - span.start, 0), span.length) * weight for span, weight in spans)
        return self.plan.total * begun / whole

    @property
    def kept(self) -> str:
        """Up to where an interrupted run is kept, such as 'epoch 12 of 34'; empty where nothing is."""
        return "" if self._saver is None else self._saver.kept

    @property
    def resumed(self) -> str:
        """Where the run goes on, such as 'epoch 12 of 34'; empty where it begins."""
        timestamp = self.trainer.state.timestamp
        return describe_time(timestamp, self.max_duration) if timestamp.batch.value else ""

    def run(self) -> RunResult:
        """Train, and return what was measured.

        Raises:
            DivergedError: a loss, or a weight at the end, is NaN or infinite.
        """
        # Of the model as it is now, unless it is chosen while training: a run that goes on has chosen a part.
        begun = not self.run_cost.is_chosen_while_training
        cost, unit_costs = (self.cost, self._unit_costs) if begun else (None, {})
        joint = find_in(self.algorithms, JointLoss)
        if joint is None:
            self.trainer.state.callbacks.append(StopOnNaN())
        try:
            self.trainer.fit()
        finally:
            close_trainer(self.trainer)
        state = self.trainer.state
        if (joint is None or joint.stop_on_nan) and not all(p.isfinite().all() for p in self.model.parameters()):
            raise DivergedError("the last batch left weights that are not finite", state.timestamp.batch.value - 1)
        probes: dict[str, float] = {}
        if self.recipe.probes:
            backbone = unattached_backbone(self.model, self.backbone_path)
            features = probe_features(self.recipe, self._seed, backbone, state)
            probes = judge_features(features.values(), self.recipe.probes)
        accuracy = float(state.eval_metric_values[self._accuracy])
        probe = judging_probe((span.phase.value for span in self.plan.phases), self.recipe.probes)
        if probe is not None:
            accuracy = probes[probe]
        return self._result(
            accuracy=accuracy,
            probes=probes,
            task_accuracies={
                task: float(state.eval_metric_values[f"{self._accuracy}/{task}"]) for task in self.inputs.tasks if task
            },
            cost=(cost := self.cost if cost is None else cost),
            flops=None if cost is None else cost * self.run_cost.encoder_flops * self.inputs.labelled_images,
            test_images=None if len(self.inputs.tasks) > 1 else self.inputs.summary["data"]["test_images"],
            unit_costs=unit_costs or self._unit_costs,
            reconstruction=self._reconstruct(getattr(self.model, "ssl_objective", None)),
        )

    def diverged(self, error: DivergedError) -> RunResult:
        """The result of a run that :meth:`run` raised ``error`` for."""
        return self._result(accuracy=math.nan, diverged=error.batch)

    def _result(self, **measured: Any) -> RunResult:
        """What was measured, with what is known of every run."""
        timestamp, switch = self.trainer.state.timestamp, find_in(self.algorithms, PhaseSwitch)
        objective = getattr(self.model, "ssl_objective", None)
        keeping = find_in(self.algorithms, KeepBest)
        return RunResult(
            seconds=timestamp.total_wct.total_seconds() if timestamp.total_wct else 0.0,
            cpu_seconds=self._cpu_time.seconds,
            lengths={span.phase.value: span.length for span in self.plan.phases},
            unit=self.max_duration.unit.value,
            objective=None if objective is None else objective.kind,
            rho=None if switch is None else float(switch.rho),
            history=self._history.points(self._accuracy),
            settings=self._history.settings(),
            kept=None if keeping is None else keeping.kept,
            **measured,
        )

    def _reconstruct(self, objective: Any) -> Reconstruction | None:
        if not isinstance(objective, MAE) or not self.recipe.pictures:
            return None
        images = _different_images(self.inputs.evaluation, self.recipe.pictures, sum(self.inputs.tasks.values()))
        device = next(self.model.parameters()).device
        self.model.eval()
        # The same hidden patches for every method: Fig. 4 of Li et al. compares reconstructions.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pictures = objective.reconstruct(backbone_of(self.model, self.backbone_path), images.to(device))
        return Reconstruction(*(picture.float().cpu() for picture in pictures))


def _different_images(batches: Iterable[Any], count: int, classes: int) -> torch.Tensor:
    """As many images, or all there are, of as many classes as can be: the first of each, the second of each, ..."""
    share = -(-count // classes)
    taken: dict[int, list[torch.Tensor]] = {}
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            own = taken.setdefault(label, [])
            if len(own) < count:
                own.append(image)
        if len(taken) >= min(count, classes) and sum(min(len(own), share) for own in taken.values()) >= count:
            break
    by_rank = [own[rank] for rank in range(count) for _, own in sorted(taken.items()) if rank < len(own)]
    return torch.stack(by_rank[:count])


def check_interval(name: str, interval: str) -> None:
    """Refuse what is no interval.

    Raises:
        ValueError: it is none, or not above 0.
    """
    try:
        time = Time.from_timestring(interval)
    except ValueError as error:
        raise ValueError(f"{name} must be like '10ep', '100ba' or '0.1dur', got {interval!r}") from error
    if not time.value > 0:
        raise ValueError(f"{name} must be above 0, such as '10ep', '100ba' or '1dur' (the end); got {interval!r}")
