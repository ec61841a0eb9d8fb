"""FusedBackbonePass: one pass over the backbone serves both heads (Li et al., Fig. 3 and appendix A.2).

What it does
    Gives the model a self-supervised head (the objective), lets the user's own ``model.forward`` run once for
    each step, and computes the self-supervised loss from what that pass left behind: the encoder's tokens and
    the very images it saw, after resizing, MixUp and the rest. Between training steps the model behaves as it did
    before, and outside of ``fit`` nothing of mixplug is left in its forward pass.

On its own
    The loss of each step is the plain sum ``ssl + sl``. With a PhaseSwitch the SSL phase trains on ``ssl``
    alone, the SL phase on ``sl`` alone; with a JointLoss its weights hold.

Hyperparameters
    ``objective`` 'auto' is Li et al.'s: MAE with ``mask='features'`` and a decoder 2 deep. ``MAE(mask='input')``
    costs about half as much. Objectives of two views, and ``MAE(mask='input', fused=False)``, run the encoder once
    more beside the model's pass.

Caveats
    The model must run its backbone exactly once in each forward pass. The head's parameters join the param
    groups of the backbone's, so its learning rate and weight decay are the backbone's. They are part of the
    model's state_dict under ``ssl_objective``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from composer.core import Event, Precision, State, get_precision_context
from composer.core.data_spec import _default_split_batch
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten

from mixplug.algorithms.joint_loss import weights_of
from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.trainer.contract import find, position_of, unwrapped_model
from mixplug.algorithms.trainer.last_batches import check_batches_of_one
from mixplug.algorithms.trainer.neighbours import (
    head_holder,
    hide_head_from_freezing,
    refuse_unfit,
    show_head_to_copies,
)
from mixplug.algorithms.trainer.optimizers import add_to_groups, create_missing_state, leave_out
from mixplug.algorithms.trainer.passes import WatchedPass
from mixplug.checks import check_bool
from mixplug.data.batches import images_of
from mixplug.objectives import MAE, Objective
from mixplug.objectives.joint import joint_loss
from mixplug.schedules.phases import Phase
from mixplug.training.exact_microbatches import ExactMicrobatches
from mixplug.training.step import drop_unused_gradients, supervised_only

_OF_THE_LOSS = frozenset({Event.BEFORE_TRAIN_BATCH, Event.BATCH_END})


class FusedBackbonePass(WatchedPass):
    """Computes the self-supervised loss from the model's own forward pass.

    Args:
        objective: The SSL objective, or 'auto' for MAE with ``mask='features'``. It is copied, so that one
            description can serve several models; the model's copy is ``state.model.ssl_objective``.
        backbone: Dotted name of the encoder inside of the model, if it holds several models of timm's, or none: then
            of a submodule that takes images and gives features.
        exact_microbatches: Where the Trainer splits batches and the loss depends on the other images of a batch
            (SimCLR, MoCoV3, heads with BatchNorm), give each microbatch its part of the whole batch's gradient, for one
            more pass without gradient over each image. Nothing else may change the images of a microbatch (MixUp,
            CutMix ...), which is refused; not for amp_fp16.

    Raises:
        TypeError: ``objective`` is neither 'auto' nor an :class:`mixplug.Objective`; at INIT, the model holds no
            encoder of the kind that the objective needs.
        ValueError: at INIT, the objective cannot work on this model, or an algorithm cannot work beside it.
    """

    def __init__(
        self, objective: str | Objective = "auto", backbone: str | None = None, exact_microbatches: bool = False
    ) -> None:
        if isinstance(objective, str) and objective != "auto":
            raise ValueError(f"objective must be 'auto' or an objective such as MAE(mask='input'), got {objective!r}")
        if not isinstance(objective, (str, Objective)):
            got = f"the class {objective.__name__}" if isinstance(objective, type) else type(objective).__name__
            raise TypeError(f"objective must be 'auto' or an objective such as MAE(), got {got}")
        super().__init__(backbone)
        self.objective = MAE(mask="features") if isinstance(objective, str) else objective
        self.exact_microbatches = check_bool("exact_microbatches", exact_microbatches)
        self._exact: ExactMicrobatches | None = None
        self._attached: Objective | None = None
        self._head: list[nn.Parameter] = []
        self._supervised_only: list[nn.Parameter] = []
        self._ssl_loss: Tensor | None = None
        self._passes = 0
        self._watched: dict[str, float] = {}
        self._warned = False

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"objective": self.objective, **({"exact_microbatches": True} if self.exact_microbatches else {})}

    def wants(self, event: Event, state: State) -> bool:
        """See the base class: without a self-supervised loss the objective makes no step."""
        return self._has_loss if event in _OF_THE_LOSS else super().wants(event, state)

    @property
    def _has_loss(self) -> bool:
        return self._position.phase is not Phase.SL

    def init(self, state: State, logger: Logger) -> None:
        """Give the model its self-supervised head and the optimizer its parameters."""
        refuse_unfit(state)
        if self.exact_microbatches and state.precision is Precision.AMP_FP16:
            raise ValueError(
                "exact_microbatches=True takes gradients before Composer scales losses, which amp_fp16 does not bear; "
                "use amp_bf16 or fp32"
            )
        if state.fsdp_config is not None and not self.objective.single_pass:
            raise ValueError(
                f"{self.objective.kind} runs the encoder once more, outside of the model's own forward pass, where "
                f"the parameters of a sharded model (FSDP) are not whole; train without parallelism_config, each "
                f"process with the whole model (DDP), or with an objective of one pass, such as MAE(mask='input')"
            )
        model = state.model
        passes = self.encoder_pass(state)
        backbone = passes.backbone
        present = getattr(model, "ssl_objective", None)
        if present is None:
            self._attached = copy.deepcopy(self.objective).build(backbone)
            model.ssl_objective = self._attached
            # The model runs without it, and so is exported without it: TorchScript need not understand it.
            ignored = getattr(model, "__jit_ignored_attributes__", [])
            vars(model)["__jit_ignored_attributes__"] = [*ignored, "ssl_objective"]
            _take_from_first_rank(self._attached, state)
        elif repr(present) == repr(copy.deepcopy(self.objective).build(backbone)):
            self._attached = present  # a second Trainer on the same model goes on with its head
        else:
            raise ValueError(
                f"the model already has an ssl_objective of an earlier Trainer, {present!r}, unlike the new one, "
                f"{self.objective!r}; remove it first: del model.ssl_objective"
            )
        for optimizer in state.optimizers:
            add_to_groups(optimizer, self._attached.parameters(), backbone.encoder_parameters)
        passes.objective = self._attached
        show_head_to_copies(state, logger)
        hide_head_from_freezing(state)

    def before_load(self, state: State, logger: Logger) -> None:
        """Freeze anew: Composer's algorithms may since have put layers of their own into momentum encoders."""
        assert self._attached is not None
        frozen = list(self._attached.frozen_parameters())
        for parameter in frozen:
            parameter.requires_grad_(False)
        for optimizer in state.optimizers:
            leave_out(optimizer, frozen)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Attach to the model, and give every parameter its optimizer state for checkpoints of any phase."""
        super().fit_start(state, logger)
        passes = self.encoder_pass(state)
        # Sharding (FSDP1) has put a wrapper in the head's place since INIT, and only that knows the whole parameters.
        passes.objective = self._attached = head_holder(state.model).ssl_objective
        # Lists for every step: to walk through all modules takes longer than what is done with them.
        self._head = list(self._attached.parameters())
        self._supervised_only = supervised_only(state.model, passes.backbone, self._head)
        self._check_last_batches(state)
        if state.timestamp.batch == 0:
            self._attached.begin()
        for optimizer in state.optimizers:
            create_missing_state(optimizer)

    def _check_last_batches(self, state: State) -> None:
        assert self._attached is not None
        # A head that is given the whole batch's statistics sees no microbatch.
        microbatch = None if self.exact_microbatches else state.device_train_microbatch_size
        check = partial(check_batches_of_one, state, microbatch=microbatch)
        encoder = self.encoder_pass(state).backbone.model
        data = find(state, MixupSSLData)
        if data is not None and data.active and data.ssl_dataloader is not None:
            check(data.ssl_dataloader.loader, "ssl_dataloader", self._attached, encoder)
            loader = data.labelled_dataloader
        else:
            loader = state.dataloader
        if data is None or not data.side_by_side:
            check(loader, "train_dataloader", self._attached, encoder)

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """A step begins, perhaps again: in smaller microbatches, or at SAM's second point."""
        assert self._attached is not None
        self._passes = 0
        self._attached.before_step()
        self._exact = self._prepare_microbatches(state) if self.exact_microbatches else None

    def before_forward(self, state: State, logger: Logger) -> None:
        """See the base class; with exact microbatches, the pass is the one that was made before."""
        if self._exact is None:
            super().before_forward(state, logger)
            return
        self._exact.set_random_numbers(self._passes)
        self._seen = None
        self.encoder_pass(state).start(self._exact.requests[self._passes])

    def after_forward(self, state: State, logger: Logger) -> None:
        """Compute the self-supervised loss from what the pass left behind."""
        super().after_forward(state, logger)
        if not self._has_loss:
            return
        assert self._attached is not None
        assert self._seen is not None
        self._passes += 1
        if self._passes == 2 and self._exact is None:
            self._warn_of_microbatches(state)
        used = weights_of(state).ssl > 0
        # AFTER_FORWARD runs outside of Composer's precision context.
        with get_precision_context(state.precision, state.precision_config), torch.set_grad_enabled(used):
            if self._exact is None:
                self._ssl_loss = self._attached(self._seen)
            else:
                self._ssl_loss = self._exact.loss_of(self._passes - 1, self._seen)
        self._seen = None

    def before_backward(self, state: State, logger: Logger) -> None:
        """Put both terms and their sum into ``state.loss``."""
        weights = weights_of(state)
        sl, others = supervised_loss(state.loss)
        ssl = self._ssl_loss
        if ssl is not None and weights.sl == 0:
            ssl = self._reach_supervised_head(ssl, state)
        elif weights.ssl == 0 and isinstance(state.model, DistributedDataParallel):
            sl = _keep_in_graph(sl, self._head)
        undefined = torch.full_like(sl.detach(), float("nan"))
        data = find(state, MixupSSLData)
        unlabelled = data is not None and data.active and position_of(state).phase is Phase.SSL
        state.loss = {
            **others,
            "ssl": undefined if ssl is None else ssl,
            "sl": undefined if unlabelled else sl,
            "total": joint_loss(ssl, sl, weights),
        }
        self._ssl_loss = None

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Drop gradients of parameters that the phase does not use: weight decay would move them."""
        assert self._attached is not None
        weights = weights_of(state)
        if self._exact is not None:
            self._exact.finish()
            self._exact = None
        if self._has_loss:
            self._attached.after_backward(self._position)
            # Read where Composer reads the loss: after the optimizer's step a GPU would be waited for once more.
            self._watched = {f"mixtraining/{name}": float(v) for name, v in self._attached.monitors().items()}
        drop_unused_gradients(weights, self._head, self._supervised_only, _is_zero)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Let the objective act on the step, and log what it watches."""
        assert self._attached is not None
        self._attached.after_step(self._position)
        if self._watched:
            logger.log_metrics(self._watched)

    def _prepare_microbatches(self, state: State) -> ExactMicrobatches | None:
        """The whole batch's loss, where it is split and that matters."""
        assert self._attached is not None
        size = state.device_train_microbatch_size
        passes = self.encoder_pass(state)
        if self._request is None or size is None or passes.within_batch(self._request) is None:
            return None
        # On each process alike, for they exchange what the loss is made of: a last, smaller batch may not be split.
        batches = _default_split_batch(state.batch, int(size))
        model = unwrapped_model(state)
        with get_precision_context(state.precision, state.precision_config):
            return ExactMicrobatches(
                passes,
                self._request,
                [images_of(batch, "a batch") for batch in batches],
                lambda index: model(batches[index]),
                model,
                weights_of(state).ssl > 0,
            )

    def _warn_of_microbatches(self, state: State) -> None:
        assert self._attached is not None
        within = None if self._request is None else self.encoder_pass(state).within_batch(self._request)
        if within is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self._attached).__name__} takes {within} from each microbatch of "
                f"{state.device_train_microbatch_size} images, not from the whole batch: other numbers of them give "
                f"other losses. Where memory allows, leave device_train_microbatch_size at the batch's size; else use "
                f"exact_microbatches=True",
                stacklevel=2,
            )

    def _reach_supervised_head(self, ssl: Tensor, state: State) -> Tensor:
        """Have processes synchronise what the self-supervised loss alone would not reach."""
        if isinstance(state.model, DistributedDataParallel):
            return _keep_in_graph(ssl, [p for p in self._supervised_only if p.requires_grad])
        if state.fsdp_config is not None:
            # The gradients of a sharded module are reduced when backward comes through its output.
            outputs, _ = tree_flatten(state.outputs)
            return ssl + sum(0.0 * out.flatten()[0] for out in outputs if isinstance(out, Tensor) and out.requires_grad)
        return ssl

    def __repr__(self) -> str:
        exact = ", exact_microbatches=True" if self.exact_microbatches else ""
        return f"{type(self).__name__}(objective={self.objective!r}, backbone={self.backbone_path!r}{exact})"


def supervised_loss(loss: object) -> tuple[Tensor, dict[str, Tensor]]:
    """The supervised loss as one scalar, and what else the model's ``loss`` returned to be logged."""
    if isinstance(loss, Tensor):
        return loss.mean(), {}
    if isinstance(loss, Mapping):
        others = {name: part for name, part in loss.items() if name != "total"}
        return (loss["total"] if "total" in loss else _sum_of_means(others.values())), others
    if isinstance(loss, (tuple, list)) and loss:
        return _sum_of_means(loss), {f"loss{i}": part for i, part in enumerate(loss)}
    raise TypeError(
        f"the model's loss() must return a tensor, or a dict or tuple of tensors; got {type(loss).__name__}"
    )


def _sum_of_means(parts: Iterable[Tensor]) -> Tensor:
    """Several losses as Composer adds them up."""
    return torch.stack([part.mean() for part in parts]).sum()


def _take_from_first_rank(module: nn.Module, state: State) -> None:
    """Ranks have seeds of their own; DDP would see to equal weights, sharding would not."""
    if dist.get_world_size() == 1:
        return
    for value in (*module.parameters(), *module.buffers()):
        if not value.is_meta:
            sent = state.device.tensor_to_device(value.detach())  # a model to be sharded is not on it yet
            dist.broadcast(sent, src=0)
            value.data.copy_(sent)


def _keep_in_graph(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """``loss`` plus zero times each parameter: DDP waits for a gradient of every one of them."""
    for parameter in parameters:
        loss = loss + 0.0 * parameter.flatten()[0].to(loss)
    return loss


def _is_zero(gradient: Tensor) -> bool:
    """Whether all of ``gradient`` is 0, on all ranks if it is sharded."""
    some = gradient.any()
    return not (some.full_tensor() if isinstance(some, DTensor) else some)
