"""A trained classifier out of one file, and what it says of images: needs no recipe, no data and no Composer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mixplug.backbones.exporting import DESCRIPTION
from mixplug.backbones.model_spec import ModelSpec
from mixplug.checks import check_int, import_named
from mixplug.data.folders import read_unlabelled
from mixplug.data.images import FileImages, Pipeline
from mixplug.data.options import ImageOptions

_GREY = (0.299, 0.587, 0.114)
"""What Pillow makes grey of colours by (ITU-R 601-2)."""


class Classifier(NamedTuple):
    """A trained model.

    Attributes:
        model: Normalised images to logits, in evaluation mode.
        spec: What it takes, and what its logits mean.
    """

    model: nn.Module
    spec: ModelSpec


def read_description(path: str | os.PathLike[str]) -> tuple[ModelSpec, str]:
    """What a file that :func:`mixplug.export` wrote says of its model; and the module that makes it, empty for timm.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or says nothing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model {str(path)!r}; mixplug export RUN writes one of a training")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(DESCRIPTION)
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is no safetensors file ({error}); mixplug export RUN makes one of a checkpoint"
        ) from error
    if text is None:
        raise ValueError(
            f"{str(path)!r} does not say what its model is made of; export a training of mixplug's anew with mixplug "
            f"export RUN, or one of your own with mixplug.export(trainer, path, spec=ModelSpec(...))"
        )
    plain = json.loads(text)
    return ModelSpec.of_plain(plain), plain["needs"]


def load_classifier(path: str | os.PathLike[str], imports: Iterable[str] = ()) -> Classifier:
    """The model in a file that :func:`mixplug.export` wrote, on the CPU.

    The file can run no code: a model of others than timm's is made by a module that ``imports`` allows by name.

    Args:
        path: The file.
        imports: Modules that may be imported to make the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, needs a module that ``imports`` does not name, or its weights are not those of
            the model that it names.
    """
    spec, needs = read_description(path)
    allowed = list(imports)
    if needs and needs not in allowed:
        raise ValueError(
            f"the model in {str(path)!r} is made by {spec.name!r} of the module {needs!r}, code that is not in the "
            f"file; allow it with --import {needs} (imports=[{needs!r}] in Python) if you trust it"
        )
    for module in allowed:
        import_named(module, "imports")
    model = spec.make(trained=True)
    try:
        model.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {str(path)!r} are not those of {spec.name!r}, perhaps since an algorithm of the training "
            f"changed its layers, as BlurPool does: {' '.join(str(error).split())[:300]}"
        ) from error
    return Classifier(model.eval(), spec)


def find_images(places: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The files in ``places``, in their order: a file itself, of a folder all images in it, however deep.

    Raises:
        FileNotFoundError: there is nothing at one of them, or no image in a folder.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found += read_unlabelled(ImageOptions("image_folder", str(place), train="."), "images").paths
        elif place.is_file():
            found.append(place)
        else:
            raise FileNotFoundError(f"there is no image or folder {str(place)!r}")
    return tuple(found)


def predict(classifier: Classifier, paths: Sequence[Path], batch_size: int = 64, workers: int = 0) -> dict[str, Tensor]:
    """Probabilities of the classes, of images treated as the test images of the training were.

    Args:
        classifier: The model, on any device.
        paths: Image files.
        batch_size: Images of a pass.
        workers: Processes that read them.

    Returns:
        By task, one nameless one where there is one: ``(len(paths), classes)``, each row with the sum 1, on the CPU.

    Raises:
        ValueError: a file is no image; or the model takes images that are not square, and one has another size; or it
            takes neither grey images nor RGB.
    """
    model, spec = classifier
    channels, height, width = spec.shape
    if channels not in (1, 3):
        raise ValueError(f"the model takes images of {channels} channels, and files are read as 3 or, in grey, 1")
    check_int("batch_size", batch_size, 1)
    files = FileImages(tuple(paths), torch.zeros(len(paths), dtype=torch.long), height if height == width else None)
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {task: [] for task in spec.classes}
    with torch.inference_mode():
        for images, _ in files.loader(Pipeline(batch_size, (0.0,) * 3, (1.0,) * 3, workers=workers)):
            if images.shape[2:] != (height, width):
                raise ValueError(f"the model takes images of {(height, width)} (height, width), got {images.shape[2:]}")
            if channels == 1:
                images = (images * torch.tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
            first = 0
            for task, (mean, std) in spec.statistics.items():
                of_mean, of_std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
                logits = model(((images - of_mean) / of_std).to(device))
                last = first + len(spec.classes[task])
                found[task].append(logits[:, first:last].float().softmax(1).cpu())
                first = last
    return {task: torch.cat(parts) for task, parts in found.items()}
