"""What a classifier is made of, which images it takes, and what its logits mean: enough to build it and to use it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mixplug.backbones.stems import small_image_stem
from mixplug.checks import explain_arguments, import_object

_OF_TRAINING = ("pretrained", "checkpoint_path")
"""timm's arguments that load weights, which a model with its own has no use for."""


@dataclass(frozen=True)
class ModelSpec:
    """A classifier of images, as primitives.

    Attributes:
        name: timm's name, or the dotted name of a function or class that makes the module.
        args: Its arguments, without channels and classes.
        shape: Channels, height and width of an image.
        classes: The names of the classes, in the order of the logits, by task; one nameless task where there is one.
        statistics: By task, the mean that was subtracted from images in [0, 1] and the deviation that they were then
            divided by, a number for each channel.
        small_image_stem: Whether :func:`mixplug.small_image_stem` exchanged its first layers.
    """

    name: str
    args: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: Mapping[str, tuple[str, ...]]
    statistics: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    small_image_stem: bool = field(default=False, kw_only=True)

    @property
    def outputs(self) -> int:
        """How many logits there are."""
        return sum(map(len, self.classes.values()))

    @property
    def is_timm(self) -> bool:
        """Whether the name is one for ``timm.create_model``: with a colon a hub's, with a dot one with a tag."""
        return ":" in self.name or "." not in self.name or timm.is_model(self.name.partition(".")[0])

    @property
    def needs(self) -> str:
        """The module that must be at hand beside timm for the model to be made; empty for none."""
        if not self.is_timm:
            return self.name.rpartition(".")[0]
        known = self.name.partition(".")[0]
        module = timm.model_entrypoint(known).__module__ if timm.is_model(known) else "timm"
        return "" if module.partition(".")[0] == "timm" else module

    def make(self, *, trained: bool = False) -> nn.Module:
        """The module, images to logits.

        Args:
            trained: Whether weights will be loaded into it, so that none are to be fetched.

        Raises:
            TypeError: what the name stands for makes no module, or one that Composer has wrapped.
            ValueError: there is nothing of that name, it does not take the arguments, or it gives other logits.
            OSError: pretrained weights are asked for, and cannot be fetched or read.
        """
        args = {k: v for k, v in self.args.items() if not (trained and k in _OF_TRAINING)}
        sizes = {"in_chans": self.shape[0], "num_classes": self.outputs}
        model = (self._make_timm if self.is_timm else self._make_own)(args, sizes)
        return small_image_stem(model) if self.small_image_stem else model

    def _make_timm(self, args: Mapping[str, Any], sizes: Mapping[str, int]) -> nn.Module:
        arguments = {**sizes, **args}
        try:
            return timm.create_model(self.name, **arguments)
        except (TypeError, AssertionError, RuntimeError, ArithmeticError, LookupError) as error:
            told = explain_arguments(error, "model.args")
            raise ValueError(f"model: timm cannot make {self.name!r} with {arguments}: {told}") from error
        except OSError as error:
            told = " ".join(str(error).split())[:300]
            raise OSError(
                f"model: the pretrained weights of {self.name!r} are not at hand ({told}); "
                f"connect to the internet, or name a file of them by model.args.pretrained_cfg_overlay={{file: FILE}}"
            ) from error

    def _make_own(self, args: Mapping[str, Any], sizes: Mapping[str, int]) -> nn.Module:
        make = import_object(self.name, "model.name")
        try:
            takes = inspect.signature(make).parameters
            model = make(**{**{name: size for name, size in sizes.items() if name in takes}, **args})
        except Exception as error:
            raise ValueError(f"model: {self.name} with {dict(args)} fails: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module) or hasattr(model, "eval_forward"):
            raise TypeError(
                f"model: {self.name} must return an nn.Module that maps images to logits, not wrapped for Composer, "
                f"got {type(model).__name__}"
            )
        try:
            with torch.no_grad():
                given = copy.deepcopy(model).eval()(torch.zeros(1, *self.shape))
        except Exception as error:
            raise ValueError(
                f"model: {self.name} cannot take images of shape {self.shape} (channels, height, width): {error}"
            ) from error
        if not isinstance(given, Tensor) or given.shape != (1, self.outputs):
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"model: {self.name} must give {self.outputs} logits, (1, {self.outputs}) for one image, got {found}; "
                f"let it take num_classes"
            )
        return model

    def to_plain(self) -> dict[str, Any]:
        """As primitives for JSON."""
        return {**dataclasses.asdict(self), "needs": self.needs}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> ModelSpec:
        """What :meth:`to_plain` gave, lists for tuples."""
        statistics = {task: (tuple(mean), tuple(std)) for task, (mean, std) in plain["statistics"].items()}
        classes = {task: tuple(names) for task, names in plain["classes"].items()}
        return cls(
            plain["name"],
            plain["args"],
            tuple(plain["shape"]),
            classes,
            statistics,
            small_image_stem=plain["small_image_stem"],
        )
