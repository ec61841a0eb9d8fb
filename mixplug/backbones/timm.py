"""The adapter for timm's models: convolutional networks, transformers of all kinds, hybrids."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixplug.backbones.base import Backbone
from mixplug.backbones.calls import images_among


class TimmBackbone(Backbone):
    """Adapter for a model with timm's ``forward_features`` and ``forward_head``.

    It listens by standing in the place of ``forward_features`` and calling the original. Parameters, buffers and
    their names stay what they are.

    Args:
        model: The model.

    Raises:
        TypeError: the model lacks one of the two methods.
    """

    def __init__(self, model: nn.Module) -> None:
        if not is_timm_model(model):
            raise TypeError(
                f"{type(model).__name__} has no forward_features and forward_head as timm's models do; name the "
                f"submodule that gives its features by backbone="
            )
        # Where the classifier has a hidden layer (MobileNetV3) what comes out of it is the feature.
        width = getattr(model, "head_hidden_size", None) or model.num_features
        self.num_features = int(width)  # type: ignore[arg-type]
        super().__init__(model)

    @property
    def attached(self) -> bool:
        """See the base class."""
        return adapter_of(self.model) is self

    def attach(self) -> None:
        """See the base class."""
        # An attribute of the object goes before the method of its class. A bound method is copied with its object,
        # so that a copy of the model has a copy of the adapter.
        self.model.forward_features = self._forward_features  # type: ignore[assignment]

    def detach(self) -> None:
        """See the base class."""
        if self.attached:
            del self.model.forward_features

    @property
    def encoder_parameters(self) -> list[nn.Parameter]:
        """See the base class."""
        heads = {id(p) for head in self.classifiers() for p in head.parameters()}
        return [p for p in self.model.parameters() if id(p) not in heads]

    def pool(self, output: Tensor) -> Tensor:
        """See the base class."""
        return self._pooled(self.model.forward_head(output, pre_logits=True))  # type: ignore[operator]

    def features_of(self, images: Tensor) -> Tensor:
        """See the base class."""
        return self.pool(type(self.model).forward_features(self.model, images))  # type: ignore[attr-defined]

    def classifiers(self) -> list[nn.Module]:
        """See the base class."""
        found = self.model.get_classifier() if hasattr(self.model, "get_classifier") else None  # type: ignore[operator]
        heads = found if isinstance(found, (tuple, list)) else [found]
        return [head for head in heads if isinstance(head, nn.Module)]

    def _run(self, images: Tensor) -> None:
        self._forward_features(images)

    def _forward_features(self, *args: Any, **options: Any) -> Any:
        original = type(self.model).forward_features  # type: ignore[attr-defined]
        seen = self._begun()
        if seen is None:
            return original(self.model, *args, **options)
        place, images = images_among(args, options, f"{type(self.model).__name__}.forward_features")
        shown = self._enter(seen, images)
        if isinstance(place, str):
            options[place] = shown
        else:
            args = (*args[:place], shown, *args[place + 1 :])
        return self._leave(seen, original(self.model, *args, **options))


def is_timm_model(module: nn.Module) -> bool:
    """Whether ``module`` has timm's two methods."""
    return all(callable(getattr(type(module), name, None)) for name in ("forward_features", "forward_head"))


def adapter_of(model: nn.Module) -> TimmBackbone | None:
    """The adapter that stands in the place of the model's ``forward_features``."""
    listener = getattr(vars(model).get("forward_features"), "__self__", None)
    return listener if isinstance(listener, TimmBackbone) else None
