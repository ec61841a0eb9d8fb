"""Callbacks that measure a step: its arithmetic, its parts, its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from composer.core import Callback, Event, State
from composer.loggers import Logger
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mixplug.backbones.costs import counting_flops

PARTS = ("data", "forward", "SSL head", "backward", "optimizer", "trainer")
"""What a step's time is divided into: data is a batch's loading with what algorithms then make of it, such as other
sizes; the SSL head is the objective with further passes of the encoder; what is left over is the Trainer's, with all
else that its algorithms, callbacks and loggers do."""


class FlopWatch(Callback):
    """Counts the floating-point operations of one step: matrix products, convolutions and attention.

    Attributes:
        forward: Of all before the backward pass.
        backward: Of the backward pass.
    """

    def __init__(self) -> None:
        self.forward = self.backward = 0

    @contextmanager
    def counting(self) -> Iterator[FlopWatch]:
        """Count what the block does."""
        with counting_flops() as self._counter:
            yield self

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        """Divide at the backward pass; with microbatches each adds its own."""
        if event is Event.BATCH_START:
            self.forward = self.backward = 0
            self._last = self._counter.get_total_flops()
        elif event is Event.BEFORE_BACKWARD:
            self.forward += self._since()
        elif event is Event.AFTER_BACKWARD:
            self.backward += self._since()

    def _since(self) -> int:
        last, self._last = self._last, self._counter.get_total_flops()
        return self._last - last


class PartsWatch(Callback):
    """Divides the time of steps into :data:`PARTS`.

    Args:
        model: Whose self-supervised head, if it has one, is a part.
        optimizers: Whose arithmetic is a part.
        device: A GPU is waited for at the end of each part, so that its work counts where it belongs.

    Attributes:
        steps: The seconds of each part, step by step.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], device: torch.device) -> None:
        self.steps: list[dict[str, float]] = []
        self._objective = getattr(model, "ssl_objective", None)
        self._optimizers = optimizers
        self._device = device
        self._begun: dict[str, float] = {}
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._end: float | None = None

    @contextmanager
    def attached(self) -> Iterator[PartsWatch]:
        """Watch the head and the optimizers, while the block runs."""
        # Composer's closure, the passes, ends with AFTER_TRAIN_BATCH; then the optimizer computes.
        hooks = [o.register_step_post_hook(lambda *_: self._finish("optimizer")) for o in self._optimizers]
        if self._objective is not None:
            hooks += [
                self._objective.register_forward_pre_hook(lambda *_: self._begin("SSL head")),
                self._objective.register_forward_hook(lambda *_: self._finish("SSL head")),
            ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        """Note when the parts of a step begin and end."""
        if event in _BEGINS:
            self._begin(_BEGINS[event])
        elif event in _ENDS:
            self._finish(_ENDS[event])
        elif event is Event.BATCH_END:
            now = self._clock()
            if self._end is not None:
                self._spent["forward"] -= self._spent["SSL head"]  # computed within AFTER_FORWARD
                rest = now - self._end - sum(self._spent.values())
                self.steps.append({**self._spent, "trainer": rest})
            self._end, self._spent = now, dict.fromkeys(PARTS, 0.0)

    def _begin(self, part: str) -> None:
        self._begun[part] = self._clock()

    def _finish(self, part: str) -> None:
        if part in self._begun:
            self._spent[part] += self._clock() - self._begun.pop(part)

    def _clock(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


_BEGINS = {
    Event.BEFORE_DATALOADER: "data",
    Event.BEFORE_FORWARD: "forward",
    Event.BEFORE_BACKWARD: "backward",
    Event.AFTER_TRAIN_BATCH: "optimizer",
}
_ENDS = {Event.AFTER_DATALOADER: "data", Event.AFTER_FORWARD: "forward", Event.AFTER_BACKWARD: "backward"}


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``run`` allocates at its peak beyond what there was before it.

    Args:
        run: What to measure.
        device: A GPU's own counters are read; on the CPU torch's profiler notes each allocation.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def held_memory(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Bytes of the model's parameters, buffers and gradients and of the optimizers' state."""
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    for optimizer in optimizers:
        tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors)
