"""What other methods change of a two-view objective: views, pairs of them, soft targets."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, tiny_vit
from shared.two_view import OBJECTIVES, views

from mixplug import PassRequest, Phase, Position, backbone_of
from mixplug.backbones import Role
from mixplug.objectives import Pair, TwoView, View, ViewPairs

every = pytest.mark.parametrize("name", OBJECTIVES)
POSITION = Position(Phase.SSL, 0.5, 0.3)


def built(name, **options):
    model = tiny_vit()
    torch.manual_seed(0)
    objective = OBJECTIVES[name](**options).build(backbone_of(model))
    objective.before_step()
    return model, backbone_of(model), objective


def seen_by(model, backbone, objective, x):
    with backbone.watch(objective.request(POSITION)) as seen:
        model(x)
    return seen


class MixedViews:
    """SDMP (Ren et al., 2022, algorithm 1) with Mixup: a further view mixed with that of the image opposite."""

    def __init__(self, share):
        self.share = share

    def __call__(self, compared, seen):
        share, opposite = self.share, self.share.flip(0)
        both = torch.minimum(share, 1 - opposite) + torch.minimum(1 - share, opposite)
        own = torch.eye(len(share))
        source = share * own + (1 - share) * own.flip(0)
        mixed = (own + both * own.flip(0)) / (1 + both)
        new = {n + 2: View(self.mix(compared.views[n].images)) for n in (0, 1)}
        pairs = [Pair(0, 1), Pair(2, 1, 0.5, source), Pair(2, 3, 0.5, mixed)]
        self.compared = ViewPairs({**compared.views, **new}, pairs)
        return self.compared

    def mix(self, x):
        share = self.share.view(-1, 1, 1, 1)
        return share * x + (1 - share) * x.flip(0)


def test_mixed_images_are_positives_of_both_their_sources():
    """Equations 3 to 5 of SDMP for MoCo v3, which knows nothing of it."""
    model, backbone, objective = built("MoCoV3")
    mixing = MixedViews(torch.rand(6, 1))
    objective.add_amendment(mixing)
    calls = []
    for part in (model, objective.momentum_encoder.model):
        part.blocks[0].register_forward_hook(
            lambda *_, part=part: calls.append((part is model, torch.is_grad_enabled()))
        )
    loss = objective(seen_by(model, backbone, objective, images(6)))
    assert sorted(calls) == [(False, False)] * 2 + [(True, True)] * 2

    shown = [mixing.compared.views[n].images for n in range(4)]
    lam, t = mixing.share, objective.temperature
    assert torch.equal(shown[2], mixing.mix(shown[0]))
    queries = [objective.predictor(objective.projector(backbone.features_of(shown[n]))) for n in (0, 2)]
    keys = [objective.momentum_projector(objective.momentum_encoder(shown[n])) for n in (1, 3)]
    clean, mixed = (F.normalize(q, dim=1) for q in queries)
    source_keys, mixed_keys = (F.normalize(k, dim=1) for k in keys)
    one_hot = F.one_hot(torch.arange(6)).float()
    clam = torch.minimum(lam, 1 - lam.flip(0)) + torch.minimum(1 - lam, lam.flip(0))
    label1 = lam * one_hot + (1 - lam) * one_hot.flip(1)
    label2 = 1 / (1 + clam) * one_hot + clam / (1 + clam) * one_hot.flip(1)
    terms = [
        F.cross_entropy(clean @ source_keys.T / t, one_hot),
        0.5 * F.cross_entropy(mixed @ source_keys.T / t, label1),
        0.5 * F.cross_entropy(mixed @ mixed_keys.T / t, label2),
    ]
    torch.testing.assert_close(loss, 2 * t * sum(terms), rtol=1e-5, atol=1e-6)


@every
def test_a_mixed_view_trains_every_objective(name):
    model, backbone, objective = built(name)
    objective.add_amendment(MixedViews(torch.rand(6, 1)))
    loss = objective(seen_by(model, backbone, objective, images(6)))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)


def kept_views(objective):
    """A list to which the objective's next step adds what it compares."""
    kept = []
    objective.add_amendment(lambda compared, seen: kept.append(compared) or compared)
    return kept


@every
def test_each_images_loss_is_known_and_nothing_is_noted_of_it(name):
    model, backbone, objective = built(name)
    kept = kept_views(objective)
    seen = seen_by(model, backbone, objective, images(6))
    loss = objective(seen)
    alone = copy.deepcopy(objective)
    losses = objective.pair_losses(seen, kept[0])
    assert losses.shape == (len(kept[0].pairs), 6)
    torch.testing.assert_close(losses.mean(), loss)
    for view in kept[0].views.values():
        objective.pair_losses(seen, ViewPairs({0: kept[0].views[0], 1: view}, [Pair(0, 1)]))
    assert objective.monitors().keys() == alone.monitors().keys()
    assert all(torch.equal(value, alone.monitors()[key]) for key, value in objective.monitors().items())
    after = []
    for each in (objective, alone):
        each._encoder = [model]
        each.after_step(POSITION)
        after.append({key: value for key, value in each.state_dict().items() if "running_" not in key})
    for key, value in after[0].items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, after[1][key]), key


def test_views_can_be_chosen_by_their_loss_before_the_pass_begins():
    """What hard augmentation needs: candidates are scored inside of the pass, which then sees the hardest."""
    model, backbone, objective = built("MoCoV2Plus")
    x = images(6)
    scored, seen_of = [], {}

    def hardest(images, _):
        candidates = [objective.views(images, 0) for _ in range(4)]
        with torch.no_grad():
            seen = [backbone.encode(c, PassRequest(POSITION, Role.KEY)) for c in candidates]
            for left, other in ((0, 1), (2, 3)):
                shown = {0: View(candidates[left], Role.SHARED), 1: View(candidates[other])}
                scored.append(objective.pair_losses(seen[left], ViewPairs(shown, [Pair(0, 1)])))
        harder = (scored[1] > scored[0])[0].view(-1, 1, 1, 1)
        seen_of[1] = torch.where(harder, candidates[3], candidates[1])
        return torch.where(harder, candidates[2], candidates[0])

    objective.add_amendment(lambda compared, seen: ViewPairs({0: compared.views[0], 1: View(seen_of[1])}, [Pair(0, 1)]))
    with backbone.watch(dataclasses.replace(objective.request(POSITION), view=hardest)) as seen:
        model(x)
    # No head of MoCo v2+ normalises over the batch, so an image's loss is its own.
    torch.testing.assert_close(objective(seen), torch.maximum(*scored)[0].mean())


def test_pairs_are_those_of_the_papers():
    def table(name, phase, **options):
        return [(p.predicting, p.predicted) for p in OBJECTIVES[name](**options).pairs(Position(phase))]

    both, one = [(0, 1), (1, 0)], [(0, 1)]
    assert table("SimSiam", "ssl") == table("SimSiam", "mix") == table("SimCLR", "mix") == both
    assert table("BYOL", "ssl") == both
    assert table("BYOL", "mix") == table("BYOL", "ssl", symmetric=False) == one
    assert table("DINO", "ssl", local_crops=2) == [*both, (2, 0), (2, 1), (3, 0), (3, 1)]
    assert table("DINO", "mix", local_crops=2) == one
    assert table("DINO", "ssl", local_crops=1, symmetric=False) == [(0, 1), (2, 1)]


def test_amendments_act_in_their_order_and_once():
    _, _, objective = built("SimSiam")
    seen = seen_by(*built("SimSiam"), images(4))
    calls = []
    first = lambda compared, seen: calls.append(1) or compared  # noqa: E731
    second = lambda compared, seen: calls.append(2) or compared  # noqa: E731
    for amendment in (first, second, first):
        objective.add_amendment(amendment)
    objective.view_pairs(seen)
    assert calls == [1, 2]
    with pytest.raises(TypeError, match=r"an amendment must be a function .* got 3"):
        objective.add_amendment(3)
    with pytest.raises(ValueError, match="the weight of a Pair"):
        Pair(0, 1, weight=0.0)


def test_a_loss_must_be_said():
    class Silent(TwoView):
        def make_heads(self, width):
            self.projector = torch.nn.Linear(width, 8)

    model = tiny_vit()
    objective = Silent(views("simsiam")).build(backbone_of(model))
    with pytest.raises(NotImplementedError, match="Silent must say its loss in pair_loss, or in forward"):
        objective(seen_by(model, backbone_of(model), objective, images(4)))
