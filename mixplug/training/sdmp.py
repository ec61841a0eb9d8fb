"""SDMP as an amendment of the pass and of what is compared; see :class:`mixplug.SDMP` for what it is good for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.backbones import BackbonePass, PassRequest, Role
from mixplug.checks import check_bool, check_choice, check_int, check_real
from mixplug.objectives.settings import defaults_of
from mixplug.objectives.view_pairs import Pair, View, ViewPairs
from mixplug.schedules.phases import Phase
from mixplug.views.augmentation import beside
from mixplug.views.batch_mixing import MIXERS, Mixed, Mixer, RandomMixer

TERMS = ("source", "mixed")


class MixViews:
    """Has mixed images predict their sources and each other (Ren et al., 2022, "A Simple Data Mixing Prior").

    A plugin of :class:`mixplug.Training` and :class:`mixplug.EncoderPass`. With two views x and x' of each image, one
    view x that predicted x' is mixed within the batch, and predicts both sources' x' (Eq. 3) and the equally mixed x'
    (Eq. 4), as soft targets, whatever the objective's loss of a pair is:

    - **Two global views** both predict: the mixed one takes the place of one of them, by turns from step to step. Where
      view 0 alone predicts, it is the mixed one.
    - **Local crops** (DINO): some of them are mixed in the place of global views, and learn from the teacher's
      assignments of both sources (Eq. 7) and of the mixed global views (Eq. 8).
    - **MIX phase**: the image that the classifier sees is mixed with ``labels=True`` alone, and then
      :meth:`mix_labels` mixes its label. Without, a momentum encoder's objective has no other view that predicts, so
      ``version='replace'`` leaves it as it is.

    Partners are within the process's own batch: soft targets are over it, nothing has to be sent, and a random batch's
    reverse is as random a partner as another process's. Where every share is 1 the step is the plain objective's.

    Args:
        mixers: Names of :data:`mixplug.views.batch_mixing.MIXERS`, or mixers; one is drawn for each batch.
        alpha: Of the mixers given by name: shares are drawn from Beta(alpha, alpha).
        lam: Of those: 'sample' draws a share for each image, 'batch' one for all (Table 7).
        patch: Side of the patches of 'patchmix' in pixels.
        mixer_weights: How often each mixer is drawn, relative to the others; None for equally often.
        version: 'replace' has the mixed view take another's place, 'extra' adds it (Table 9).
        term_weights: What predicting sources and predicting the mixed view weigh, where what they replace weighs 1, at
            least 0 and not both 0. (0.5, 0.5) as in the released code; (1, 1) in Eqs. 5 and 9.
        static: Terms that know nothing of the share (Table 6): 'source' takes 0.5 for it, 'mixed' counts nothing as
            shared between two mixed images.
        local_share: How many of the local crops are mixed, in (0, 1], rounded down, at least one (Table 10).
        labels: Whether in MIX the classifier's images are mixed, and their labels.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or there is no such mixer or term.
    """

    phases = ("ssl", "mix")
    #: It mixes the view that the objective, or an amendment before, has chosen.
    combines = True
    within_batch = "the partners of mixed images"

    def __init__(
        self,
        mixers: Sequence[str | Mixer] = ("mixup", "cutmix", "resizemix"),
        alpha: float = 1.0,
        lam: str = "sample",
        patch: int | None = None,
        mixer_weights: Sequence[float] | None = None,
        version: str = "replace",
        term_weights: Sequence[float] = (0.5, 0.5),
        static: Iterable[str] = (),
        local_share: float = 0.5,
        labels: bool = False,
    ) -> None:
        if isinstance(mixers, (str, Mixer)) or not isinstance(mixers, Sequence):
            raise TypeError(f"mixers must be several of {list(MIXERS)}, such as ('mixup',); got {mixers!r}")
        self.mixers, self.alpha, self.lam = tuple(mixers), alpha, lam
        self.patch = None if patch is None else check_int("patch", patch, 1)
        if self.patch is not None and "patchmix" not in self.mixers:
            raise ValueError(f"patch={patch} is for 'patchmix', which is not among the mixers {mixers!r}; leave it out")
        if mixer_weights is not None and (isinstance(mixer_weights, str) or not isinstance(mixer_weights, Sequence)):
            raise TypeError(f"mixer_weights must be a number for each mixer, such as (2, 1, 1), got {mixer_weights!r}")
        self.mixer_weights = None if mixer_weights is None else tuple(mixer_weights)
        self.version = check_choice("version", version, ("replace", "extra"))
        self.term_weights = _check_term_weights(term_weights)
        if isinstance(static, str) or not isinstance(static, Iterable):
            raise TypeError(f"static must be several of {list(TERMS)}, such as ('source',); got {static!r}")
        self.static = tuple(check_choice("a static term", term, TERMS) for term in static)
        self.local_share = check_real("local_share", local_share, 0, 1, low_open=True)
        self.labels = check_bool("labels", labels)
        self.mixer = RandomMixer([self._make(mixer) for mixer in self.mixers], self.mixer_weights)
        self._labels_of: tuple[Tensor, Tensor] | None = None

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with the change of what is compared, and with its own view mixed where that is to be."""
        if request.role is not Role.SHARED:
            return request
        self._labels_of = None
        if not self.mixes(request):
            return request
        view = request.view
        if self._mixes_shared(request):
            view = MixedView(view, self._mix_classified if request.position.phase is Phase.MIX else self.mixer)
        return dataclasses.replace(request, view=view, compare=(*request.compare, self.amend_pairs))

    def yields_to(self, request: PassRequest) -> bool:
        """Nobody else mixes."""
        return False

    def mixes(self, request: PassRequest) -> bool:
        """Whether there is something to mix where ``request`` is what the objective asks of the model's own pass."""
        predicting = {pair.predicting for pair in request.pairs}
        return bool(predicting - {0}) or (self.version == "extra" and bool(predicting)) or self._mixes_shared(request)

    @property
    def mixes_labels(self) -> bool:
        """Whether the images that the classifier saw last were mixed, so that their labels must be."""
        return self._labels_of is not None

    def amend_pairs(self, compared: ViewPairs, seen: BackbonePass) -> ViewPairs:
        """What is compared, with mixed views; a ``PairsAmendment``."""
        views, pairs, mixed = dict(compared.views), list(compared.pairs), None
        places: dict[int, int] = {}
        if isinstance(seen.request.view, MixedView):
            # The model's own pass has seen view 0 mixed; unmixed it is a view of its own.
            clean, mixed = max(views) + 1, seen.request.view.mixed
            views[clean] = View(seen.request.view.clean)
            pairs = [_renumber(pair, {0: clean}) for pair in pairs]
            places[clean] = 0
        else:
            for query in self._chosen(compared, seen):
                view = views[query]
                made = self.mixer(view.images) if mixed is None else mixed.mix_likewise(view.images)
                mixed, places[query] = mixed or made, max(views) + 1
                views[places[query]] = View(made.images, Role.LOCAL if view.role is Role.LOCAL else Role.QUERY)
        if mixed is None or bool((mixed.lam == 1).all()):
            return compared
        return self._with_mixed(views, pairs, places, mixed)

    def mix_labels(self, labels: Tensor, classes: int) -> Tensor:
        """The labels of the images that the classifier saw: ``(B, classes)`` where they were mixed, else unchanged.

        Args:
            labels: Classes ``(B,)``, or what they are mixed of already, ``(B, classes)``.
            classes: How many there are.

        Raises:
            TypeError: labels are neither.
            ValueError: they are not as many as the images that were mixed.
        """
        if self._labels_of is None:
            return labels
        if not isinstance(labels, Tensor) or labels.ndim != (2 if labels.is_floating_point() else 1):
            got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels=True mixes labels that are classes (B,), or shares of them (B, K); got {got}")
        if len(labels) != len(self._labels_of[0]):
            raise ValueError(
                f"labels=True mixes each label with another, and of {len(self._labels_of[0])} mixed images "
                f"{len(labels)} have one; use labels=False where unlabelled images go through the same pass, or "
                f"microbatches are exact"
            )
        dense = labels if labels.is_floating_point() else F.one_hot(labels, classes).float()
        partners, lam = (beside(dense, numbers) for numbers in self._labels_of)
        # In steps of 2^-20, so that shares sum to 1 exactly: Composer's loss warns of less.
        share = (lam * 2**20).round().div(2**20).to(dense.dtype)[:, None]
        return share * dense + (1 - share) * dense.index_select(0, partners)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in defaults_of(MixViews)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def _make(self, mixer: str | Mixer) -> Mixer:
        if isinstance(mixer, Mixer):
            return mixer
        name = check_choice("a mixer", mixer, MIXERS)
        if name != "patchmix":
            return MIXERS[name](alpha=self.alpha, lam=self.lam)
        if self.patch is None:
            raise ValueError("'patchmix' needs to know patch=, the side of the model's patches in pixels")
        return MIXERS[name](patch=self.patch, alpha=self.alpha, lam=self.lam)  # type: ignore[call-arg]

    def _mixes_shared(self, request: PassRequest) -> bool:
        predicting = {pair.predicting for pair in request.pairs}
        if not predicting or max(predicting) > 1:
            return False
        if request.position.phase is Phase.MIX:
            return self.labels
        # The released code draws which view is mixed; taking turns needs no number that processes would have to share.
        alone = predicting == {0}
        return self.version == "replace" and (alone or request.position.step % 2 == 1)

    def _mix_classified(self, images: Tensor) -> Mixed:
        mixed = self.mixer(images)
        self._labels_of = mixed.partners, mixed.lam
        return mixed

    def _chosen(self, compared: ViewPairs, seen: BackbonePass) -> list[int]:
        """The views of which a mixed one is made."""
        local = [number for number in compared.predicting if compared.views[number].role is Role.LOCAL]
        if local:
            return local[: max(1, math.floor(self.local_share * len(local)))]
        whole = sorted(compared.predicting)
        if self.version == "replace":
            return [number for number in whole if number == 1]
        return [whole[seen.request.position.step % len(whole)]]

    def _with_mixed(self, views: dict[int, View], pairs: list[Pair], places: dict[int, int], mixed: Mixed) -> ViewPairs:
        """``pairs`` with those of the views in ``places`` made pairs of their mixed ones, whose numbers these are."""
        device = next(iter(views.values())).images
        source, both = (beside(device, targets) for targets in self._soft_targets(mixed))
        predicted: dict[int, int] = {}
        found: list[Pair] = []
        for pair in pairs:
            if pair.predicting not in places or self.version == "extra":
                found.append(pair)
            if pair.predicting not in places:
                continue
            query, target = places[pair.predicting], pair.predicted
            if self.term_weights[0]:
                found.append(Pair(query, target, self.term_weights[0] * pair.weight, source))
            if self.term_weights[1]:
                if target not in predicted:
                    predicted[target] = max(views) + 1
                    views[predicted[target]] = View(mixed.mix_likewise(views[target].images).images)
                found.append(Pair(query, predicted[target], self.term_weights[1] * pair.weight, both))
        predicting = {pair.predicting for pair in found}
        shown = {
            number: dataclasses.replace(view, role=Role.KEY)
            if view.role is Role.QUERY and number not in predicting
            else view
            for number, view in views.items()
        }
        return ViewPairs(shown, found)

    def _soft_targets(self, mixed: Mixed) -> tuple[Tensor, Tensor]:
        lam = torch.full_like(mixed.lam, 0.5) if "source" in self.static else mixed.lam
        shared = torch.zeros_like(mixed.lam) if "mixed" in self.static else shared_part(mixed.lam, mixed.partners)
        return soft_targets(lam, mixed.partners), soft_targets(1 / (1 + shared), mixed.partners)


class MixedView:
    """What the model's own pass is shown instead of a view: the view mixed within the batch.

    Args:
        view: Of the images of a pass, None for the images themselves.
        mix: ``images -> Mixed``.

    Attributes:
        clean: The view of the last images, unmixed.
        mixed: What was made of it.
    """

    clean: Tensor
    mixed: Mixed

    def __init__(self, view: Callable[[Tensor, BackbonePass], Tensor] | None, mix: Callable[[Tensor], Mixed]) -> None:
        self._view, self._mix = view, mix

    def __call__(self, images: Tensor, seen: BackbonePass) -> Tensor:
        """The mixed view of ``images`` ``(B, C, H, W)``, at the size of the pass."""
        self.clean = seen.show(images, self._view)
        self.mixed = self._mix(self.clean)
        return self.mixed.images


def shared_part(lam: Tensor, partners: Tensor) -> Tensor:
    """``(B,)``: how much two mixed images of the same sources have in common, lambda_c of Eq. 4.

    Args:
        lam: ``(B,)``, how much of each image is its own.
        partners: ``(B,)``, whom each is mixed with.
    """
    other = lam[partners]
    return torch.minimum(lam, 1 - other) + torch.minimum(1 - lam, other)


def soft_targets(own: Tensor, partners: Tensor) -> Tensor:
    """``(B, B)``: row i has ``own[i]`` at i and the rest at i's partner, both of them where that is i itself."""
    return torch.diag(own).scatter_add_(1, partners[:, None], (1 - own)[:, None])


def _renumber(pair: Pair, numbers: Mapping[int, int]) -> Pair:
    predicting, predicted = (numbers.get(number, number) for number in (pair.predicting, pair.predicted))
    return dataclasses.replace(pair, predicting=predicting, predicted=predicted)


def _check_term_weights(weights: Sequence[float]) -> tuple[float, float]:
    if isinstance(weights, str) or not isinstance(weights, Sequence) or len(weights) != len(TERMS):
        raise ValueError(f"term_weights must be two numbers, of {' and '.join(TERMS)}, got {weights!r}")
    source, mixed = (check_real("a term's weight", weight, 0, math.inf, high_open=True) for weight in weights)
    if not source and not mixed:
        raise ValueError(f"term_weights must not both be 0, got {weights!r}; leave SDMP out for neither")
    return source, mixed
