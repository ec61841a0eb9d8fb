"""Two processes with half of the batch each are one process with the whole: losses, gradients, queue and centre."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, trainable
from torch import nn
from torch.nn import functional as F

from mixplug import EncoderPass, Phase, Position, backbone_of
from mixplug.training.sdmp import MixViews
from mixplug.views.batch_mixing import Mixed, Mixup

pytestmark = pytest.mark.slow

STEPS = [
    Position(Phase.SSL, 0, 0),
    Position(Phase.SSL, 0.5, 0.3, step=1),
    Position(Phase.MIX, 0, 0.6),
    Position("mix", 0.5, 0.8),
]


class Rolled(nn.Module):
    """Views without randomness."""

    def magnitude_at(self, progress):
        return 1.0

    def forward(self, images, which=0, magnitude=None, size=None, jitter=1.0):
        return images.roll(1 + which, dims=-1)


class MixedInHalves(Mixup):
    """Images of 8 mixed as two processes with 4 each do it, by shares that are the images' own."""

    def mix(self, images, drawn, generator=None):
        if len(images) == 4:
            drawn = images.double().mean((1, 2, 3)).sigmoid() if drawn is None else drawn
            return super().mix(images, drawn)
        halves = [
            self.mix(half, share)
            for half, share in zip(images.chunk(2), (None, None) if drawn is None else drawn.chunk(2), strict=True)
        ]
        whole = {name: torch.cat([getattr(half, name) for half in halves]) for name in ("images", "lam", "drawn")}
        partners = torch.cat([halves[0].partners, halves[1].partners + 4])
        return Mixed(whole["images"], partners, whole["lam"], self, whole["drawn"])

    def _draw(self, count, generator):
        return None


def without_batch_statistics(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_statistics(child)


NAMES = [*OBJECTIVES, *(f"{name}, mixed" for name in OBJECTIVES)]


def made(name):
    model = tiny_vit().double()
    torch.manual_seed(0)
    objective = OBJECTIVES[name.removesuffix(", mixed")]()
    objective.views = Rolled()
    objective.build(backbone_of(model))
    without_batch_statistics(objective)
    return model, objective


def backward(model, objective, step, part, parts, mixed=False):
    """The loss on a part of the batch, and the gradients as one vector."""
    x = images(8, seed=step, dtype=torch.float64).chunk(parts)[part]
    y = labels(8, seed=step).chunk(parts)[part]
    objective.before_step()
    model.zero_grad()
    objective.zero_grad()
    passes = EncoderPass(backbone_of(model), objective)
    if mixed:
        passes.add(MixViews([MixedInHalves()], labels=True))
    with passes.watch(STEPS[step]) as seen:
        logits = model(x)
    loss = objective(seen) + F.cross_entropy(logits, y)
    loss.backward()
    return loss.detach(), nn.utils.parameters_to_vector([p.grad for p in moved(model, objective)])


def moved(model, objective):
    return [p for p in trainable(model, objective) if p.grad is not None]


def train(name, rank, world):
    """Losses, gradients and state of some steps, in float64 and without statistics of the batch."""
    model, objective = made(name)
    optimizer = torch.optim.SGD(trainable(model, objective), lr=0.1)
    left = []
    for step, position in enumerate(STEPS):
        loss, gradients = backward(model, objective, step, rank, world, name.endswith("mixed"))
        if world > 1:  # what DDP does
            for value in (loss, gradients):
                dist.all_reduce(value)
                value /= world
            nn.utils.vector_to_parameters(gradients, [p.grad for p in moved(model, objective)])
        objective.after_backward(position)
        optimizer.step()
        objective.after_step(position)
        left.append((loss, gradients, {n: v.clone() for n, v in objective.state_dict().items()}))
    return left


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: train(name, rank, 2) for name in NAMES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(ranks, name):
    whole = train(name, 0, 1)
    for rank in ranks:
        for (loss, gradients, state), (loss_1, gradients_1, state_1) in zip(rank[name], whole, strict=True):
            torch.testing.assert_close(loss, loss_1, rtol=0, atol=1e-10)
            torch.testing.assert_close(gradients, gradients_1, rtol=0, atol=1e-10)
            for key, value in state.items():
                torch.testing.assert_close(value, state_1[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["SimCLR", "MoCoV3"])
def test_negatives_of_one_process_alone_would_give_other_gradients(ranks, name):
    """So the test above can fail."""
    alone = [backward(*made(name), 0, part, 2)[1] for part in range(2)]
    assert (torch.stack(alone).mean(dim=0) - ranks[0][name][0][1]).abs().max() > 1e-3
