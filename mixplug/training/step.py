"""Training: what happens around a step of a hand-written loop; the loop's own lines stay its own.

The Composer Algorithms do the same around a step of a Trainer, and reach the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixplug.backbones import BackbonePass, PassRequest, backbone_of
from mixplug.checks import check_int
from mixplug.objectives import Objective
from mixplug.objectives.joint import ALPHA, LossWeights, joint_loss, phase_weights
from mixplug.schedules.phases import Phase, PhasePlan, Position
from mixplug.schedules.shapes import Schedule, check_schedule
from mixplug.training.encoder_pass import Amendment, EncoderPass
from mixplug.training.exact_microbatches import ExactMicrobatches

Supervised = Callable[[Tensor, slice], Tensor]
"""The mean supervised loss of the logits of a part of a batch, and which part that is."""


class Training:
    """Phases, passes, losses and hooks of a hand-written loop, with the same plugins as under Composer.

    Args:
        model: Images to logits; it is or holds the encoder.
        plan: The phases, in any unit of time (epochs).
        objective: The self-supervised objective, which is built for the model's encoder; None where the plan is
            supervised learning alone.
        alpha: Weight of the self-supervised loss in MIX, in [0, 1]: a number or a schedule, by default over MIX.
        plugins: Amendments of the passes over the encoder; see :class:`mixplug.EncoderPass`. What they have of
            ``before_step()`` and ``after_step()`` is called as a step begins, and after the optimizer's.
        backbone: Dotted name of the encoder inside of the model, if it holds several of timm's, or none.

    Attributes:
        encoder_pass: The passes over the encoder.
        steps: Optimizer steps that have been made; set it, and load ``objective``'s state, to go on with a training.

    Raises:
        TypeError: an argument has the wrong type, or the model holds no encoder that the objective can use.
        ValueError: the plan has self-supervised learning and there is no objective, or ``alpha`` leaves [0, 1].

    Example:
        >>> training = Training(model, PhasePlan(4, 4, 0.5), MAE(mask="input"))  # doctest: +SKIP
        >>> optimizer = torch.optim.AdamW(training.parameters())  # doctest: +SKIP
        >>> for epoch in range(training.plan.total):  # doctest: +SKIP
        ...     for index, (images, labels) in enumerate(loader):
        ...         with training.step(epoch + index / len(loader), optimizer) as step:
        ...             loss = step.loss(F.cross_entropy(model(images), labels))
        ...             optimizer.zero_grad()
        ...             loss.backward()
        ...             optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        plan: PhasePlan,
        objective: Objective | None = None,
        alpha: Schedule = ALPHA,
        plugins: Iterable[Amendment] = (),
        backbone: str | None = None,
    ) -> None:
        if not isinstance(plan, PhasePlan):
            raise TypeError(f"plan must be a PhasePlan, such as PhasePlan(4, 4, 0.5), got {plan!r}")
        if objective is None and plan.e_ssl:
            raise ValueError(
                f"{plan!r} has self-supervised learning, which needs an objective, such as MAE(mask='input'); for "
                f"supervised learning alone use e_ssl=0"
            )
        if objective is not None and not isinstance(objective, Objective):
            raise TypeError(f"objective must be an objective such as MAE(), got {objective!r}")
        self.model, self.plan = model, plan
        self.alpha = check_schedule("alpha", alpha, 0, 1)
        self.backbone_path = backbone
        adapter = backbone_of(model, backbone)
        self.objective = None if objective is None else objective.build(adapter)
        self.encoder_pass = EncoderPass(adapter, self.objective)
        for plugin in plugins:
            self.encoder_pass.add(plugin)
        self.steps = 0
        self._in_step = False

    def parameters(self) -> list[nn.Parameter]:
        """What an optimizer shall train: the model's parameters, and the objective's but for its frozen ones."""
        if self.objective is None:
            return list(self.model.parameters())
        frozen = {id(p) for p in self.objective.frozen_parameters()}
        own = {id(p) for p in self.model.parameters()}
        return [
            *self.model.parameters(),
            *(p for p in self.objective.parameters() if id(p) not in frozen and id(p) not in own),
        ]

    @contextmanager
    def step(self, time: float, optimizer: Optimizer) -> Iterator[TrainingStep]:
        """One optimizer step, made inside of the block; gradients of several microbatches may be accumulated in it.

        For each forward pass of the model comes one ``step.loss(...)``. Between ``backward`` and the optimizer's step
        the gradients of what the phase does not train are dropped, and at the block's end momentum encoders, queues
        and centres follow.

        Args:
            time: Where the step begins, in the plan's units, in ``[0, plan.total]``.
            optimizer: The one whose ``step()`` is called in the block; where a gradient scaler leaves it out because
                gradients are not finite, no step is made and nothing follows.

        Raises:
            ValueError: ``time`` is out of range, or two plugins want the same of a pass.
            RuntimeError: in the block the model did not run its encoder once for each ``step.loss``, there was none, or
                the optimizer made no step.
        """
        if self._in_step:
            raise RuntimeError("a step began within another one: end its block first")
        position = self.plan.position(time, step=self.steps)
        if self.objective is not None and not self.steps:
            self.objective.begin()
        step = TrainingStep(self, position)
        self._in_step = True
        hooks = (
            optimizer.register_step_pre_hook(lambda *_: step.complete_gradients()),
            optimizer.register_step_post_hook(lambda *_: step.note_optimizer_step()),
        )
        try:
            step.watch()
            yield step
            step.end(optimizer)
        finally:
            self._in_step = False
            self.encoder_pass.backbone.abandon()
            for hook in hooks:
                hook.remove()


class TrainingStep:
    """A step of a :class:`Training`.

    Attributes:
        position: Where the training is.
        weights: What the two losses weigh.
    """

    def __init__(self, training: Training, position: Position) -> None:
        self.position = position
        self.weights: LossWeights = phase_weights(position, training.alpha)
        self._training = training
        self._objective = None if position.phase is Phase.SL else training.objective
        self._request: PassRequest | None = training.encoder_pass.request(position)
        self._seen: BackbonePass | None = None
        self._ssl_loss: Callable[[BackbonePass], Tensor] | None = self._objective
        self._losses = 0
        self._optimizer_stepped = False
        if self._objective is not None:
            self._objective.before_step()
        self._tell_plugins("before_step")

    def watch(self) -> None:
        """Begin to watch the model's next forward pass."""
        if self._request is not None:
            self._seen = self._training.encoder_pass.start(self._request)

    def loss(self, supervised: Tensor | None = None) -> Tensor:
        """The joint loss (Li et al., Eq. 3) of the forward pass before, a scalar to call ``backward`` on.

        Args:
            supervised: The supervised loss of that pass, a scalar; may be left out where it weighs nothing.

        Raises:
            RuntimeError: the model did not run its encoder exactly once since the last one.
            ValueError: there is no supervised loss although it has a weight.
        """
        ssl = None
        if self._request is not None:
            self._training.encoder_pass.stop()
            assert self._seen is not None
            if self._ssl_loss is not None:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights.ssl > 0):
                    ssl = self._ssl_loss(self._seen)
        total = joint_loss(ssl, supervised, self.weights)
        self._losses += 1
        self.watch()
        return total

    def backward(self, images: Tensor, size: int, supervised: Supervised | None = None) -> Tensor:
        """Run the model and add the gradients of a whole batch, in microbatches of ``size`` images.

        It stands for the model's pass, ``step.loss(...)`` and ``backward``. Where a loss depends on the other images of
        the batch (SimCLR, MoCoV3, heads with BatchNorm) the gradients are the whole batch's all the same, for one more
        pass without gradient over each image; see :mod:`mixplug.training.exact_microbatches`. Encoders with BatchNorm
        still take its statistics from a microbatch. There is no gradient scaler in it: train in float32 or bfloat16.

        Args:
            images: A batch ``(B, C, H, W)``.
            size: Images of a microbatch, at least 1.
            supervised: ``(logits, part) -> loss``, the mean supervised loss of the images ``part``, a slice of the
                batch; may be left out where it weighs nothing.

        Returns:
            The joint loss of the batch, without gradient.

        Raises:
            TypeError: ``size`` is not an integer.
            ValueError: ``size`` is below 1, there is no supervised loss although it has a weight, or the model's
                encoder is given something else than ``images``.

        Example:
            >>> with training.step(time, optimizer) as step:  # doctest: +SKIP
            ...     optimizer.zero_grad()
            ...     step.backward(images, 64, lambda logits, part: F.cross_entropy(logits, labels[part]))
            ...     optimizer.step()
        """
        check_int("size", size, 1)
        model, passes, parts = self._training.model, self._training.encoder_pass, images.split(size)
        exact: ExactMicrobatches | None = None
        if self._objective is not None and self._request is not None and passes.within_batch(self._request) is not None:
            passes.backbone.abandon()
            exact = ExactMicrobatches(
                passes, self._request, parts, lambda index: model(parts[index]), model, self.weights.ssl > 0
            )
        total, start = images.new_zeros(()), 0
        for index, part in enumerate(parts):
            share, span = len(part) / len(images), slice(start, start + len(part))
            if exact is not None:
                exact.set_random_numbers(index)
                self._seen = passes.start(exact.requests[index])
                self._ssl_loss = partial(exact.loss_of, index)
            logits = model(part)
            loss = share * self.loss(None if supervised is None else supervised(logits, span))
            loss.backward()
            total, start = total + loss.detach(), span.stop
        if exact is not None:
            exact.finish()
            self._ssl_loss = self._objective
        return total

    def complete_gradients(self) -> None:
        """The gradients are complete: drop those of what the phase does not train, and let the objective have a say."""
        if self._objective is not None:
            self._objective.after_backward(self.position)
        if self._training.objective is not None:
            backbone = self._training.encoder_pass.backbone
            head = list(self._training.objective.parameters())
            drop_unused_gradients(self.weights, head, supervised_only(self._training.model, backbone, head))

    def note_optimizer_step(self) -> None:
        """The optimizer has stepped."""
        self._optimizer_stepped = True

    def end(self, optimizer: Optimizer) -> None:
        """Let the objective act on the step.

        Raises:
            RuntimeError: the block was not a step.
        """
        if not self._losses:
            raise RuntimeError(
                "the block of a step ended without a loss: run the model once and call step.loss(supervised_loss)"
            )
        if self._seen is not None and self._request is not None and self._seen.runs:
            raise RuntimeError(
                "the model ran once more after the last step.loss(...): call step.loss(...) after each forward pass of "
                "a step, and run what is not part of it outside of the block"
            )
        if not self._optimizer_stepped:
            if _finite_gradients(optimizer):
                raise RuntimeError(
                    "the block of a step ended without optimizer.step(): call it inside of the block. To accumulate "
                    "gradients, run several forward and backward passes in one block, and the optimizer at its end"
                )
            return  # a gradient scaler left it out
        if self._training.objective is not None:
            self._training.objective.after_step(self.position)
        self._tell_plugins("after_step")
        self._training.steps += 1

    def _tell_plugins(self, hook: str) -> None:
        for plugin in self._training.encoder_pass.amendments:
            getattr(plugin, hook, lambda: None)()


def supervised_only(model: nn.Module, backbone: Any, head: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters of ``model`` that neither lead to the encoder's output nor belong to the self-supervised ``head``."""
    shared = {id(p) for p in (*backbone.encoder_parameters, *head)}
    return [p for p in model.parameters() if id(p) not in shared]


def drop_unused_gradients(
    weights: LossWeights,
    head: Iterable[nn.Parameter],
    supervised: Iterable[nn.Parameter],
    is_zero: Callable[[Tensor], bool] = lambda gradient: not gradient.any(),
) -> None:
    """Drop the gradients of what a loss without weight alone would train: weight decay would move it.

    Args:
        weights: What the two losses weigh.
        head: The self-supervised head's parameters.
        supervised: Parameters that only the supervised loss may reach. What lies outside of the encoder need not be a
            head (a stem before it learns from the other loss too), so only what got no gradient counts as unused.
        is_zero: Whether a gradient is 0.
    """
    if weights.ssl == 0:
        for parameter in head:
            parameter.grad = None
    if weights.sl == 0:
        for parameter in supervised:
            if parameter.grad is not None and is_zero(parameter.grad):
                parameter.grad = None


def _finite_gradients(optimizer: Optimizer) -> bool:
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return all(bool(gradient.isfinite().all()) for gradient in gradients)
