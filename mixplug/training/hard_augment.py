"""Hard views as an amendment of the pass; see :class:`mixplug.HardAugment` for what they are good for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, PassRequest, Role, random_tokens
from mixplug.checks import check_choice, check_int, check_real
from mixplug.objectives import Pair, TwoView, View, ViewPairs
from mixplug.objectives.pairs import negative_cosine
from mixplug.schedules.phases import Phase
from mixplug.schedules.resolution import scaled_size
from mixplug.views.augmentation import resize
from mixplug.views.hardest import hardest_pair

PHASES = (Phase.SSL.value, Phase.MIX.value)
SELECT_SCALE = 64 / 224
"""Of the sides of images by which pairs are scored, in the paper (section 3.3)."""

Combination = tuple[int, int]
"""Which two of the views take the places of view 0 and view 1."""


class ChooseHardest:
    """Has an objective of two views train on the hardest pair of several views of each image.

    A plugin of :class:`mixplug.Training` and :class:`mixplug.EncoderPass`. All pairs of ``views`` random views are
    scored without gradient at a small size, and the views of each image's hardest pair are what the step sees at its
    own size. Views are by turns of the recipe's first and second kind. In the MIX phase one of the views is what the
    classifier sees, and pairs are those that contain it.

    **In-batch negatives.** The score of a pair of views i and j is an image's loss in a batch in which all images show
    their views i and j: an image's negatives are the other images' views of the same two numbers. BatchNorm in encoder
    and heads takes its statistics from all images' views of one number, and its running statistics stay as they were.

    Args:
        views: Of each image, at least 2.
        select_size: Shorter side of the small images, in pixels; None for 64 of 224. It is rounded to whole patches
            (None to the network's stride, too), and at most that of the step's own images.
        by: 'loss', the objective's own of a pair (Eq. 10), with all that it predicts and is predicted; or 'cosine', the
            negative cosine of the encoder's projections (algorithm 1), which spares a momentum encoder's passes.
        dropout: Share of the patch tokens that scoring leaves out, in [0, 1); above 0 for vision transformers alone.
        phases: The phases in which views are chosen, of 'ssl' and 'mix'.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, or there is no such phase.
    """

    def __init__(
        self,
        views: int = 6,
        select_size: int | None = None,
        by: str = "loss",
        dropout: float = 0.0,
        phases: Iterable[str] = PHASES,
    ) -> None:
        if isinstance(phases, str) or not isinstance(phases, Iterable):
            raise TypeError(f"phases must be several of {list(PHASES)}, such as ('ssl',); got {phases!r}")
        self.phases = tuple(check_choice("a phase of HardAugment", str(phase), PHASES) for phase in phases)
        self.views = check_int("views", views, 2)
        self.select_size = None if select_size is None else check_int("select_size", select_size, 2)
        self.by = check_choice("by", by, ("loss", "cosine"))
        self.dropout = check_real("dropout", dropout, 0, 1, high_open=True)

    def yields_to(self, request: PassRequest) -> bool:
        """Nobody else chooses views."""
        return False

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with the choice of views; of a scoring pass, with fewer tokens."""
        if request.role is Role.SCORE and self.dropout:
            return dataclasses.replace(request, select=random_tokens(1 - self.dropout))
        if request.role is Role.SHARED and request.position.phase.value in self.phases:
            return dataclasses.replace(request, choose=self.choose)
        return request

    @torch.no_grad()
    def choose(self, objective: TwoView, seen: BackbonePass) -> tuple[Tensor, Tensor]:
        """View 0 and view 1 of each image, ``(B, C, H, W)`` each.

        Args:
            objective: Whose views they are.
            seen: The model's own pass: in the SSL phase before it, in the MIX phase after it.
        """
        views = self._make_views(objective, seen)
        combinations = self._combinations(objective, seen)
        height, width = self.small_size(seen)
        small = [resize(view, (height, width)) for view in views]
        one, other, _ = hardest_pair(views, combinations, self.score(objective, seen, small, combinations))
        return one, other

    @torch.no_grad()
    def score(
        self, objective: TwoView, seen: BackbonePass, views: Sequence[Tensor], combinations: Sequence[Combination]
    ) -> Tensor:
        """How hard each pair is for each image, ``(combinations, B)``.

        Args:
            objective: Whose loss counts.
            seen: The model's own pass.
            views: ``(B, C, H, W)`` each, as the encoder shall see them.
            combinations: The pairs of views.
        """

        def amend(request: PassRequest) -> PassRequest:
            return seen.amend(dataclasses.replace(request, role=Role.SCORE))

        with _running_statistics_kept(seen.backbone.model, objective):
            first = seen.backbone.encode(views[0], amend(PassRequest(seen.request.position)), amend)
            objective.check_batch(first.features)
            shown = {number: View(view, Role.QUERY if number else Role.SHARED) for number, view in enumerate(views)}
            if self.by == "cosine":
                every = ViewPairs(shown, [Pair(number, 0) for number in shown])
                projections = objective.project_views(first, every)
                return torch.stack([negative_cosine(projections[i], projections[j]) for i, j in combinations])
            table = _table(objective, seen)
            directed = [
                Pair(places[pair.predicting], places[pair.predicted]) for places in combinations for pair in table
            ]
            losses = objective.pair_losses(first, ViewPairs(shown, directed))
        weights = losses.new_tensor([pair.weight for pair in table])
        by_combination = losses.view(len(combinations), len(table), -1)
        return (by_combination * weights[:, None]).sum(dim=1) / weights.sum()

    def small_size(self, seen: BackbonePass) -> tuple[int, int]:
        """Height and width of the images by which pairs are scored."""
        backbone, sides = seen.backbone, seen.source.shape[-2:]
        if self.select_size is None:
            scale, step = SELECT_SCALE, backbone.stride()
        else:
            scale, step = min(1.0, self.select_size / min(sides)), whole_pixels(backbone)
        height, width = (
            min(scaled_size(side, scale, step), own) for side, own in zip(sides, seen.image_size, strict=True)
        )
        return height, width

    def _make_views(self, objective: TwoView, seen: BackbonePass) -> list[Tensor]:
        if seen.request.position.phase is Phase.MIX:
            return [seen.images.detach(), *(objective.make_view(seen, 1) for _ in range(1, self.views))]
        return [objective.make_view(seen, number % 2) for number in range(self.views)]

    def _combinations(self, objective: TwoView, seen: BackbonePass) -> list[Combination]:
        numbers = range(self.views)
        if seen.request.position.phase is Phase.MIX:
            return [(0, number) for number in numbers[1:]]
        one_sided = len(_table(objective, seen)) == 1
        # Where one view alone predicts, which of the two it is makes two pairs of them.
        return list((itertools.permutations if one_sided and self.by == "loss" else itertools.combinations)(numbers, 2))

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("views", "select_size", "by", "dropout", "phases")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"


def whole_pixels(backbone: Backbone) -> int:
    """What sizes must be multiples of: whole patches."""
    return backbone.stride() if backbone.selects_tokens else 1


def _table(objective: TwoView, seen: BackbonePass) -> list[Pair]:
    """The objective's own pairs of whole views."""
    return [p for p in objective.pairs(seen.request.position) if {p.predicting, p.predicted} == {0, 1}]


@contextmanager
def _running_statistics_kept(*networks: nn.Module) -> Iterator[None]:
    """Have BatchNorm normalise over the batch, and keep no account of it: evaluation reads what training left there."""
    layers = {
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    }
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
