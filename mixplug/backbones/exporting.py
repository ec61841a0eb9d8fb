"""The plain supervised model out of a finished training, for use without mixplug and Composer."""

from __future__ import annotations

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

_WRAPPERS = ("module.", "_orig_mod.")
_NOT_THE_USERS = re.compile(r"(module\.|_orig_mod\.)*(ssl_objective|train_metrics|val_metrics)\.")


def export(checkpoint_or_trainer: Any, path: str | os.PathLike[str]) -> Path:
    """Write the user's own model as safetensors, under its own parameter names and without the SSL head.

    What timm or torch made loads it with ``strict=True``:

        >>> mixplug.export(trainer, "model.safetensors")  # doctest: +SKIP
        >>> vit.load_state_dict(safetensors.torch.load_file("model.safetensors"))  # doctest: +SKIP

    Args:
        checkpoint_or_trainer: A Composer Trainer, or the path of a checkpoint that one saved (only load files you
            trust: Composer's checkpoints are pickles).
        path: Where to write, ending in ``.safetensors``.

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
    own = _own(_model_state(checkpoint_or_trainer))
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in own.items()}, path)
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
        return _own(_model_state(path))
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


def _model_state(source: Any) -> Mapping[str, Tensor]:
    model = getattr(getattr(source, "state", None), "model", None)
    if isinstance(model, torch.nn.Module):
        return model.state_dict()
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"export takes a Trainer or the path of a checkpoint, got {type(source).__name__}")
    return load_state(source)["model"]
