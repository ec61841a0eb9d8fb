"""The plain supervised model out of a finished training, for use without mixplug and Composer."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixplug.backbones.model_spec import ModelSpec

_WRAPPERS = ("module.", "_orig_mod.")
_NOT_THE_USERS = re.compile(r"(module\.|_orig_mod\.)*(ssl_objective|train_metrics|val_metrics)\.")


DESCRIPTION = "ModelDescription"
"""The key under which checkpoints (of the lab) and exported files say what their model is."""


def export(checkpoint_or_trainer: Any, path: str | os.PathLike[str], spec: ModelSpec | None = None) -> Path:
    """Write the user's own model as safetensors, under its own parameter names and without the SSL head.

    What timm or torch made loads it with ``strict=True``:

        >>> mixplug.export(trainer, "model.safetensors")  # doctest: +SKIP
        >>> vit.load_state_dict(safetensors.torch.load_file("model.safetensors"))  # doctest: +SKIP

    Args:
        checkpoint_or_trainer: A Composer Trainer, or the path of a checkpoint that one saved (only load files you
            trust: Composer's checkpoints are pickles).
        path: Where to write, ending in ``.safetensors``.
        spec: What the model is made of, takes and says, written into the file as metadata, from which
            :func:`mixplug.backbones.predicting.load_classifier` builds it anew; None for what the training says of
            itself, as those of the lab do.

    Returns:
        ``path``.

    Raises:
        TypeError: neither a Trainer nor a path.
        ValueError: ``path`` ends otherwise, or the file is no Composer checkpoint.
        FileNotFoundError: there is no such checkpoint.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the exported model is a .safetensors file, got {str(path)!r}; name it so")
    state, told = _model_and_spec(checkpoint_or_trainer)
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in _own(state).items()}
    told = told if spec is None else spec.to_plain()
    # Safetensors' metadata are texts; that of the format is what timm's and Hugging Face's readers look for.
    save_file(weights, path, {"format": "pt", **({} if told is None else {DESCRIPTION: json.dumps(told)})})
    return path


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of the user's own model, on the CPU, out of what a training left.

    Args:
        path: A Composer checkpoint (only load files you trust), or a ``.safetensors`` file that :func:`export` wrote.

    Returns:
        Weights and buffers by the user's own names, without the SSL head.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return _own(_model_and_spec(path)[0])
    try:
        return _own(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file: {error}") from error


def load_state(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The state of a training, on the CPU: its ``model`` with the SSL head, its ``timestamp`` and more.

    Args:
        path: A Composer checkpoint (only load files you trust).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is no Composer checkpoint, or a damaged one: {error}") from error
    state = loaded.get("state") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or "model" not in state:
        raise ValueError(f"{str(path)!r} is no Composer checkpoint: it has no state of a model")
    return state


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model's state, that of the user's own module."""
    own = {name: value for name, value in state.items() if not _NOT_THE_USERS.match(name)}
    # ComposerClassifier holds the user's module as `module`, DDP and torch.compile wrap once more.
    for wrapper in _WRAPPERS * 2:
        if own and all(name.startswith(wrapper) for name in own):
            own = {name.removeprefix(wrapper): value for name, value in own.items()}
    return own


def _model_and_spec(source: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Any] | None]:
    """The state of a training's model, and what the training says of it as primitives, None for nothing."""
    model = getattr(getattr(source, "state", None), "model", None)
    if isinstance(model, torch.nn.Module):
        told = [c.state_dict() for c in source.state.callbacks if type(c).__name__ == DESCRIPTION]
        return model.state_dict(), told[0] if told else None
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"export takes a Trainer or the path of a checkpoint, got {type(source).__name__}")
    state = load_state(source)
    return state["model"], dict(state.get("callbacks", {})).get(DESCRIPTION)
