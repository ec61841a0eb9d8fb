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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixplug.backbones import Backbone, BackbonePass, Role, ViTBackbone
from mixplug.checks import check_bool, check_int, check_real
from mixplug.data.processes import summed
from mixplug.objectives.heads import heads
from mixplug.objectives.two_view import (
    MomentumTwoView,
    check_sizes,
    check_temperature,
    in_full_precision,
    mean_over_pairs,
    wide,
)
from mixplug.schedules.phases import Phase, Position
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
        teacher_temperature: Where t_t starts and where it stays, above 0.
        temperature_warmup: Share of SSL and MIX over which it goes there linearly, in [0, 1].
        freeze_prototypes: Share of SSL and MIX in which the prototypes are held still, in [0, 1].
        center_momentum: Momentum of the centre, in [0, 1].
        momentum: Where the momentum of the teacher starts, in [0, 1]; it ends at 1.
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
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup: float = 0.1,
        freeze_prototypes: float = 0.01,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
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
        if not isinstance(teacher_temperature, (tuple, list)) or len(teacher_temperature) != 2:
            raise TypeError(
                f"teacher_temperature must be two numbers, where it starts and where it stays, such as (0.04, 0.07); "
                f"got {teacher_temperature!r}"
            )
        self.teacher_temperature = tuple(check_temperature("teacher_temperature", t) for t in teacher_temperature)
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
        self.projector = _Head(width, self.hidden_dim, self.bottleneck_dim, self.prototypes, self.batch_norm)
        self.register_buffer("center", torch.zeros(self.prototypes))

    def teacher_temperature_at(self, position: Position) -> float:
        """t_t at ``position``."""
        start, stop = self.teacher_temperature
        warm = min(1.0, position.ssl_progress / self.temperature_warmup) if self.temperature_warmup else 1.0
        return start + (stop - start) * warm

    def scheduled(self, position: Position) -> Mapping[str, float]:
        """See the base class."""
        return {**super().scheduled(position), "teacher_temperature": self.teacher_temperature_at(position)}

    def forward(self, seen: BackbonePass) -> Tensor:
        """The cross entropy of Eq. 3, mean over pairs of views: a scalar of at least 0."""
        position = seen.request.position
        features, teacher = self.look(seen)
        if position.phase is Phase.SSL and self.local_crops:
            features |= enumerate(self._local_features(seen), start=2)
        students = {view: self.projector(f) for view, f in features.items()}
        self._note(teacher)
        temperature = self.teacher_temperature_at(position)
        with in_full_precision(seen.features):
            targets = {view: self._assign(logits, temperature) for view, logits in teacher.items()}
            self._watch(targets)
            return mean_over_pairs(lambda s, t: cross_entropy(wide(s) / self.student_temperature, t), students, targets)

    def before_step(self) -> None:
        """See the base class."""
        self._sum, self._count = None, 0

    def after_backward(self, position: Position) -> None:
        """Hold the prototypes still in the beginning (Caron et al., appendix D)."""
        if position.ssl_progress < self.freeze_prototypes:
            self.projector.prototypes.grad = None

    def after_step(self, position: Position) -> None:
        """Let the teacher and the centre follow (Eq. 4)."""
        super().after_step(position)
        if self._sum is not None:
            total = summed(torch.cat([self._sum, self._sum.new_tensor([self._count])]))
            self.center.lerp_((total[:-1] / total[-1]).to(self.center), 1 - self.center_momentum)
        self.before_step()

    def _assign(self, logits: Tensor, temperature: float) -> Tensor:
        return ((wide(logits) - wide(self.center)) / temperature).softmax(dim=-1)

    def _note(self, teacher: Mapping[int, Tensor]) -> None:
        logits = wide(torch.cat(list(teacher.values())))
        total = logits.sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(logits)

    def _watch(self, targets: Mapping[int, Tensor]) -> None:
        every = torch.cat(list(targets.values()))
        log_k = math.log(max(2, self.prototypes))
        self._monitors = {
            "target_entropy": torch.special.entr(every.mean(dim=0)).sum() / log_k,
            "single_target_entropy": torch.special.entr(every).sum(dim=-1).mean() / log_k,
        }

    def _local_features(self, seen: BackbonePass) -> list[Tensor]:
        """Features of the local crops, in one pass, for they have one size."""
        shorter = min(seen.source.shape[-2:])
        size = self.local_size or _half(seen.backbone, shorter)
        if size > shorter:
            raise ValueError(
                f"local_size={size} is more than the {shorter} pixels of the images' shorter side; use fewer, or None "
                f"for half"
            )
        source = seen.source.detach()
        magnitude = self.views.magnitude_at(seen.request.position)
        crops = torch.cat([self.views.local(source, size, magnitude) for _ in range(self.local_crops)])
        return list(seen.encode(crops, Role.LOCAL).features.chunk(self.local_crops))

    def _check_local_size(self, backbone: Backbone) -> None:
        if not self.local_crops:
            return
        # Of most of timm's transformers; Swin's have no dynamic_img_size.
        embed: Any = getattr(backbone.model, "patch_embed", None)
        size = self.local_size
        if getattr(embed, "strict_img_size", False) and embed.img_size not in (None, (size, size)):
            raise ValueError(
                f"local_crops={self.local_crops} are smaller than {embed.img_size}, the one size that the model takes; "
                f"build it with dynamic_img_size=True (where it has none, strict_img_size=False), or use local_crops=0"
            )
        if isinstance(backbone, ViTBackbone) and size is not None and any(size % side for side in backbone.patch_size):
            raise ValueError(
                f"local_size={size} cannot be cut into patches of {backbone.patch_size}; choose a multiple of them"
            )


class _Head(nn.Module):
    """Three layers, a normalised bottleneck, normalised prototypes (Caron et al., appendix C).

    lightly's DINOProjectionHead has the prototypes under torch's old weight_norm, whose layers cannot be copied.
    Normalised weights are weight_norm's with its gain held at 1, which is the paper's default.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, batch_norm: bool = False) -> None:
        super().__init__()
        layers = [
            (width, hidden, nn.BatchNorm1d(hidden) if batch_norm else None, nn.GELU()),
            (hidden, hidden, nn.BatchNorm1d(hidden) if batch_norm else None, nn.GELU()),
            (hidden, bottleneck, None, None),
        ]
        self.layers = heads().ProjectionHead(layers)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, K)`` of features ``(B, D)``."""
        return F.linear(F.normalize(self.layers(features), dim=-1), F.normalize(self.prototypes, dim=-1))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """H(targets, softmax(logits)), mean over the batch, of ``(B, K)`` each."""
    return F.cross_entropy(logits, targets)


def _half(backbone: Backbone, size: int) -> int:
    patch = max(backbone.patch_size) if isinstance(backbone, ViTBackbone) else 1
    return max(patch, size // 2 // patch * patch)
