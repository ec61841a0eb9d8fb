"""Judging representations: accuracy of simple classifiers on the features of a frozen encoder.

Features are extracted once, without leaving a trace in the model, the loaders or the random numbers; then
:func:`knn_accuracy` and :func:`linear_probe_accuracy` need the features alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DistributedSampler

from mixplug.backbones import Backbone, adapters_in, backbone_of
from mixplug.backbones.modes import evaluating
from mixplug.checks import check_int, check_real
from mixplug.data.batches import images_of
from mixplug.data.order import generators_of, random_state, samplers_of, set_generators, set_random_state
from mixplug.data.passes import repeatable_pass

Features: TypeAlias = tuple[Tensor, Tensor]
"""Features ``(N, D)``, float32, and the labels ``(N,)``, long."""

_CHUNK = 1 << 24
"""Numbers that a chunk of test images may make: 64 MiB of float32."""


def extract_features(
    encoder: Backbone | nn.Module | Callable[[Tensor], Tensor],
    loader: Iterable,
    device: torch.device | str | None = None,
    *,
    prepare: Callable[[Any], Any] | None = None,
    max_batches: int | None = None,
) -> Features:
    """The features of all images of ``loader``, and their labels.

    The encoder runs in evaluation mode without gradients. Afterwards all is as it was: the mode of each of its
    modules, Python's, numpy's and torch's random numbers (the device's too), and the generators and epochs of the
    loader and its samplers. Each call passes over the loader alike. It should neither shuffle nor augment: of a
    :class:`mixplug.data.datasets.DataSplit`, ``split.train_loader(batch_size, shuffle=False)`` is such a loader of
    training images, ``split.eval_loader(batch_size)`` of test images.

    Where a ``DistributedSampler`` gives each process its share, the images that it repeats to make the shares equal
    are left out; :func:`gather_features` joins the shares.

    Args:
        encoder: A backbone, as of ``backbone_of(model)``, or a module or function ``(B, C, H, W) -> (B, D)``. A plain
            function must itself see to the mode of what it calls.
        loader: Batches ``(images, labels)``: ``(B, C, H, W)`` and whole numbers ``(B,)``.
        device: Where the encoder is; None for where its parameters are.
        prepare: What is done with each batch first, such as normalisation.
        max_batches: As many batches at most, None for all.

    Returns:
        Features ``(N, D)``, float32, on ``device``, and labels ``(N,)``, long, there too.

    Raises:
        TypeError: ``encoder`` cannot be called, or a batch is no images with whole numbers.
        ValueError: the loader is empty, or features or labels have another shape.
    """
    run, modules = _runnable(encoder)
    if device is None:
        parameter = next((p for module in modules for p in module.parameters()), None)
        device = torch.device("cpu") if parameter is None else parameter.device
    device = torch.device(device)
    features, labels = [], []
    with _undisturbed(modules, loader, device), torch.no_grad():
        for batch in islice(repeatable_pass(loader, seed=0, epoch=0), max_batches):
            images, targets = _taken_apart(batch if prepare is None else prepare(batch))
            made = run(images.to(device))
            if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(images):
                raise ValueError(
                    f"features must be one vector for each of {len(images)} images, (B, D), got "
                    f"{tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__}"
                )
            features.append(made.float())
            labels.append(targets.to(device).long())
    if not features:
        raise ValueError("the loader of images to extract features of is empty: it gave no batch; give it data")
    count = _own_images(loader, sum(map(len, labels)))
    return torch.cat(features)[:count], torch.cat(labels)[:count]


def gather_features(features: Tensor, labels: Tensor, loader: Iterable) -> Features:
    """Join the shares of all processes, on each of them; all must call it.

    Args:
        features: Of this process, ``(n, D)``, as :func:`extract_features` gave them.
        labels: Theirs, ``(n,)``.
        loader: What they were extracted from. The shares of a ``DistributedSampler`` are put in the order that one
            process would have; those of other loaders follow each other and must not overlap.

    Returns:
        Features ``(N, D)`` and labels ``(N,)``, where this process's were.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return features, labels
    processes = torch.distributed.get_world_size()
    shares: list[Any] = [None] * processes
    torch.distributed.all_gather_object(shares, (features.cpu(), labels.cpu()))
    all_features, all_labels = (torch.cat(parts) for parts in zip(*shares, strict=True))
    if _sampler_of(loader) is not None:
        place = [torch.arange(len(own)) * processes + rank for rank, (_, own) in enumerate(shares)]
        order = torch.cat(place).argsort()
        all_features, all_labels = all_features[order], all_labels[order]
    return all_features.to(features.device), all_labels.to(labels.device)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor | None = None,
    test_labels: Tensor | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of the weighted nearest-neighbour classifier of Wu et al. (2018), as DINO and others report it.

    The k training images of highest cosine similarity s vote for their class with weight exp(s / temperature). Test
    images are taken in chunks, so memory stays bounded.

    Args:
        train_features: ``(N, D)``.
        train_labels: ``(N,)``, classes 0, 1, ...
        test_features: ``(M, D)``; None to judge each training image by the others (leave-one-out).
        test_labels: ``(M,)``; None as ``test_features``.
        k: Neighbours, from 1 to N; to N - 1 where each image is judged by the others.
        temperature: Above 0; the smaller, the more the nearest count.

    Returns:
        The share of test images whose class gets most votes, in [0, 1].

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``k`` or ``temperature`` is out of range, shapes do not match, or features are not finite.
    """
    check_int("k", k, 1)
    check_real("temperature", temperature, 0, math.inf, low_open=True, high_open=True)
    leave_one_out = test_features is None or test_labels is None
    if test_features is None or test_labels is None:
        test_features, test_labels = train_features, train_labels
    _check_features(train_features, train_labels, test_features, test_labels)
    others = len(train_labels) - leave_one_out
    if k > others:
        raise ValueError(
            f"k={k} neighbours of {others} {'other ' if leave_one_out else ''}training images: k must be at most as "
            f"many; use a smaller k or more training images"
        )
    train_labels, test_labels = train_labels.long(), test_labels.long()
    known = F.normalize(train_features, dim=1)
    classes = int(train_labels.max()) + 1
    right, size = 0, max(1, _CHUNK // max(len(known), k * classes))
    for start, chunk, targets in zip(
        range(0, len(test_labels), size), test_features.split(size), test_labels.split(size), strict=True
    ):
        similarities = F.normalize(chunk, dim=1) @ known.T
        if leave_one_out:
            similarities.diagonal(start).fill_(-math.inf)  # no image is its own neighbour
        similarity, nearest = similarities.topk(k, dim=1)
        # Subtracting the largest changes no order of the votes, and none overflows.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        # One-hot rather than scattered: sums of scattered numbers depend on a GPU's mood.
        votes = (F.one_hot(train_labels[nearest], classes) * weight.unsqueeze(-1)).sum(1)
        right += int((votes.argmax(1) == targets).sum())
    return right / len(test_labels)


def linear_probe_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    c: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Accuracy of multinomial logistic regression on the features, each standardised by the training images.

    It is scikit-learn's ``LogisticRegression`` (L-BFGS on the CPU, float64, from zero), so it is deterministic. The L2
    strength is not searched for: that would take a third set of images.

    Args:
        train_features: ``(N, D)``.
        train_labels: ``(N,)``, at least two classes.
        test_features: ``(M, D)``.
        test_labels: ``(M,)``.
        c: scikit-learn's C, above 0: the weight of the images' summed losses against the L2 penalty.
        max_iter: Iterations of L-BFGS at most; a warning says where they are too few.

    Returns:
        The share of test images whose class is predicted, in [0, 1].

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``c`` or ``max_iter`` is out of range, shapes do not match, features are not finite, or all
            training images are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_real("c", c, 0, math.inf, low_open=True, high_open=True)
    check_int("max_iter", max_iter, 1)
    _check_features(train_features, train_labels, test_features, test_labels)
    if len(train_labels.unique()) < 2:
        raise ValueError(
            f"all {len(train_labels)} training images are of class {int(train_labels[0])}; a linear probe needs images "
            f"of at least two classes"
        )
    # The penalty is 1 / (c * N) of scikit-learn's mean loss: where it is weak, its default tolerance of the gradient
    # ends far from the optimum, and says nothing.
    tolerance = min(1e-4, 1e-2 / (c * len(train_labels)))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iter, tol=tolerance))
    x, y, test_x, test_y = (
        part.detach().cpu().double().numpy() if part.is_floating_point() else part.cpu().numpy()
        for part in (train_features, train_labels, test_features, test_labels)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(x, y)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        warnings.warn(
            f"the linear probe has not converged after max_iter={max_iter} iterations, so its accuracy may be too low; "
            f"raise max_iter, or lower c={c:g}",
            stacklevel=2,
        )
    return float((classifier.predict(test_x) == test_y).mean())


def unattached_backbone(model: nn.Module, path: str | None = None) -> Backbone:
    """As ``backbone_of(model, path)``, but an adapter that is new does not stay attached to the model.

    ``features_of`` needs no attachment, and so the model remains what it was.
    """
    before = adapters_in(model)
    backbone = backbone_of(model, path)
    if not any(backbone is adapter for adapter in before):
        backbone.detach()
    return backbone


@contextmanager
def _undisturbed(modules: list[nn.Module], loader: Iterable, device: torch.device) -> Iterator[None]:
    """Have ``modules`` in evaluation mode, and put all back as it was."""
    epochs = [(holder, holder.epoch) for holder in samplers_of(loader) if isinstance(holder, DistributedSampler)]
    generators = [generator.get_state() for generator in generators_of(loader)]
    random = random_state()
    of_device = _device_random_state(device)
    try:
        with evaluating(modules):
            yield
    finally:
        for holder, epoch in epochs:
            holder.epoch = epoch
        set_generators(loader, generators)
        set_random_state(random)
        if of_device is not None:
            _set_device_random_state(device, of_device)


def _device_random_state(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def _set_device_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)


def _runnable(encoder: Any) -> tuple[Callable[[Tensor], Tensor], list[nn.Module]]:
    """What gives features, and the modules whose mode matters to it."""
    owner = getattr(encoder, "__self__", encoder)
    if isinstance(encoder, Backbone):
        return encoder.features_of, [encoder.model]
    if not callable(encoder):
        raise TypeError(
            f"encoder must be a backbone, as of backbone_of(model), or a module or function of images; got "
            f"{type(encoder).__name__}"
        )
    owner = owner.model if isinstance(owner, Backbone) else owner
    return encoder, [owner] if isinstance(owner, nn.Module) else []


def _taken_apart(batch: Any) -> Features:
    images = images_of(batch, "a batch to extract features of")
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"a batch to extract features of must be (images, labels) with labels that are whole numbers, got "
            f"{labels.dtype if isinstance(labels, Tensor) else type(labels).__name__} for labels"
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"there must be one label for each of {len(images)} images, got labels of shape {tuple(labels.shape)}"
        )
    return images, labels


def _sampler_of(loader: Any) -> DistributedSampler | None:
    return next((holder for holder in samplers_of(loader) if isinstance(holder, DistributedSampler)), None)


def _own_images(loader: Any, count: int) -> int:
    """How many of this process's first ``count`` images no other one counts."""
    sampler = _sampler_of(loader)
    if sampler is None:
        return count
    # The order is filled up at its end, and image j of process r is the order's image j P + r.
    left = len(sampler.dataset) - sampler.rank  # type: ignore[arg-type]
    return max(0, min(count, -(-left // sampler.num_replicas)))


def _check_features(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> None:
    for which, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if not isinstance(features, Tensor) or not isinstance(labels, Tensor):
            raise TypeError(f"{which}_features and {which}_labels must be tensors, (N, D) and (N,)")
        if not features.is_floating_point() or labels.is_floating_point():
            raise TypeError(
                f"{which}_features must be floats and {which}_labels whole numbers, got {features.dtype} and "
                f"{labels.dtype}"
            )
        if features.ndim != 2 or labels.shape != (len(features),) or not len(labels):
            raise ValueError(
                f"{which}_features must be (N, D) and {which}_labels (N,) with at least one image, got "
                f"{tuple(features.shape)} and {tuple(labels.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError(
                f"{which}_features are not all finite (NaN or infinite), so nothing can be said of them: has training "
                f"diverged? lower the learning rate"
            )
        if int(labels.min()) < 0:
            raise ValueError(f"{which}_labels must be classes 0, 1, ..., got {int(labels.min())}")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_features have {train.shape[1]} numbers each and test_features {test.shape[1]}; extract both with "
            f"one encoder"
        )
