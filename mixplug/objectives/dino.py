"""DINO: agree with a momentum encoder's soft assignment of the other view (Caron et al., 2021).

What it does
    ``H(P_t(x'), P_s(x))`` over all pairs of different views (Eq. 3), where P_s = softmax(g_s / t_s) is the student's
    and P_t = softmax((g_t - c) / t_t) the teacher's, the momentum encoder's. The centre c is a moving average of g_t
    over batches, of all processes (Eq. 4).

When to use it
    Vision transformers. Local crops (``local_crops``) are what its paper gains most by; each costs its share of a pass.
    The transformer must then take smaller images: build it with ``dynamic_img_size=True``.

Hyperparameters
    ``teacher_temperature`` 0.04 warmed up linearly to 0.07 over the first tenth of SSL and MIX (30 of 300 epochs),
    ``student_temperature`` 0.1, centre momentum 0.9, ``momentum`` from 0.996 to 1, 65536 prototypes, the prototypes
    held still in the first hundredth (1 of 100 epochs). Small data wants fewer prototypes, such as 4096.

    ``batch_norm=True`` puts BatchNorm into the head (``--use_bn_in_head`` of the paper's code, which leaves it out for
    transformers): where training is short or the model small, what all images have in common outweighs what
    they differ in, and without it the assignments may stay uniform.

Caveats
    Watch the entropies of the teacher's assignments, over log K: ``target_entropy`` of their mean,
    ``single_target_entropy`` of one. 1 for both is collapse to uniform, 0 for the former collapse to one prototype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixplug.backbones import Backbone, BackbonePass, Role, ViTBackbone
from mixplug.checks import check_bool, check_int, check_real
from mixplug.data.processes import summed
from mixplug.objectives.heads import PrototypeHead
from mixplug.objectives.momentum import MomentumTwoView
from mixplug.objectives.pairs import cross_entropy, to_float32
from mixplug.objectives.two_view import check_sizes, check_temperature
from mixplug.objectives.view_pairs import Embeddings, Pair, View, ViewPairs
from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Points, Schedule, Shape, Steps, value_at
from mixplug.views.views import Views


class DINO(MomentumTwoView):
    """DINO (Caron et al., 2021); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        local_crops: Local crops of each image in the SSL phase.
        local_size: Their height and width in pixels, at most the images' shorter side; None for half of that
            (rounded to patches).
        hidden_dim: Width of the head's hidden layers.
        bottleneck_dim: Width of the head's end, which is normalised.
        prototypes: K, the length of the assignments.
        student_temperature: t_s, above 0.
        teacher_temperature: Where t_t starts and where it stays, above 0; or a schedule, by default over SSL and MIX.
        temperature_warmup: Share of SSL and MIX over which it goes there linearly, in [0, 1]; a schedule knows its own.
        freeze_prototypes: Share of SSL and MIX in which the prototypes are held still, in [0, 1].
        center_momentum: Momentum of the centre, in [0, 1].
        momentum: Where the teacher's momentum starts, in [0, 1], on its way to 1 by half a cosine; or a schedule.
        symmetric: Whether the student sees both global views in the SSL phase.
        batch_norm: Whether the head's hidden layers normalise over the batch.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range; in ``build``, a size that the model cannot take.
    """

    center: Tensor
    settings = (
        *MomentumTwoView.settings,
        "local_crops",
        "local_size",
        "hidden_dim",
        "bottleneck_dim",
        "prototypes",
        "student_temperature",
        "teacher_temperature",
        "temperature_warmup",
        "freeze_prototypes",
        "center_momentum",
        "batch_norm",
    )

    def __init__(
        self,
        views: str | Views = "dino",
        local_crops: int = 0,
        local_size: int | None = None,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        prototypes: int = 65536,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] | Shape = (0.04, 0.07),
        temperature_warmup: float = 0.1,
        freeze_prototypes: float = 0.01,
        center_momentum: float = 0.9,
        momentum: Schedule = 0.996,
        symmetric: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(views, symmetric, momentum)
        self.batch_norm = check_bool("batch_norm", batch_norm)
        if batch_norm:
            self.within_batch = "the statistics of its head's BatchNorm"
        self.local_crops = check_int("local_crops", local_crops, 0)
        self.local_size = None if local_size is None else check_int("local_size", local_size, 2)
        check_sizes(hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim, prototypes=prototypes)
        self.hidden_dim, self.bottleneck_dim, self.prototypes = hidden_dim, bottleneck_dim, prototypes
        self.student_temperature = check_temperature("student_temperature", student_temperature)
        self.teacher_temperature = _checked_temperature(teacher_temperature)
        self.temperature_warmup = check_real("temperature_warmup", temperature_warmup, 0, 1)
        self.freeze_prototypes = check_real("freeze_prototypes", freeze_prototypes, 0, 1)
        self.center_momentum = check_real("center_momentum", center_momentum, 0, 1)
        self._sum: Tensor | None = None
        self._count = 0

    def build(self, backbone: Backbone) -> DINO:
        """Create the head, and check that the model takes the local crops; see the base class."""
        self._check_local_size(backbone)
        return super().build(backbone)

    def make_heads(self, width: int) -> None:
        """See the base class."""
        self.projector = PrototypeHead(width, self.hidden_dim, self.bottleneck_dim, self.prototypes, self.batch_norm)
        self.register_buffer("center", torch.zeros(self.prototypes))

    def teacher_temperature_at(self, position: Position) -> float:
        """t_t at ``position``."""
        given = self.teacher_temperature
        if not isinstance(given, Shape):
            given = Points([(0, given[0]), (self.temperature_warmup, given[1])])
        return value_at(given, position, "ssl")

    def pairs(self, position: Position) -> list[Pair]:
        """See the base class: local crops predict each global view that is predicted."""
        pairs = super().pairs(position)
        local = range(2, 2 + self.local_crops) if position.phase is Phase.SSL else ()
        return pairs + [Pair(crop, view) for crop in local for view in sorted(pair.predicted for pair in pairs)]

    def make_views(self, seen: BackbonePass) -> dict[int, View]:
        """The two global views and, in the SSL phase, the local crops."""
        views = super().make_views(seen)
        if self.local_crops and seen.request.position.phase is Phase.SSL:
            views |= enumerate(self._local_crops(seen), start=2)
        return views

    def embed_views(self, seen: BackbonePass, compared: ViewPairs) -> Assigned:
        """See the base class; targets are the teacher's assignments."""
        given = super().embed_views(seen, compared)
        temperature = self.teacher_temperature_at(seen.request.position)
        # In the views' own order, so that the centre's sum does not depend on the pairs'.
        logits = dict(sorted(given.targets.items()))
        assigned = {view: self._assign(output, temperature) for view, output in logits.items()}
        return Assigned(given.projections, given.predictions, assigned, logits)

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """The cross entropy of Eq. 2, at least 0; see the base class."""
        return cross_entropy(predictions, targets, self.student_temperature, soft_targets)

    def note_embeddings(self, embedded: Embeddings) -> None:
        """Keep the teacher's outputs for the centre, and the entropies of its assignments."""
        assert isinstance(embedded, Assigned)
        logits = to_float32(torch.cat(list(embedded.logits.values())))
        total = logits.sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(logits)
        every = torch.cat(list(embedded.targets.values()))
        log_k = math.log(max(2, self.prototypes))
        self._monitors = {
            "target_entropy": torch.special.entr(every.mean(dim=0)).sum() / log_k,
            "single_target_entropy": torch.special.entr(every).sum(dim=-1).mean() / log_k,
        }

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """See the base class."""
        return {**super().scheduled(position), "teacher_temperature": self.teacher_temperature_at(position)}

    def before_step(self) -> None:
        """See the base class."""
        super().before_step()
        self._sum, self._count = None, 0

    def after_backward(self, position: Position) -> None:
        """Hold the prototypes still in the beginning (Caron et al., appendix D)."""
        if value_at(Steps({0: 1, self.freeze_prototypes: 0}), position, "ssl"):
            self.projector.prototypes.grad = None

    def after_step(self, position: Position) -> None:
        """Let the teacher and the centre follow (Eq. 4)."""
        super().after_step(position)
        if self._sum is not None:
            total = summed(torch.cat([self._sum, self._sum.new_tensor([self._count])]))
            self.center.lerp_((total[:-1] / total[-1]).to(self.center), 1 - self.center_momentum)
        self._sum, self._count = None, 0

    def _assign(self, logits: Tensor, temperature: float) -> Tensor:
        return ((to_float32(logits) - to_float32(self.center)) / temperature).softmax(dim=-1)

    def _local_crops(self, seen: BackbonePass) -> list[View]:
        shorter = min(seen.image_size)
        size = self.local_size or _half(seen.backbone, shorter)
        if size > shorter:
            raise ValueError(
                f"local_size={size} is more than the {shorter} pixels of the global views' shorter side; use fewer, "
                f"or None for half"
            )
        source, magnitude, jitter = seen.source.detach(), self._magnitude(seen.request), seen.request.jitter
        return [View(self.views.local(source, size, magnitude, jitter), Role.LOCAL) for _ in range(self.local_crops)]

    def _check_local_size(self, backbone: Backbone) -> None:
        if not self.local_crops:
            return
        size, fixed = self.local_size, backbone.fixed_size
        if fixed not in (None, (size, size)):
            raise ValueError(
                f"local_crops={self.local_crops} are smaller than {fixed}, the one size that the model takes; "
                f"build it with dynamic_img_size=True (where it has none, strict_img_size=False), or use local_crops=0"
            )
        if isinstance(backbone, ViTBackbone) and size is not None and any(size % side for side in backbone.patch_size):
            raise ValueError(
                f"local_size={size} cannot be cut into patches of {backbone.patch_size}; choose a multiple of them"
            )


@dataclass(frozen=True)
class Assigned(Embeddings):
    """What the heads make of the views, with the teacher's outputs ``logits`` that the assignments were made from."""

    logits: Mapping[int, Tensor]


def _checked_temperature(given: Any) -> tuple[float, float] | Shape:
    if isinstance(given, Shape):
        for value in given.values:
            check_temperature(f"a value of teacher_temperature={given!r}", value)
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(
            f"teacher_temperature must be two numbers, where it starts and where it stays, such as (0.04, 0.07), or a "
            f"schedule; got {given!r}"
        )
    start, stop = (check_temperature("teacher_temperature", value) for value in given)
    return start, stop


def _half(backbone: Backbone, size: int) -> int:
    patch = max(backbone.patch_size) if isinstance(backbone, ViTBackbone) else 1
    return max(patch, size // 2 // patch * patch)
