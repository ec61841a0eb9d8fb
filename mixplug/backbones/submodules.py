"""The adapter for any other model, whose user names the submodule that makes features of images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixplug.backbones.base import Backbone
from mixplug.backbones.calls import call_with_images, features_among, first_images, images_among


class SubmoduleBackbone(Backbone):
    """Adapter for a module that takes images ``(B, C, H, W)`` and gives features.

    Features are ``(B, D)``, a map ``(B, D, H, W)`` or tokens ``(B, N, D)``; the latter two are averaged. Images may
    come by any argument, and features in any structure; see :mod:`mixplug.backbones.calls`.

    Args:
        model: The submodule.
        name: What its user calls it, for messages.

    Raises:
        ValueError: it has no layer that tells the width of its features.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name = name
        self.num_features = _width(model, name)
        self._hooks: list[RemovableHandle] = []
        super().__init__(model)

    @property
    def attached(self) -> bool:
        """See the base class."""
        return adapter_of(self.model) is self

    def attach(self) -> None:
        """See the base class."""
        other = adapter_of(self.model)
        if other is self:
            return
        if other is not None:
            other.detach()
        self._hooks = [
            self.model.register_forward_pre_hook(self._before, with_kwargs=True),
            self.model.register_forward_hook(self._after),
        ]

    def detach(self) -> None:
        """See the base class."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def encoder_parameters(self) -> list[nn.Parameter]:
        """See the base class."""
        return list(self.model.parameters())

    def pool(self, output: Tensor) -> Tensor:
        """See the base class."""
        pooled = output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1) if output.ndim == 3 else output
        if pooled.shape[1:] != (self.num_features,):
            raise ValueError(
                f"backbone={self.name!r} gives features of shape {tuple(output.shape)}, but its last layer says "
                f"{self.num_features}; name a submodule that takes images and ends with the layer that gives features"
            )
        return pooled

    def features_of(self, images: Tensor) -> Tensor:
        """See the base class."""
        return self.pool(self._features(call_with_images(self.model, images)))

    def _run(self, images: Tensor) -> None:
        call_with_images(self.model, images)

    def _features(self, output: Any) -> Tensor:
        return features_among(output, self.num_features, f"backbone={self.name!r}")

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        seen = self._begun()
        if seen is None:
            return None
        place, images = images_among(args, options, f"backbone={self.name!r}")
        shown = self._enter(seen, images)
        if isinstance(place, str):
            return args, {**options, place: shown}
        return (*args[:place], shown, *args[place + 1 :]), options

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        seen = self._watching()
        if seen is None:
            return None
        self._leave(seen, self._features(output))
        kept = seen.appended is None or seen.request.pass_on is not None
        return None if kept else first_images(output, seen.own, len(seen.images))


def adapter_of(model: nn.Module) -> SubmoduleBackbone | None:
    """The adapter that listens to ``model``."""
    listeners = (getattr(hook, "__self__", None) for hook in model._forward_hooks.values())
    return next((adapter for adapter in listeners if isinstance(adapter, SubmoduleBackbone)), None)


def _width(model: nn.Module, name: str) -> int:
    """The width of what the last layer with weights gives."""
    for layer in reversed(list(model.modules())):
        for attribute in ("out_features", "out_channels", "num_features"):
            width = getattr(layer, attribute, None)
            if isinstance(width, int) and not isinstance(width, bool):
                return width
        if isinstance(layer, nn.LayerNorm):
            return int(layer.normalized_shape[-1])
    raise ValueError(
        f"backbone={name!r} is a {type(model).__name__} without a layer that tells how wide its features are; name a "
        f"submodule that takes images and ends with the layer that gives features"
    )
