"""What the encoder of a run has learned: simple classifiers on its frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from composer.core import State, get_precision_context

from mixplug.backbones import Backbone
from mixplug.backbones.probing import Features, extract_features, knn_accuracy, linear_probe_accuracy
from mixplug.lab.recipes.schema import PROBES, Recipe
from mixplug.lab.runs.inputs import Inputs, probe_loaders

_NEIGHBOURS = {"knn": 20, "knn200": 200}
_JUDGES: dict[str, Callable[..., float]] = {
    **{name: partial(knn_accuracy, k=k) for name, k in _NEIGHBOURS.items()},
    "linear": linear_probe_accuracy,
}
assert _JUDGES.keys() == PROBES.keys()


def check_probes(probes: Iterable[str], inputs: Inputs) -> None:
    """Refuse, before anything is trained, more neighbours than there are images.

    Raises:
        ValueError: there are more.
    """
    labelled = (part for key, part in inputs.summary.items() if key != "ssl_data")
    images = min(part["training_images"] for part in labelled)
    for probe in probes:
        if _NEIGHBOURS.get(probe, 0) > images:
            raise ValueError(
                f"probes: {probe} has {_NEIGHBOURS[probe]} neighbours vote, and there are {images} training images; "
                f"leave it out or use more"
            )


def probe_features(recipe: Recipe, seed: int, backbone: Backbone, state: State) -> dict[str, tuple[Features, Features]]:
    """Features of the training images and of the test images, for each task; see :func:`probe_loaders`.

    Args:
        recipe: The run's; its share of the labelled training images is what is learned from.
        seed: The run's.
        backbone: The encoder, which is not attached.
        state: The run's, for its precision.
    """
    loaders = probe_loaders(recipe, seed, next(backbone.model.parameters()).device)
    with get_precision_context(state.precision, state.precision_config, fp8_autocast_enabled=False):
        return {
            task: (extract_features(backbone, train), extract_features(backbone, test))
            for task, (train, test) in loaders.items()
        }


def judge_features(features: Iterable[tuple[Features, Features]], probes: Iterable[str]) -> dict[str, float]:
    """The accuracy of each of ``probes``, in [0, 1]; of several tasks the mean."""
    pairs = list(features)
    return {probe: sum(_JUDGES[probe](*train, *test) for train, test in pairs) / len(pairs) for probe in probes}
