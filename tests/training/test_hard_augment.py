"""Hard views: what is chosen against brute force, what it costs, what it leaves alone."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, tiny_vit
from shared.two_view import MOMENTUM, OBJECTIVES, tiny_cnn, trainable

from mixplug import MAE, EncoderPass, PhasePlan, Position, Training, backbone_of
from mixplug.backbones.costs import counting_flops
from mixplug.objectives import View, ViewPairs
from mixplug.training.costs import CostCounter
from mixplug.training.hard_augment import ChooseHardest
from mixplug.training.patch_scaling import ScalePatches
from mixplug.training.super_progressive_learning import ScaleImages
from mixplug.training.token_dropout import DropTokens
from mixplug.views.augmentation import resize
from mixplug.views.hardest import hardest_pair, selection_overhead

SSL, MIX = Position("ssl"), Position("mix")
every = pytest.mark.parametrize("name", OBJECTIVES)


def built(name, encoder=tiny_vit, hard=None, dtype=torch.float64, **options):
    """A model, its passes with ``hard`` among them, and the objective."""
    model = (encoder(dynamic_img_size=True) if encoder is tiny_vit else encoder()).to(dtype)
    torch.manual_seed(1)
    objective = OBJECTIVES[name](**options).build(backbone_of(model))
    objective.begin()
    if name == "DINO":
        torch.nn.init.normal_(objective.center)
    passes = EncoderPass(backbone_of(model), objective)
    passes.add(hard or ChooseHardest(4, 4))
    return model, passes, objective


def kept_views(hard):
    """The views that ``hard`` makes from now on."""
    kept, make = [], hard._make_views
    hard._make_views = lambda objective, seen: kept.append(make(objective, seen)) or kept[-1]
    return kept


def brute_force(objective, backbone, views, phase):
    """Each image's hardest ordered pair, by the objective's own loss of each pair alone, and its loss, (B,) each."""
    small = [resize(view, 4) for view in views]
    one_sided = len(objective.pairs(Position(phase))) == 1
    numbers = range(len(views))
    pairs = itertools.permutations(numbers, 2) if one_sided else itertools.combinations(numbers, 2)
    best, found = None, None
    with torch.no_grad():
        for i, j in [(0, k) for k in numbers[1:]] if phase == "mix" else list(pairs):
            seen = backbone.encode(small[i])
            seen.request = dataclasses.replace(seen.request, position=Position(phase))
            shown = ViewPairs(
                {0: View(small[i], "shared"), 1: View(small[j], "query")}, objective.pairs(Position(phase))
            )
            loss = objective.pair_losses(seen, shown).mean(0)
            here = torch.tensor([[i, j]]).expand(len(loss), 2)
            best, found = (
                (loss, here)
                if best is None
                else (torch.maximum(best, loss), torch.where((loss > best)[:, None], here, found))
            )
    return found, best


@every
@pytest.mark.parametrize("phase", ["ssl", "mix"])
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"symmetric": False}, marks=pytest.mark.slow)], ids=["", "one-sided"]
)
def test_it_is_the_hardest_pair_of_all(name, phase, options):
    if options and name == "SimCLR":
        options = {"temperature": 0.1}  # it has no one-sided form
    hard = ChooseHardest(4, 4)
    model, passes, objective = built(name, hard=hard, **options)
    kept = kept_views(hard)
    with passes.watch(Position(phase)) as seen:
        model(images(6, dtype=torch.float64))
    shown = objective.view_pairs(seen).views
    (views,) = kept
    pair, _ = brute_force(copy.deepcopy(objective), backbone_of(model), views, phase)
    stacked, each = torch.stack(views), torch.arange(6)
    assert torch.equal(shown[0].images, stacked[pair[:, 0], each])
    assert torch.equal(shown[1].images, stacked[pair[:, 1], each])
    assert len(pair.unique(dim=0)) > 1


@every
def test_by_the_cosine_of_projections(name):
    hard = ChooseHardest(4, 4, by="cosine")
    model, passes, objective = built(name, hard=hard)
    kept = kept_views(hard)
    with passes.watch(SSL) as seen, torch.no_grad():
        model(images(6, dtype=torch.float64))
    shown = objective.view_pairs(seen).views
    (views,) = kept
    backbone = backbone_of(model)
    z = [F.normalize(objective.projector(backbone.encode(resize(view, 4)).features), dim=1) for view in views]
    pairs = list(itertools.combinations(range(4), 2))
    least = torch.stack([(z[i] * z[j]).sum(1) for i, j in pairs]).argmin(0)
    for place in (0, 1):
        expected = torch.stack([views[pairs[pair][place]][image] for image, pair in enumerate(least.tolist())])
        assert torch.equal(shown[place].images, expected)


def test_the_hardest_pair_of_each_image():
    views = [torch.full((3, 1, 1, 1), float(number)) for number in range(3)]
    one, other, chosen = hardest_pair(
        views, [(0, 1), (0, 2), (1, 2)], torch.tensor([[3.0, 0, 1], [1, 0, 2], [2, 0, 5]])
    )
    assert one.flatten().tolist() == [0, 0, 1]
    assert other.flatten().tolist() == [1, 1, 2]
    assert chosen.tolist() == [0, 0, 2]  # of equal ones the first


@every
def test_gradients_go_through_the_chosen_pair_alone(name):
    """The step's gradients are those of a step that is given the chosen views."""
    gradients = []
    model, passes, objective = built(name)
    x = images(6, dtype=torch.float64)
    with passes.watch(SSL) as seen:
        model(x)
    chosen = seen.images, seen.partner
    objective(seen).backward()
    gradients.append([p.grad for p in trainable(model, objective)])
    model, passes, objective = built(name)
    passes.amendments.clear()
    passes.add(
        lambda request: (
            dataclasses.replace(request, choose=lambda objective, seen: chosen) if request.role == "shared" else request
        )
    )
    with passes.watch(SSL) as seen:
        model(x)
    objective(seen).backward()
    gradients.append([p.grad for p in trainable(model, objective)])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("by", ["loss", "cosine"])
@pytest.mark.parametrize("phase", ["ssl", "mix"])
@pytest.mark.parametrize("name", ["SimSiam", "MoCoV2Plus"])
def test_encoder_passes_are_counted(name, phase, by):
    momentum = name in MOMENTUM and by == "loss"
    model = tiny_vit(dynamic_img_size=True)
    plain = CostCounter(model, OBJECTIVES[name](), (1, 8, 8)).at(Position(phase)).roles
    counter = CostCounter(model, OBJECTIVES[name](), (1, 8, 8), amendments=[ChooseHardest(4, 4, by)])
    # With a momentum encoder one view predicts in MIX, and the three others are predicted.
    scoring = (8 if phase == "ssl" else 4) if momentum else 4
    assert counter.at(Position(phase)).roles == {**plain, "score": scoring}


def test_notes_statistics_queues_and_centres_stay_as_they_were():
    for name in OBJECTIVES:
        model, passes, objective = built(name, tiny_cnn)
        passes.backbone.start(objective.request(SSL), passes.amend)
        seen = passes.backbone._passes[-1]
        seen.source = images(6, dtype=torch.float64)
        passes.backbone._passes.clear()
        before = copy.deepcopy({**model.state_dict(), **objective.state_dict()})
        one, _ = passes.amendments[0].choose(objective, seen)
        assert one.shape == seen.source.shape
        after = {**model.state_dict(), **objective.state_dict()}
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert not objective.monitors()
        assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_scoring_sees_small_images_and_fewer_tokens():
    hard = ChooseHardest(3, 4, dropout=0.5)
    model, passes, objective = built("MoCoV3", hard=hard, dtype=torch.float32)
    passes.add(DropTokens(0.25))
    lengths = []
    for vit in (model, objective.momentum_encoder.model):
        vit.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1] - 1))
    with passes.watch(SSL) as seen:
        model(images(4))
    objective(seen)
    # 3 views of 2x2 patches for either encoder, half of them; then the step: queries of 12 tokens, keys of 16.
    assert lengths == [2] * 6 + [12, 12, 16, 16]


@pytest.mark.parametrize(
    ("select", "sizes", "amendments"),
    [(None, (4, 4), ()), (6, (6, 8), ()), (100, (16, 20), ()), (12, (8, 10), [ScaleImages(0.5, 0, 3)])],
)
def test_the_small_size(select, sizes, amendments):
    """On oblong images in patches of 2: 64 of 224, rounded to whole patches; and at most what the step sees."""
    hard = ChooseHardest(2, select)
    model, passes, _ = built("SimSiam", hard=hard, dtype=torch.float32)
    for amendment in amendments:
        passes.add(amendment)
    with passes.watch(SSL) as seen:
        model(images(2, 1, 16, 20))
    height, width = hard.small_size(seen)
    assert (height, width) == ((4, 6) if select is None else sizes)


PLAN = PhasePlan(4, 4, 0.5)


SMALLER = (ScaleImages(0.5, 0, 3, phases=("ssl", "mix")),)


@pytest.mark.parametrize(
    ("name", "time", "amendments"),
    [
        ("SimSiam", 0.5, ()),
        ("MoCoV3", 0.5, SMALLER),
        ("SimSiam", 3.0, SMALLER),
        *(pytest.param("MoCoV3", time, (ScalePatches(4),), marks=pytest.mark.slow) for time in (0.5, 3.0)),
    ],
)
def test_the_counted_cost_is_that_of_a_real_step(name, time, amendments):
    torch.manual_seed(0)
    # Wide enough that the views, whose crops are products too, do not matter beside it.
    model, objective = tiny_vit(in_chans=3, embed_dim=128, dynamic_img_size=True), OBJECTIVES[name]()
    plugins = [ChooseHardest(4, 4), *amendments]
    cost = CostCounter(model, objective, (3, 8, 8), 4, amendments=plugins).at(PLAN.position(time))
    training = Training(model, PLAN, objective, plugins=plugins)
    optimizer = torch.optim.SGD(training.parameters(), lr=0.0)
    for _ in range(2):  # the first step with patches of another size makes their pseudo-inverse
        with counting_flops() as counter, training.step(time, optimizer) as step:
            step.loss(F.cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.zeros(4, dtype=torch.long))).backward()
            optimizer.step()
    assert cost.flops == pytest.approx(counter.get_total_flops() / 4, rel=0.02)


def test_the_overhead_is_eq_11s():
    assert selection_overhead(4, 64, 224) == pytest.approx(0.054, abs=5e-4)  # Table 8
    assert selection_overhead(6, 64, 224) == pytest.approx(0.082, abs=5e-4)
    assert selection_overhead(6, 64, 96) == pytest.approx(0.444, abs=5e-4)
    # A network whose cost is its pixels': 6 views at half the size on top of two passes with gradient, which cost a
    # little less than three times as much as one without, since the first layer's input has none.
    network = tiny_cnn(channels=(32, 32, 32, 32))
    cost = [
        CostCounter(network, OBJECTIVES["SimSiam"](), (1, 64, 64), amendments=hard).at(SSL).flops
        for hard in ([], [ChooseHardest(6, 32)])
    ]
    assert cost[1] / cost[0] - 1 == pytest.approx(selection_overhead(6, 32, 64), rel=0.1)


def test_other_objectives_choose_nothing():
    model = tiny_vit()
    passes = EncoderPass(backbone_of(model), MAE().build(backbone_of(model)))
    passes.add(ChooseHardest())
    with passes.watch(SSL) as seen:
        model(images(2))
    assert torch.equal(seen.images, images(2))


def test_bad_input_is_refused():
    for arguments, message in (
        ({"views": 1}, "views.*2.*1"),
        ({"select_size": 1}, "select_size"),
        ({"by": "euclid"}, "by.*'loss'"),
        ({"dropout": 1}, "dropout"),
        ({"phases": ("sl",)}, "phase of HardAugment"),
    ):
        with pytest.raises(ValueError, match=message):
            ChooseHardest(**arguments)
    with pytest.raises(TypeError, match="phases"):
        ChooseHardest(phases="ssl")
    model, passes, _ = built("SimSiam", dtype=torch.float32)
    with pytest.raises(ValueError, match="batch of 1 image"), passes.watch(SSL):
        model(images(1))
