"""How far the gradient of a compressed step is from the true one: bias, variance and what they cost.

Token dropout and larger patches make a step cheaper and its gradient another one. With the money saved more images fit
into a step, which lowers the variance, not the bias. The cost-adjusted mean squared error weighs both (the compression
paper, "Accelerating Augmentation Invariance Pretraining", Eqs. 8 to 10):

    CA-MSE(c) = Bias^2(c) + Cost(c) / Budget * Var(c)

with Bias^2 = |E[g_c] - G|^2, G the true gradient E[g] of uncompressed steps, Var that of one image's gradient, Cost
that of one image and Budget what a whole step may cost. The strategy c that makes it least is the one to train with.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixplug.backbones import Backbone, PassRequest, backbone_of, detach_backbones
from mixplug.checks import check_int, check_real
from mixplug.data.batches import images_of
from mixplug.objectives import Objective
from mixplug.objectives.joint import ALPHA, LossWeights, joint_loss, phase_weights
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule
from mixplug.training.costs import CostCounter
from mixplug.training.encoder_pass import Amendment, EncoderPass
from mixplug.training.error_estimates import FEWEST, Estimate, GradientErrors
from mixplug.training.patch_scaling import ScalePatches
from mixplug.training.token_dropout import DropTokens


@dataclass(frozen=True)
class Strategy:
    """A way to shorten the sequences that a vision transformer sees.

    Args:
        rate: Share of the patch tokens that is dropped, in [0, 1).
        patch: Side of a patch in pixels; None for the native one.

    Raises:
        TypeError: a number is none.
        ValueError: a number is out of range.
    """

    rate: float = 0.0
    patch: int | None = None

    def __post_init__(self) -> None:
        _ = self.amendments  # which check

    @functools.cached_property
    def amendments(self) -> list[DropTokens | ScalePatches]:
        """What does this to the passes of a step; nothing for an uncompressed one."""
        dropped = [DropTokens(self.rate)] if self.rate != 0 else []
        return [*dropped, *([] if self.patch is None else [ScalePatches(self.patch)])]


@dataclass(frozen=True)
class StrategyError:
    """How good the gradient of a strategy is.

    All three errors are over the squared norm of the true gradient.

    Attributes:
        strategy: The strategy.
        cost: Of an image, in forward passes of the plain encoder.
        squared_bias: Without bias of its own, so it may be a little below 0.
        variance: ``Cost / Budget`` times the variance of an image's gradient.
        ca_mse: The sum of both.
    """

    strategy: Strategy
    cost: float
    squared_bias: Estimate
    variance: Estimate
    ca_mse: Estimate


@dataclass(frozen=True)
class GradientError:
    """What :func:`gradient_error` finds.

    Attributes:
        rows: A row for each strategy, in their order.
        squared_norm: Of the true gradient.
        budget: What a step may cost, in forward passes of the plain encoder.
        samples: How many images it was estimated from.
        sub_batch: Images of a sub-batch.
        within_batch: What of the loss depends on the other images of a sub-batch, so that all figures are those of
            sub-batches of this size; None if nothing does.
        position: Where in the training.
    """

    rows: tuple[StrategyError, ...]
    squared_norm: Estimate
    budget: float
    samples: int
    sub_batch: int
    within_batch: str | None
    position: Position

    @property
    def best(self) -> Strategy:
        """The strategy of least CA-MSE."""
        return min(self.rows, key=lambda row: row.ca_mse.value).strategy


def gradient_error(
    model: nn.Module,
    objective: Objective | None,
    data: Iterable[Any],
    strategies: Iterable[Strategy],
    budget: float,
    samples: int = 16384,
    sub_batch: int = 64,
    position: Position | Phase | str | None = None,
    alpha: Schedule = ALPHA,
    seed: int = 0,
    backbone: str | None = None,
) -> GradientError:
    """Bias and variance of the gradients of compressed steps (Eqs. 8 to 10 of the compression paper).

    The gradient is that of all parameters that are trained, the objective's heads included, in training mode. Each
    strategy gets the same images and the same random numbers (views, masks), and of a larger share of dropped tokens
    the kept ones are among those of a smaller share, so that strategies are compared within sub-batches.
    :class:`mixplug.training.error_estimates.GradientErrors` says how bias and variance are estimated without bias,
    and what the standard errors are. It keeps a vector as long as the gradient for each strategy and one more.

    Neither the model nor the objective nor the random numbers of the caller are changed.

    Args:
        model: Images to logits, a vision transformer of timm's or around one.
        objective: The self-supervised objective, built for the model or not; None for supervised learning alone.
        data: Batches of images, or of ``(images, labels)``, of any size, taken as independent draws. They are cut into
            sub-batches; data that ends before ``samples`` is used as far as it goes.
        strategies: Those to compare, such as ``[Strategy(), Strategy(0.5), Strategy(0.5, patch=8)]``.
        budget: What a step may cost, in forward passes of the plain encoder; a batch of B uncompressed images costs
            ``B * CostCounter(...).at(position).passes``. The paper does not state its own.
        samples: Images in all, at least 16 sub-batches.
        sub_batch: Images of a sub-batch. Where the loss compares images within the batch (SimCLR, MoCo v3) or
            normalises over it, this is part of what is measured: the gradient is then that of batches of this size.
        position: Where the training is; by default the beginning of SSL, without objective that of SL.
        alpha: Weight of the self-supervised loss in MIX, in [0, 1].
        seed: Of the random numbers.
        backbone: Dotted name of the encoder inside of the model, if it must be named.

    Raises:
        TypeError: an argument has the wrong type, a batch has no labels where the loss needs them, or the encoder is
            no vision transformer.
        ValueError: a number is out of range, the data is too short, there is nothing to compress (the objective chooses
            the tokens itself), a patch does not fit, or noise hides the true gradient
            (:class:`mixplug.training.error_estimates.HiddenGradientError`).

    Example:
        >>> strategies = [Strategy(), Strategy(0.5), Strategy(0.5, patch=8)]
        >>> error = gradient_error(vit, MoCoV3(), loader, strategies, budget=4096 * 8)  # doctest: +SKIP
        >>> error.best  # doctest: +SKIP
        Strategy(rate=0.5, patch=None)
    """
    compared = _check_strategies(strategies)
    check_real("budget", budget, 0, math.inf, low_open=True, high_open=True)
    sub_batch = check_int("sub_batch", sub_batch, 1)
    samples = check_int(f"samples, in {FEWEST} sub-batches of {sub_batch} or more,", samples, FEWEST * sub_batch)
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective must be an objective such as MoCoV3(), or None, got {objective!r}")
    if position is None:
        position = Phase.SL if objective is None else Phase.SSL
    position = Position.of(position)
    if objective is None and position.phase is not Phase.SL:
        raise ValueError(f"the {position.phase} phase needs an objective, such as MoCoV3(), got None; or use 'sl'")
    gradients = StepGradients(model, objective, position, alpha, backbone)
    gradients.check(compared)
    errors = GradientErrors(len(compared), sub_batch)
    shape: tuple[int, int, int] | None = None
    with gradients.own_randomness():
        for images, labels in _sub_batches(data, sub_batch, samples // sub_batch):
            shape = shape or (images.shape[1], images.shape[2], images.shape[3])
            drawn = seed * 1_000_003 + errors.count
            exact = gradients.of(Strategy(), images, labels, drawn)
            errors.add(exact, [gradients.of(s, images, labels, drawn) if s.amendments else exact for s in compared])
    if shape is None or errors.count < FEWEST:
        raise ValueError(
            f"data must have at least {FEWEST} sub-batches of {sub_batch} images, and has {errors.count}; give more, "
            f"or a smaller sub_batch"
        )
    costs = [
        CostCounter(model, objective, shape, sub_batch, alpha, strategy.amendments, backbone).at(position).passes
        for strategy in compared
    ]
    return GradientError(
        tuple(
            StrategyError(strategy, cost, *errors.relative(index, cost / budget))
            for index, (strategy, cost) in enumerate(zip(compared, costs, strict=True))
        ),
        errors.squared_norm,
        budget,
        errors.count * sub_batch,
        sub_batch,
        None if objective is None or position.phase is Phase.SL else objective.within_batch,
        position,
    )


class StepGradients:
    """Gradients of a training's steps, of copies that take no steps.

    Args:
        model: Images to logits.
        objective: See :func:`gradient_error`.
        position: Where the training is.
        alpha: Weight of the self-supervised loss in MIX.
        backbone: Dotted name of the encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective | None,
        position: Position,
        alpha: Schedule = ALPHA,
        backbone: str | None = None,
    ) -> None:
        self.position = position
        self.weights: LossWeights = phase_weights(position, alpha)
        # Together: a momentum encoder knows the encoder that it follows.
        self._model, self._objective = copy.deepcopy((model, objective))
        detach_backbones(self._model.train())
        self._backbone: Backbone = backbone_of(self._model, backbone)
        if self._objective is not None:
            with self.own_randomness():
                torch.manual_seed(0)  # heads that have not been made yet are the same ones at each call
                self._objective = self._objective.build(self._backbone).train()
        self._parameters = self._trained()
        self._draws = _OwnDraws()

    def own_randomness(self) -> AbstractContextManager[None]:
        """A block whose random numbers leave the caller's as they were."""
        devices = {p.device for p in self._model.parameters() if p.device.type == "cuda"}
        return torch.random.fork_rng(devices=list(devices))

    def check(self, strategies: Iterable[Strategy]) -> None:
        """Refuse strategies that would compress nothing.

        Raises:
            TypeError: the encoder is no vision transformer.
            ValueError: the objective chooses tokens or patches itself.
        """
        asked = self._passes([]).request(self.position) or PassRequest(self.position)
        for strategy in strategies:
            if strategy.amendments and not self._backbone.selects_tokens:
                raise TypeError(
                    f"{strategy} is for a timm VisionTransformer, whose patches are tokens, and "
                    f"{type(self._backbone.model).__name__} is none"
                )
            if any(amendment.yields_to(asked) for amendment in strategy.amendments):
                raise ValueError(
                    f"{strategy} compresses nothing in the {self.position.phase} phase, since "
                    f"{type(self._objective).__name__} chooses tokens or patches itself; compare at position='sl'"
                )

    def of(self, strategy: Strategy, images: Tensor, labels: Any, seed: int) -> Tensor:
        """The gradient ``(P,)`` of the mean loss of ``images`` ``(B, C, H, W)``, as the optimizer would get it.

        Args:
            strategy: How sequences are shortened.
            images: A sub-batch, on any device.
            labels: Its classes ``(B,)``, where the supervised loss has a weight.
            seed: Of the random numbers: the same for the same views and masks whatever the strategy.
        """
        device = self._parameters[0].device
        passes = self._passes(strategy.amendments)
        for parameter in self._parameters:
            parameter.grad = None
        ssl = None
        # What the pass itself draws (layers with dropout) depends on its tokens: begin anew behind it.
        torch.manual_seed(2 * seed)
        self._draws.seed = seed
        if self._objective is not None:
            self._objective.before_step()
        with passes.watch(self.position) as seen:
            outputs = self._outputs(images.to(device), labels)
        torch.manual_seed(2 * seed + 1)
        if self.weights.ssl and self._objective is not None:
            ssl = self._objective(seen)
        sl = self._supervised(outputs, images, labels) if self.weights.sl else None
        joint_loss(ssl, sl, self.weights).backward()
        if self._objective is not None and self.position.phase is not Phase.SL:
            self._objective.after_backward(self.position)
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self._parameters])

    def _outputs(self, images: Tensor, labels: Any) -> Any:
        """What the model makes of ``images``."""
        return self._model(images)

    def _supervised(self, outputs: Any, images: Tensor, labels: Any) -> Tensor:
        """The supervised loss, a scalar."""
        if labels is None:
            raise TypeError(f"the {self.position.phase} phase needs batches of (images, labels), got images alone")
        return F.cross_entropy(outputs, labels.to(outputs.device))

    def _passes(self, amendments: Sequence[Amendment]) -> EncoderPass:
        passes = EncoderPass(self._backbone, self._objective)
        for amendment in amendments:
            passes.add(amendment)
        if amendments:
            passes.add(self._draws)
        return passes

    def _trained(self) -> list[nn.Parameter]:
        objective = [] if self._objective is None else list(self._objective.parameters())
        frozen = set() if self._objective is None else {id(p) for p in self._objective.frozen_parameters()}
        found = {id(p): p for p in (*self._model.parameters(), *objective)}
        return [p for key, p in found.items() if key not in frozen]


class _OwnDraws:
    """An amendment by which tokens are drawn apart from all else: strategies have views and other tokens alike."""

    combines = True

    def __init__(self) -> None:
        self._seed = 0

    @property
    def seed(self) -> int:
        """Of the next pass that draws."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        # Primes keep the passes of one step apart from the next step's.
        self._seed = 7_919 * seed

    def __call__(self, request: PassRequest) -> PassRequest:
        select = request.select
        if select is None:
            return request

        def draw(batch: int, patches: int, device: torch.device) -> Tensor:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                self._seed += 1
                torch.manual_seed(self._seed)
                return select(batch, patches, device)

        return dataclasses.replace(request, select=draw)


def _check_strategies(strategies: Iterable[Strategy]) -> list[Strategy]:
    found = list(strategies) if isinstance(strategies, Iterable) else [strategies]
    if not found:
        raise ValueError("strategies must be at least one, such as [Strategy(), Strategy(rate=0.5)], got none")
    for strategy in found:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"strategies must be several of Strategy, such as [Strategy(rate=0.5)], got {strategy!r}")
    return found


def _sub_batches(data: Iterable[Any], size: int, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """At most ``count`` sub-batches of exactly ``size`` images and their labels, cut from batches of any size."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in data:
        found = images_of(batch, "a batch of data")
        images.append(found)
        if isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
            labels.append(batch[1])
        while sum(map(len, images)) >= size:
            together, classes = torch.cat(images), torch.cat(labels) if labels else None
            yield together[:size], None if classes is None else classes[:size]
            images, labels = [together[size:]], [] if classes is None else [classes[size:]]
            count -= 1
            if count == 0:
                return
