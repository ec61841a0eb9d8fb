"""Compression that measures the gradient's error while it trains; see :class:`mixplug.AutoCompression`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mixplug.backbones import PassRequest
from mixplug.checks import check_choice, check_int, check_real
from mixplug.data.processes import rank, summed, world_size
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import CLOCKS, time_on
from mixplug.training.costs import CostCounter
from mixplug.training.error_estimates import FEWEST, GradientErrors
from mixplug.training.gradient_error import StepGradients, Strategy
from mixplug.training.step import Training
from mixplug.training.token_dropout import PHASES


class CompressByError:
    """Compresses passes by the strategy whose gradients had the least CA-MSE so far.

    On a share of the steps the gradients of all strategies are compared with the uncompressed one, of the same images
    and random numbers, on copies. As soon as there are enough sub-batches, and then at the end of each stage, the
    strategy of least CA-MSE is taken; a stage that saw too few goes on with its strategy and keeps what it saw. What
    measuring costs is counted in operations and never more than a share of what training has cost so far; copying the
    model, which counts none, comes on top. From the next stage on estimates begin anew.

    It is deterministic, draws no random numbers of the training's, and keeps a vector as long as the gradient for each
    strategy and one more, which checkpoints hold as well.

    Args:
        rates: Shares of dropped patch tokens to choose from, each in [0, 1).
        patches: Sides of patches in pixels to choose from, each with each rate; none is the native size alone.
        share: What measuring may cost of what training costs, in (0, 1].
        stages: How many stages of equal length the clock is divided into.
        budget: ``Budget`` of Eq. 10 in uncompressed steps; of several steps, whose noise averages out, bias matters
            more.
        sub_batch: Images of a sub-batch, of each process; see :func:`mixplug.gradient_error`.
        over: The clock of the stages; by default self-supervised learning.
        phases: The phases in which passes are compressed and measured. By default those that the clock runs in:
            ``('ssl', 'mix')``, or all where it runs over 'phase' or 'run'.

    Attributes:
        strategies: The strategies; training begins with the first: the first rate and patch.
        strategy: The one in force.
        trained: What the steps of its phases have cost, in forward passes of the plain encoder.
        spent: What measuring has cost on top.
        images: How many images these steps had.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or there is no such clock or phase.
    """

    def __init__(
        self,
        rates: Sequence[float] = (0.0, 0.5, 0.75),
        patches: Sequence[int] = (),
        share: float = 0.03,
        stages: int = 8,
        budget: float = 1.0,
        sub_batch: int = 64,
        over: str = "ssl",
        phases: Iterable[str] | None = None,
    ) -> None:
        for name, values in (("rates", rates), ("patches", patches)):
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise TypeError(f"{name} must be several to choose from, such as (0, 0.5), got {values!r}")
        if not rates:
            raise ValueError("rates must be at least one, such as (0, 0.5), got none; 0 drops nothing")
        self.rates, self.patches = tuple(rates), tuple(patches)
        self.strategies = [Strategy(rate, patch) for patch in self.patches or (None,) for rate in self.rates]
        self.share = check_real("share", share, 0, 1, low_open=True)
        self.stages = check_int("stages", stages, 1)
        self.budget = check_real("budget", budget, 0, math.inf, low_open=True, high_open=True)
        self.sub_batch = check_int("sub_batch", sub_batch, 1)
        self.over = check_choice("over", over, CLOCKS)
        if phases is None:
            phases = ("ssl", "mix") if over in ("ssl", "mix") else PHASES
        if isinstance(phases, str):
            raise TypeError(f"phases must be several of {list(PHASES)}, such as ('sl',); got {phases!r}")
        self.phases = tuple(check_choice("a phase of AutoCompression", str(phase), PHASES) for phase in phases)
        self.trained = self.spent = 0.0
        self.images = 0
        self._current = 0
        self._stage: int | None = None
        self._last_step = -1
        self._costs: dict[tuple[Phase, Strategy], float] = {}
        self._relative_costs: list[float] = []
        self._begin()

    @property
    def strategy(self) -> Strategy:
        """See the class."""
        return self.strategies[self._current]

    @property
    def has_chosen(self) -> bool:
        """Whether there have been enough sub-batches for a choice."""
        return self._stage is not None

    @property
    def sub_batches(self) -> int:
        """How many have been compared since the last choice."""
        return self._errors.count

    @property
    def mean_cost(self) -> float:
        """What an image has cost, with what measuring has cost on top, in forward passes of the plain encoder."""
        return (self.trained + self.spent) / self.images if self.images else 0.0

    @property
    def overhead(self) -> float:
        """What measuring has cost of what training has cost."""
        return self.spent / self.trained if self.trained else 0.0

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` as the strategy in force changes it."""
        if request.position.phase.value in self.phases:
            for amendment in self.strategy.amendments:
                request = amendment(request)
        return request

    def yields_to(self, request: PassRequest) -> bool:
        """Whether the objective chooses tokens or patches itself, as MAE does."""
        return any(a.yields_to(request) for strategy in self.strategies for a in strategy.amendments)

    def advance(self, position: Position) -> None:
        """Take another strategy, if it is time to; before the step at ``position`` begins."""
        if position.phase.value not in self.phases:
            return
        stage = min(int(time_on(self.over, position) * self.stages), self.stages - 1)
        # Training begins with a guess: the first choice is made as soon as it can be.
        due = self._stage is None or stage > self._stage
        if due and self._errors.count >= FEWEST:
            errors = [self._errors.ca_mse(i, self._relative_costs[i]) for i in range(len(self.strategies))]
            self._current = errors.index(min(errors))
            self._stage = stage
            self._begin()

    def measure(
        self,
        images: Tensor,
        labels: Any,
        position: Position,
        gradients: Callable[[], StepGradients],
        cost: Callable[[Strategy], float],
    ) -> None:
        """Count the step at ``position``, and compare gradients if that can be afforded; nothing of the step changes.

        Args:
            images: The batch, ``(B, C, H, W)``.
            labels: Its labels, ``(B, ...)``, or None.
            position: Where the step is.
            gradients: Makes copies of the model and the objective, when they are needed.
            cost: Of an image's step with a strategy, in forward passes; asked once for each phase.
        """
        if position.phase.value not in self.phases or position.step == self._last_step:
            return
        self._last_step = position.step
        costs = [self._cost(strategy, position.phase, cost) for strategy in self.strategies]
        exact = self._cost(Strategy(), position.phase, cost)
        self.images += len(images)
        self.trained += len(images) * costs[self._current]
        price = self.sub_batch * (exact + sum(c for s, c in zip(self.strategies, costs, strict=True) if s.amendments))
        self._relative_costs = [c / (self.budget * len(images) * world_size() * exact) for c in costs]
        made: StepGradients | None = None
        for index in range(len(images) // self.sub_batch):
            if self.spent + price > self.share * self.trained:
                return
            self.spent += price
            made = made or gradients()
            chosen = slice(index * self.sub_batch, (index + 1) * self.sub_batch)
            self._compare(made, images[chosen], None if labels is None else labels[chosen], position.step)

    def observe(self, training: Training, time: float, images: Tensor, labels: Tensor | None = None) -> None:
        """Before a step of a hand-written loop: :meth:`advance` and :meth:`measure`.

        Args:
            training: The loop's, which has this among its plugins.
            time: Where the step begins, as ``training.step`` is told.
            images: Its batch.
            labels: Their classes.
        """
        position = training.plan.position(time, step=training.steps)
        self.advance(position)
        model, objective, alpha, path = training.model, training.objective, training.alpha, training.backbone_path
        shape = (images.shape[1], images.shape[2], images.shape[3])
        self.measure(
            images,
            labels,
            position,
            lambda: StepGradients(model, objective, position, alpha, path),
            lambda s: (
                CostCounter(model, objective, shape, self.sub_batch, alpha, s.amendments, path).at(position).passes
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know, as tensors and primitives."""
        return {
            "current": self._current,
            "stage": self._stage,
            "last_step": self._last_step,
            "trained": self.trained,
            "spent": self.spent,
            "images": self.images,
            "relative_costs": list(self._relative_costs),
            "errors": self._errors.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._current, self._stage, self._last_step = state["current"], state["stage"], state["last_step"]
        self.trained, self.spent, self.images = state["trained"], state["spent"], state["images"]
        self._begin()
        self._relative_costs = list(state["relative_costs"])
        self._errors.load_state_dict(state["errors"])

    def _begin(self) -> None:
        self._errors = GradientErrors(len(self.strategies), self.sub_batch * world_size())
        self._relative_costs = []

    def _cost(self, strategy: Strategy, phase: Phase, cost: Callable[[Strategy], float]) -> float:
        key = phase, strategy
        if key not in self._costs:
            self._costs[key] = cost(strategy)
        return self._costs[key]

    def _compare(self, gradients: StepGradients, images: Tensor, labels: Any, step: int) -> None:
        def of(strategy: Strategy) -> Tensor:
            return summed(gradients.of(strategy, images, labels, seed)) / world_size()

        seed = 1_000 * step + self._errors.count + 1_000_003 * rank()
        with gradients.own_randomness():
            exact = of(Strategy())
            self._errors.add(exact, [of(s) if s.amendments else exact for s in self.strategies])

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        given = ("rates", "patches", "share", "stages", "budget", "sub_batch", "over", "phases")
        return {name: getattr(self, name) for name in given}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"
