"""What objectives of two views have in common: views, a table of pairs, heads, signs of collapse.

What it does
    In the SSL phase the model's own pass sees view 0 of each image, and the encoder runs once more on view 1. In the
    MIX phase the image that the classifier sees *is* one view, so that pass is shared, and view 1 is the other. Views
    are made on the training device from the batch's own images (:class:`mixplug.Views`).

    A table of *pairs* says which view predicts which (:meth:`TwoView.pairs`), and a loss of a pair gives a value for
    each image (:meth:`TwoView.pair_loss`). The loss of a step is their mean.

What a step costs, in passes of the encoder (a forward and backward is 3 forwards)
    =====================================  ===============================  ====================================
    objective                              SSL phase                        MIX phase (with the classifier)
    =====================================  ===============================  ====================================
    SimSiam, SimCLR                        2 with gradient                  2 with gradient
    SimSiam, ``symmetric=False``           1 with, 1 without gradient       1 with, 1 without gradient
    BYOL, MoCoV2Plus, MoCoV3, DINO         2 with, 2 without gradient       1 with, 1 without gradient
    the same, ``symmetric=False``          1 with, 1 without gradient       1 with, 1 without gradient
    =====================================  ===============================  ====================================

    DINO's local crops come on top in the SSL phase, each the share of a pass that its pixels are.

Symmetry
    Losses are symmetrised as in their papers: both views predict, both are predicted. ``symmetric=False`` has view 0
    alone predict view 1; it is weighed as both terms are together. With a momentum encoder the MIX phase is one-sided
    in any case: the other side would cost a second pass with gradient.

What other methods change
    :meth:`TwoView.add_amendment` takes functions that change a step's views and pairs: further views, such as mixed
    images, pairs of them with soft targets, or other images for view 1; amendments of the encoder's pass bring theirs
    in ``PassRequest.compare``. :meth:`TwoView.pair_losses` gives each image's loss for any views and pairs, and
    ``PassRequest.choose`` chooses views by it. The request also says how large and how strong views are made. None of
    these knows the method.

Caveats
    BatchNorm in heads (all but MoCoV2Plus's and DINO's) takes its statistics from the microbatch at hand, and SimCLR
    and MoCoV3 their negatives: a run in microbatches is another run, which mixplug warns of, unless
    ``exact_microbatches=True``. FSDP is refused, since the second pass is outside of the model's own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest, Role
from mixplug.backbones.modes import batch_norms
from mixplug.checks import check_bool, check_int, check_real
from mixplug.objectives.base import Objective
from mixplug.objectives.collapse import embedding_std, watch_rank
from mixplug.objectives.view_pairs import Embeddings, Pair, PairsAmendment, View, ViewPairs
from mixplug.schedules.phases import Phase, Position
from mixplug.views.views import Views

Self = TypeVar("Self", bound="TwoView")


class TwoView(Objective):
    """Base of the objectives of two views.

    A subclass makes its heads in :meth:`make_heads` and says its loss in :meth:`pair_loss`; one whose loss is no mean
    over images says it in :meth:`forward`.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        symmetric: Whether both views predict each other, as in the papers.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: there is no such recipe of views.
    """

    projector: nn.Module
    single_pass = False
    #: What the mean over pairs and images is multiplied by, such as 2 where a paper adds both orders of its views.
    scale = 1.0
    #: Names of the constructor's arguments, for ``repr``.
    settings: tuple[str, ...] = ("views", "symmetric")

    def __init__(self, views: str | Views, symmetric: bool = True) -> None:
        super().__init__()
        if not isinstance(views, (str, Views)):
            raise TypeError(f"views must be a recipe's name, such as 'simclr', or Views(...), got {views!r}")
        self.views = Views(views) if isinstance(views, str) else views
        self.symmetric = check_bool("symmetric", symmetric)
        self._width: int | None = None
        self._amendments: list[PairsAmendment] = []
        self._monitors: dict[str, Tensor] = {}

    @abstractmethod
    def make_heads(self, width: int) -> None:
        """Create ``self.projector`` and, where there is one, ``self.predictor`` for features ``width`` wide."""

    def build(self: Self, backbone: Backbone) -> Self:
        """Create the heads on the backbone's device and in its dtype; see the base class."""
        width = backbone.num_features
        if self._width is not None:
            if width != self._width:
                raise ValueError(
                    f"this {type(self).__name__} was built for features {self._width} wide, not {width}; make a new one"
                )
            return self
        self.make_heads(width)
        self._width = width
        like = next(backbone.model.parameters())
        return self.to(device=like.device, dtype=like.dtype)

    def request(self, position: Position | Phase | str) -> PassRequest:
        """View 0 in the SSL phase, the classifier's images in MIX."""
        position = Position.of(position)
        view = self._first_view if position.phase is Phase.SSL else None
        metrics = {"view_magnitude": self.views.magnitude_at(position), **self.scheduled(position)}
        return PassRequest(position, view=view, pairs=self.pairs(position), metrics=metrics)

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """Numbers that change over the training, to be logged."""
        return {}

    def pairs(self, position: Position) -> list[Pair]:
        """Which view predicts which at ``position``."""
        return [Pair(0, 1), Pair(1, 0)] if self.symmetric else [Pair(0, 1)]

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """The loss of each image, ``(B,)``, of at least float32.

        Args:
            predictions: Of a view, ``(B, D)``.
            targets: What they predict, of another view, ``(B, D)``.
            soft_targets: ``(B, B)`` or None; see :mod:`mixplug.objectives.pairs`.
        """
        raise NotImplementedError(f"{type(self).__name__} must say its loss in pair_loss, or in forward")

    def forward(self, seen: BackbonePass) -> Tensor:
        """The mean of :meth:`pair_loss` over pairs and images, times ``scale``: a scalar of at least float32."""
        features = seen.features
        self.check_step()
        self.check_batch(features)
        compared = self.view_pairs(seen)
        embedded = self.embed_views(seen, compared)
        self.note_embeddings(embedded)
        if "embedding_std" not in self._monitors:  # its outputs are no embeddings, as DINO's
            self._monitors["embedding_std"] = embedding_std(features)
        self._monitors |= watch_rank(features, seen.request.position.step)
        losses = [loss.mean() for loss in self._losses(compared, embedded)]
        return self._mean_over_pairs(compared, losses)

    def pair_losses(self, seen: BackbonePass, compared: ViewPairs) -> Tensor:
        """Each pair's loss of each image, ``(pairs, B)``, times ``scale``, of other views than those of the step.

        It notes nothing: queues, centres and monitors stay as they were. BatchNorm in training mode counts the views in
        its running statistics, which no loss reads.

        Args:
            seen: A pass that saw view 0; further views are encoded as it was.
            compared: The views and their pairs, whose weights do not count here.

        Example:
            How hard it is to tell that two views are of one image:

            >>> with torch.no_grad():  # doctest: +SKIP
            ...     seen = backbone.encode(one)
            ...     views = {0: View(one, Role.SHARED), 1: View(other)}
            ...     (losses,) = objective.pair_losses(seen, ViewPairs(views, [Pair(0, 1)]))
        """
        return self.scale * torch.stack(self._losses(compared, self.embed_views(seen, compared)))

    def project_views(self, seen: BackbonePass, compared: ViewPairs) -> dict[int, Tensor]:
        """Projections ``(B, D)`` of the views that predict, by their number."""
        features = self._encode(seen, compared)
        return {view: self.projector(features[view]) for view in compared.predicting}

    def add_amendment(self, amendment: PairsAmendment) -> None:
        """Have ``amendment`` change what is compared from now on, after those that are there; once, however often.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(amendment):
            raise TypeError(f"an amendment must be a function (compared, seen) -> compared, got {amendment!r}")
        if amendment not in self._amendments:
            self._amendments.append(amendment)

    def view_pairs(self, seen: BackbonePass) -> ViewPairs:
        """The views of this step and the pairs that are compared, as all amendments leave them, the pass's last."""
        compared = ViewPairs(self.make_views(seen), self.pairs(seen.request.position))
        for amendment in (*self._amendments, *seen.request.compare):
            compared = amendment(compared, seen)
        return compared

    def make_views(self, seen: BackbonePass) -> dict[int, View]:
        """The views by number."""
        return {0: View(seen.images, Role.SHARED), 1: View(self.other_view(seen))}

    def embed_views(self, seen: BackbonePass, compared: ViewPairs) -> Embeddings:
        """Run the encoder and the heads on the views that are compared."""
        projections = self.project_views(seen, compared)
        predictor = getattr(self, "predictor", None)
        predictions = {view: z if predictor is None else predictor(z) for view, z in projections.items()}
        targets = {
            view: self.make_target(seen, compared.views[view], projections.get(view)) for view in compared.predicted
        }
        return Embeddings(projections, predictions, targets)

    def make_target(self, seen: BackbonePass, view: View, projection: Tensor | None) -> Tensor:
        """What is predicted of ``view``, ``(B, D)``: its projection, where the gradient stops.

        Args:
            seen: The model's own pass.
            view: The one that is predicted.
            projection: The view's, where it predicts too.
        """
        if projection is not None:
            return projection.detach()
        with torch.no_grad():
            return self.projector(seen.encode(view.images, Role.KEY).features)

    def note_embeddings(self, embedded: Embeddings) -> None:
        """Keep what :meth:`after_step` needs of a step, and what is to be logged."""
        self.watch_collapse(embedded.projections[0])

    def other_view(self, seen: BackbonePass) -> Tensor:
        """View 1 of the images that came to the shared pass: a random one, unless the request chooses.

        Raises:
            ValueError: the encoder was given no images, but what other layers made of them.
        """
        if seen.request.choose is None:
            return self.make_view(seen, 1)
        if seen.partner is None:  # in the MIX phase, where view 0 was there before
            _, seen.partner = seen.request.choose(self, seen)
        return seen.partner

    def make_view(self, seen: BackbonePass, which: int) -> Tensor:
        """A random view of the pass's images, by view ``which``'s recipe, as large and strong as its request says.

        Raises:
            ValueError: the encoder was given no images, but what other layers made of them.
        """
        self._check_source(seen.source)
        size = None if seen.request.size is None else seen.image_size
        return self.views(seen.source.detach(), which, self._magnitude(seen.request), size, seen.request.jitter)

    def _magnitude(self, request: PassRequest) -> float:
        own = request.magnitude
        return self.views.magnitude_at(request.position) if own is None else own

    def watch_collapse(self, embeddings: Tensor) -> None:
        """Note how far apart the normalised ``embeddings`` ``(B, D)`` are."""
        self._monitors = {"embedding_std": embedding_std(embeddings)}

    def monitors(self) -> Mapping[str, Tensor]:
        """See the base class."""
        return self._monitors

    def check_step(self) -> None:
        """Refuse a forward pass where something should have followed the last one, but did not."""

    def check_batch(self, features: Tensor) -> None:
        """Refuse a batch that BatchNorm heads cannot be trained on.

        Raises:
            ValueError: it has one image.
            RuntimeError: the heads have not been made.
        """
        if self._width is None:
            raise RuntimeError(f"this {type(self).__name__} has no heads yet: call build(backbone) first")
        if len(features) < 2 and self.training and batch_norms(self):
            raise ValueError(
                f"{type(self).__name__}'s head normalises over the batch (BatchNorm) and got a batch of 1 image: use "
                f"drop_last=True, another batch size or larger microbatches"
            )

    def _encode(self, seen: BackbonePass, compared: ViewPairs) -> dict[int, Tensor]:
        """Features ``(B, D)`` of the views that predict."""
        features, local = {}, {}
        for number in compared.predicting:
            view = compared.views[number]
            if view.role is Role.LOCAL:
                local[number] = view.images
            else:
                features[number] = (seen if view.role is Role.SHARED else seen.encode(view.images)).features
        if local:
            together = seen.encode(torch.cat(list(local.values())), Role.LOCAL).features
            features |= zip(local, together.chunk(len(local)), strict=True)
        return features

    def _losses(self, compared: ViewPairs, embedded: Embeddings) -> list[Tensor]:
        """Each pair's loss, ``(B,)``."""
        return [
            self.pair_loss(embedded.predictions[p.predicting], embedded.targets[p.predicted], p.soft_targets)
            for p in compared.pairs
        ]

    def _mean_over_pairs(self, compared: ViewPairs, losses: list[Tensor]) -> Tensor:
        weighted = [pair.weight * self.scale * loss for pair, loss in zip(compared.pairs, losses, strict=True)]
        return torch.stack(weighted).sum(dim=0) / sum(pair.weight for pair in compared.pairs)

    def _first_view(self, images: Tensor, seen: BackbonePass) -> Tensor:
        if seen.request.choose is None:
            return self.make_view(seen, 0)
        view, seen.partner = seen.request.choose(self, seen)
        return view

    def _check_source(self, images: Tensor) -> None:
        # Images may be leaves that want a gradient, but nothing has computed them.
        if images.grad_fn is not None:
            raise ValueError(
                f"{type(self).__name__} needs views of images, and the encoder is given what other layers make of "
                f"them, {tuple(images.shape)}: name by backbone= the submodule that takes the images themselves"
            )

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings if name != "views")


def check_temperature(name: str, value: float) -> float:
    """Return ``value`` if it is a number above 0."""
    return check_real(name, value, 0, math.inf, low_open=True, high_open=True)


def check_sizes(**sizes: int) -> None:
    """Check that widths of a head are integers of at least 1."""
    for name, size in sizes.items():
        check_int(name, size, 1)
