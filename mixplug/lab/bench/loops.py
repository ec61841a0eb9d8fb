"""Loops in plain PyTorch that do what a phase of a method does on its Trainer."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import Tensor, nn

from mixplug import FusedBackbonePass, JointLoss, PatchScaling, TokenDropout
from mixplug.algorithms.trainer.contract import PhasedAlgorithm, find_in, parts_of
from mixplug.algorithms.trainer.passes import AmendingAlgorithm
from mixplug.backbones import backbone_of
from mixplug.backbones.selection import random_visible
from mixplug.lab.bench.plain import PlainMAE, plain_steps
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.runs.parts import make_module, make_optimizer
from mixplug.objectives import MAE
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule, Shape
from mixplug.training.step import Training

_AUTOCAST = {"fp32": None, "amp_bf16": torch.bfloat16}


class StepLoop:
    """A loop of training steps; subclasses say what a step is.

    It has a model, an optimizer and batches of its own, of the same kind as the method's.

    Args:
        experiment: The method's run.
        method: Its key in the recipe.
        phase: The phase.
    """

    label = ""

    def __init__(self, experiment: Experiment, method: str, phase: Phase) -> None:
        recipe = experiment.recipe
        device = next(experiment.model.parameters()).device
        inputs = make_inputs(recipe, recipe.first_seed, device)
        self.phase = phase
        self.model: Any = make_module(recipe, inputs).to(device)
        self.inputs = inputs
        # Composer has automatic precision on GPUs alone.
        self.autocast = _AUTOCAST[recipe.precision] if device.type == "cuda" else None
        trained = nn.ModuleList([self.model])
        head = self.head(experiment)
        if head is not None:
            trained.append(head.to(device))
        self.optimizer = make_optimizer(recipe, method, trained)

    def head(self, experiment: Experiment) -> nn.Module | None:
        """What is trained with the model."""
        raise NotImplementedError

    def steps(self, progress: float) -> Iterator[Any]:
        """A generator that makes a step each time."""
        raise NotImplementedError

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch, all batches but those smaller than an epoch's first."""
        while True:
            full = 0
            for images, labels in self.inputs.train:
                full = full or len(images)
                if len(images) == full:
                    yield images, labels

    def run(self, progress: float, steps: int) -> list[float]:
        """Seconds of each of ``steps`` steps at ``progress`` of the phase, after one that warms up."""
        begun, ends = self.steps(progress), []
        for _ in range(steps + 1):
            next(begun)
            ends.append(time.perf_counter())
        return [end - begin for begin, end in itertools.pairwise(ends)]


class PlainLoop(StepLoop):
    """Written by hand, without mixplug: see :mod:`mixplug.lab.bench.plain`."""

    label = "hand-written"

    def head(self, experiment: Experiment) -> nn.Module | None:
        """The decoder."""
        self.decoder: PlainMAE | None = None
        self.mask, self.alpha = "features", 0.5
        objective: Any = getattr(experiment.model, "ssl_objective", None)
        if objective is None:
            self.phase = Phase.SL  # phases of a PhaseSwitch alone, which has one loss
        for part in _amending(experiment, self.phase):
            self.model.patch_drop = PatchDropout(part.amendment.rate, self.model.num_prefix_tokens)
        if self.phase is not Phase.SL:
            self.mask = objective.mask if objective.fused else "two passes"
            self.decoder = PlainMAE(self.model, objective.mask_ratio, objective.decoder_depth)
        if self.phase is Phase.MIX:
            alpha = _alpha(experiment)
            assert isinstance(alpha, (int, float))
            self.alpha = alpha
        return self.decoder

    def steps(self, progress: float) -> Iterator[Any]:
        """See the base class."""
        yield from plain_steps(
            self.model,
            self.decoder,
            self.batches(),
            self.optimizer,
            self.phase.value,
            self.alpha,
            self.mask,
            self.autocast,
        )


class FunctionLoop(StepLoop):
    """Written with mixplug's :class:`mixplug.Training`: for what has no loop without."""

    label = "mixplug's functions"

    def head(self, experiment: Experiment) -> nn.Module | None:
        """The objective."""
        fused = find_in(experiment.algorithms, FusedBackbonePass)
        objective, path = (None, None) if fused is None else (copy.deepcopy(fused.objective), fused.backbone_path)
        amendments = [part.amendment for part in _amending(experiment, self.phase)]
        self.training = Training(self.model, experiment.plan, objective, _alpha(experiment), amendments, path)
        return self.training.objective

    def steps(self, progress: float) -> Iterator[Any]:
        """See the base class."""
        device = next(self.model.parameters()).device
        (span,) = (span for span in self.training.plan.phases if span.phase is self.phase)
        for images, labels in self.batches():
            images, labels = images.to(device), labels.to(device)
            with self.training.step(span.start + progress * span.length, self.optimizer) as step:
                with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
                    loss = step.loss(F.cross_entropy(self.model(images), labels))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            yield loss.item()


def loop_for(experiment: Experiment, method: str, phase: Phase) -> tuple[str, type[StepLoop]] | None:
    """The loop with the arithmetic of ``phase`` of a method, and a key that methods of the same arithmetic share.

    There is none for a method with other algorithms than mixplug's, with several tasks or other images for SSL,
    compiled, or in half precision with a scaled loss.
    """
    recipe, objective = experiment.recipe, getattr(experiment.model, "ssl_objective", None)
    if any(not isinstance(algorithm, PhasedAlgorithm) for algorithm in experiment.algorithms):
        return None
    if recipe.ssl_data or len(experiment.inputs.tasks) > 1 or recipe.compile or recipe.precision not in _AUTOCAST:
        return None
    amending = _amending(experiment, phase)
    if any(not isinstance(part, (TokenDropout, PatchScaling)) for part in amending):
        return None  # what it does it decides while training
    if amending and objective is None and experiment.plan.e_ssl:
        return None  # a Training with self-supervised phases has an objective
    optimizer = recipe.methods[method].optimizer or recipe.optimizer
    amended = "".join(f", {part!r}" for part in amending)
    if phase is Phase.SL or objective is None:
        return f"sl, {optimizer}{amended}", PlainLoop if _is_constant_dropout(amending) else FunctionLoop
    fused = find_in(experiment.algorithms, FusedBackbonePass)
    assert fused is not None
    weight = f", alpha={_alpha(experiment)}" if phase is Phase.MIX else ""
    key = f"{phase}, {optimizer}, {' '.join(repr(fused.objective).split())}{weight}{amended}"
    return key, PlainLoop if not amending and _is_plain(experiment, fused, phase) else FunctionLoop


def _amending(experiment: Experiment, phase: Phase) -> list[AmendingAlgorithm]:
    """The algorithms that change what the passes of ``phase`` are shown."""
    parts = [part for part in parts_of(experiment.algorithms) if isinstance(part, AmendingAlgorithm)]
    objective: Any = getattr(experiment.model, "ssl_objective", None)
    request = None if objective is None or phase is Phase.SL else objective.request(Position(phase))
    return [
        part
        for part in parts
        if phase.value in part.amendment.phases and (request is None or not part.amendment.yields_to(request))
    ]


def _is_constant_dropout(amending: list[AmendingAlgorithm]) -> bool:
    """Whether timm's own PatchDropout does what there is to do, if anything."""
    rates = [part.rate if isinstance(part, TokenDropout) else None for part in amending]
    return not rates or (len(rates) == 1 and isinstance(rates[0], (int, float)))


def _is_plain(experiment: Experiment, fused: FusedBackbonePass, phase: Phase) -> bool:
    """Whether the hand-written loop can do the same: MAE in its usual form, both losses in MIX, and no ramps."""
    objective, alpha = fused.objective, _alpha(experiment)
    if not isinstance(objective, MAE) or isinstance(objective.mask_ratio, Shape):
        return False
    usual = (objective.decoder_dim, objective.decoder_heads, objective.norm_pix, objective.loss)
    if usual != (None, None, False, "masked"):
        return False
    if phase is Phase.MIX and (isinstance(alpha, Shape) or not 0 < alpha < 1):
        return False
    embed: Any = backbone_of(experiment.model, fused.backbone_path).model.patch_embed
    patches = embed.num_patches
    # It holds the numbers of visible patches to no bounds, and knows one size of images.
    visible = random_visible(1, patches, torch.device("cpu"), ratio=objective.mask_ratio).shape[1]
    own_size = tuple(embed.img_size) == experiment.inputs.shape[1:]
    return own_size and visible == int(patches * (1 - objective.mask_ratio))


def _alpha(experiment: Experiment) -> Schedule:
    joint = find_in(experiment.algorithms, JointLoss)
    return 0.5 if joint is None else joint.alpha
