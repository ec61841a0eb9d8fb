"""SDMP against its paper: Algorithm 1 and Eqs. 3 to 9 written out, which passes it adds, and its ablations."""

from __future__ import annotations

import copy
import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from shared.tiny import images, labels, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn, trainable

from mixplug import MAE, EncoderPass, PassRequest, PhasePlan, Position, Role, Training, backbone_of
from mixplug.training.costs import CostCounter
from mixplug.training.sdmp import MixedView, MixViews, shared_part, soft_targets
from mixplug.views.batch_mixing import CutMix, Mixup, ResizeMix, partners_of

EVEN, ODD = Position("ssl", 0.5, 0.3, 0.2, step=0), Position("ssl", 0.5, 0.3, 0.2, step=1)
MIX = Position("mix", 0.5, 0.6, 0.6, step=4)
every = pytest.mark.parametrize("name", OBJECTIVES)


class Kept:
    """Keeps what an objective compares."""

    def __call__(self, compared, seen):
        self.compared, self.seen = compared, seen
        return compared


class AllOwn(Mixup):
    """Mixes nothing."""

    def _draw(self, count, generator):
        return torch.ones(count, dtype=torch.float64)


def built(name, encoder=tiny_vit, dtype=torch.float64, **options):
    model = encoder(dynamic_img_size=True).to(dtype)
    torch.manual_seed(0)
    objective = OBJECTIVES[name](**options).build(backbone_of(model))
    objective.before_step()
    return model, objective


def step_of(model, objective, mix, position, batch=6, x=None):
    """The loss of a step, what was compared, and the gradients."""
    passes = EncoderPass(backbone_of(model), objective)
    passes.add(mix)
    kept = Kept()
    passes.add(lambda request: _also(request, kept))
    torch.manual_seed(1)
    with passes.watch(position) as seen:
        model(images(batch, dtype=next(model.parameters()).dtype) if x is None else x)
    loss = objective(seen)
    return loss, kept


def _also(request, kept):
    if request.role is not Role.SHARED:
        return request
    return PassRequest(**{**vars(request), "compare": (*request.compare, kept)})


def sources(compared, position):
    """The views by what they are: clean and mixed, of view 0 and of view 1."""
    if position.step % 2:  # the model's own pass saw view 0 mixed
        return {"clean 0": 2, "clean 1": 1, "mixed 0": 0, "mixed 1": 3}
    return {"clean 0": 0, "clean 1": 1, "mixed 1": 2, "mixed 0": 3}


def algorithm_1(a, b, mixed_b, lam, t):
    """The paper's listing, of normalised embeddings of a mixed view, of the other one and of that one mixed."""
    one_hot = F.one_hot(torch.arange(len(a))).double()
    lam = lam[:, None]
    logits1 = a @ b.T / t
    label1 = lam * one_hot + (1 - lam) * one_hot.flip(0)
    loss1 = F.cross_entropy(logits1, label1)
    clam = torch.minimum(lam, 1 - lam.flip(0)) + torch.minimum(1 - lam, lam.flip(0))
    logits2 = a @ mixed_b.T / t
    label2 = 1 / (1 + clam) * one_hot + clam / (1 + clam) * one_hot.flip(0)
    return loss1, F.cross_entropy(logits2, label2)


def unit(x):
    return F.normalize(x, dim=1)


@pytest.mark.parametrize("position", [EVEN, ODD], ids=["view 1 mixed", "view 0 mixed"])
@pytest.mark.parametrize("mixers", [["mixup"], ["cutmix"], ["resizemix"]])
@pytest.mark.parametrize("batch", [6, 7])
def test_algorithm_1_with_moco_v3(position, mixers, batch):
    """A clean one-sided term, half of the source and half of the mixed term, times 2t each; and its gradients."""
    model, objective = built("MoCoV3")
    by_hand = copy.deepcopy((model, objective))
    loss, kept = step_of(model, objective, MixViews(mixers), position, batch)
    loss.backward()

    model_2, objective_2 = by_hand
    encoder, t = backbone_of(model_2), objective.temperature
    shown = kept.compared.views
    role = sources(kept.compared, position)
    query, other = ("mixed 1", "0") if position is EVEN else ("mixed 0", "1")
    clean = "clean 0" if position is EVEN else "clean 1"
    assert clean == f"clean {other}"

    def ask(what):
        return unit(objective_2.predictor(objective_2.projector(encoder.features_of(shown[role[what]].images))))

    def keys(what):
        with torch.no_grad():
            return unit(objective_2.momentum_projector(objective_2.momentum_encoder(shown[role[what]].images)))

    lam = _lam_of(kept, mixers)
    # View 0 first: BatchNorm's running statistics are not compared, its batch statistics are each pass's own.
    kept_query, predicted = ask(clean), keys(f"clean {1 - int(other)}")
    one_hot = F.one_hot(torch.arange(batch)).double()
    naive = F.cross_entropy(kept_query @ predicted.T / t, one_hot)
    loss1, loss2 = algorithm_1(ask(query), keys(clean), keys(f"mixed {other}"), lam, t)
    expected = 2 * t * (naive + 0.5 * loss1 + 0.5 * loss2)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    for mine, other in zip(trainable(model, objective), trainable(model_2, objective_2), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10)


def _lam_of(kept, mixers):
    """Shares as the pixels have them: of pasted boxes from soft targets, which the listing then has to agree with."""
    source = next(p for p in kept.compared.pairs if p.soft_targets is not None).soft_targets
    lam = source.diagonal().clone()
    middle = len(lam) // 2
    if len(lam) % 2:
        lam[middle] = 0.5  # its own partner: any share gives the same
    return lam


@pytest.mark.parametrize("position", [EVEN, ODD])
@pytest.mark.parametrize("name", ["MoCoV2Plus", "SimCLR"])
def test_equations_3_and_4_with_a_queue_and_with_simclr(position, name):
    model, objective = built(name)
    before = copy.deepcopy((model, objective))
    loss, kept = step_of(model, objective, MixViews(["cutmix"], term_weights=(1, 1)), position)
    model_2, objective_2 = before
    shown, role, t = kept.compared.views, sources(kept.compared, position), objective.temperature
    encoder, lam = backbone_of(model_2), _lam_of(kept, ["cutmix"])
    query, other = ("mixed 1", "0") if position is EVEN else ("mixed 0", "1")
    naive = ("clean 0", "clean 1") if position is EVEN else ("clean 1", "clean 0")

    def fast(what):
        return unit(objective_2.projector(encoder.features_of(shown[role[what]].images)))

    def slow(what):
        return unit(objective_2.momentum_projector(objective_2.momentum_encoder(shown[role[what]].images)))

    key = fast if name == "SimCLR" else slow

    def contrast(asking, positives, weights):
        """-sum_j w_ij log(exp(q_i k_j / t) / (exp(q_i k_j / t) + negatives)), which are the method's own."""
        total = 0.0
        for i in range(len(asking)):
            scores = (asking[i] @ positives.T / t).exp()
            if name == "MoCoV2Plus":
                negatives = (asking[i] @ unit(objective_2.queue).T / t).exp().sum()
                each = -(scores / (scores + negatives)).log()
            else:
                own = (asking[i] @ asking.T / t).exp()
                each = -(scores / (scores.sum() + own.sum() - own[i])).log()
            total = total + (weights[i] * each).sum()
        return total / len(asking)

    one_hot, flipped = torch.eye(6).double(), torch.eye(6).double().flip(0)
    clam = torch.minimum(lam, 1 - lam.flip(0)) + torch.minimum(1 - lam, lam.flip(0))
    asked = fast(query)
    terms = [
        contrast(fast(naive[0]), key(naive[1]), one_hot),
        contrast(asked, key(f"clean {other}"), lam[:, None] * one_hot + (1 - lam[:, None]) * flipped),
        contrast(asked, key(f"mixed {other}"), (one_hot + clam[:, None] * flipped) / (1 + clam[:, None])),
    ]
    torch.testing.assert_close(3 * loss, sum(terms), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixers", [["mixup"], ["cutmix"], ["resizemix"]])
def test_equations_7_to_9_with_dino(mixers):
    """Half of six local crops are mixed and learn from two teachers; clean crops and global views as ever."""
    # timm interpolates position embeddings in float32.
    model, objective = built("DINO", lambda **o: tiny_vit(pos_embed="none", **o), local_crops=6)
    before = copy.deepcopy((model, objective))
    loss, kept = step_of(model, objective, MixViews(mixers, term_weights=(1, 1)), EVEN)
    loss.backward()
    model_2, objective_2 = before
    encoder, shown = backbone_of(model_2), kept.compared.views
    roles = {n: view.role for n, view in shown.items()}
    mixed_crops = [n for n in kept.compared.predicting if n >= 8 and roles[n] is Role.LOCAL]
    clean_crops = [n for n in kept.compared.predicting if 2 <= n < 8]
    assert len(mixed_crops) == len(clean_crops) == 3
    teacher_t = objective.teacher_temperature_at(EVEN)

    def assigned(view):
        with torch.no_grad():
            out = objective_2.momentum_projector(objective_2.momentum_encoder(view.images))
        return ((out - objective_2.center) / teacher_t).softmax(1)

    def log_student(view):
        return (objective_2.projector(encoder.features_of(view.images)) / objective_2.student_temperature).log_softmax(
            1
        )

    def cross_entropy(p, log_q):
        return -(p * log_q).sum(1)

    mixed_globals = {
        pair.predicted for pair in kept.compared.pairs if pair.predicting in mixed_crops and pair.predicted > 1
    }
    assert len(mixed_globals) == 2
    lam = _lam_of(kept, mixers)
    clam = torch.minimum(lam, 1 - lam.flip(0)) + torch.minimum(1 - lam, lam.flip(0))
    students = {n: log_student(shown[n]) for n in (0, 1, *clean_crops, *mixed_crops)}
    teachers = {n: assigned(shown[n]) for n in (0, 1, *mixed_globals)}
    dino = [cross_entropy(teachers[1], students[0]), cross_entropy(teachers[0], students[1])]
    dino += [cross_entropy(teachers[g], students[n]) for n in clean_crops for g in (0, 1)]
    source, mixed = [], []
    for n in mixed_crops:
        for p in (teachers[0], teachers[1]):
            share = lam[:, None]
            source.append(cross_entropy(share * p + (1 - share) * p.flip(0), students[n]))
        for g in sorted(mixed_globals):
            p = teachers[g]
            mixed.append(
                1 / (1 + clam) * cross_entropy(p, students[n])
                + clam / (1 + clam) * cross_entropy(p.flip(0), students[n])
            )
    terms = [*dino, *source, *mixed]
    expected = sum(term.mean() for term in terms) / len(terms)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    for mine, other in zip(trainable(model, objective), trainable(model_2, objective_2), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["SimSiam", "BYOL"])
def test_without_negatives_a_mixed_view_predicts_the_mixture(name):
    model, objective = built(name)
    loss, kept = step_of(model, objective, MixViews(["mixup"], term_weights=(1, 0)), EVEN)
    clean, source = objective_terms(name, model, objective, kept)
    torch.testing.assert_close(loss, (clean + source) / 2 * objective.scale, rtol=0, atol=1e-10)


def objective_terms(name, model, objective, kept):
    """The clean term of view 0 and the source term of mixed view 1, by hand."""
    encoder, shown, lam = backbone_of(model), kept.compared.views, _lam_of(kept, ["mixup"])[:, None]

    def predict(n):
        return unit(objective.predictor(objective.projector(encoder.features_of(shown[n].images))))

    def target(n):
        with torch.no_grad():
            if name == "BYOL":
                return unit(objective.momentum_projector(objective.momentum_encoder(shown[n].images)))
            return unit(objective.projector(encoder.features_of(shown[n].images)))

    offset, factor = (2, 2) if name == "BYOL" else (0, 1)
    clean = offset - factor * (predict(0) * target(1)).sum(1).mean()
    own, others = ((predict(2) * z).sum(1) for z in (target(0), target(0).flip(0)))
    return clean, offset - factor * (lam[:, 0] * own + (1 - lam[:, 0]) * others).mean()


PASSES = {
    # objective, settings, position: passes by role.
    "MoCoV3, SSL": ("MoCoV3", {}, EVEN, {"shared": 1, "query": 1, "key": 3}),
    "MoCoV3, SSL, view 0 mixed": ("MoCoV3", {}, ODD, {"shared": 1, "query": 1, "key": 3}),
    "MoCoV3, SSL, extra": ("MoCoV3", {"version": "extra"}, EVEN, {"shared": 1, "query": 2, "key": 3}),
    "MoCoV3, MIX": ("MoCoV3", {}, MIX, {"shared": 1, "key": 1}),
    "MoCoV3, MIX, labels": ("MoCoV3", {"labels": True}, MIX, {"shared": 1, "key": 2}),
    "MoCoV3, MIX, extra": ("MoCoV3", {"version": "extra"}, MIX, {"shared": 1, "query": 1, "key": 2}),
    "MoCoV3, one-sided": ("MoCoV3 one-sided", {}, EVEN, {"shared": 1, "key": 2}),
    "MoCoV3, source alone": ("MoCoV3", {"term_weights": (1, 0)}, EVEN, {"shared": 1, "query": 1, "key": 2}),
    "SimCLR, SSL": ("SimCLR", {}, EVEN, {"shared": 1, "query": 1, "key": 2}),
    "SimCLR, MIX": ("SimCLR", {}, MIX, {"shared": 1, "query": 1, "key": 2}),
    "SimSiam, MIX, labels": ("SimSiam", {"labels": True}, MIX, {"shared": 1, "query": 1, "key": 2}),
    "DINO, SSL": ("DINO with crops", {}, ODD, {"shared": 1, "query": 1, "local": 1, "key": 4}),
    "DINO, SSL, extra": ("DINO with crops", {"version": "extra"}, ODD, {"shared": 1, "query": 1, "local": 1, "key": 4}),
    "DINO, no crops": ("DINO", {}, EVEN, {"shared": 1, "query": 1, "key": 3}),
}


def of_name(name):
    options = {"MoCoV3 one-sided": {"symmetric": False}, "DINO with crops": {"local_crops": 6}}.get(name, {})
    return built(name.split()[0], dtype=torch.float32, **options)


@pytest.mark.parametrize("case", PASSES)
def test_which_passes_there_are(case):
    name, settings, position, expected = PASSES[case]
    model, objective = of_name(name)
    with_gradient = []
    model.blocks[0].register_forward_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    without = []
    if hasattr(objective, "momentum_encoder"):
        objective.momentum_encoder.model.blocks[0].register_forward_hook(lambda *_: without.append(1))
    step_of(model, objective, MixViews(**settings), position)
    without += [one for one in with_gradient if not one]
    assert sum(with_gradient) == sum(count for role, count in expected.items() if role != "key")
    assert len(without) == expected["key"]
    counter = CostCounter(*of_name(name), (1, 8, 8), amendments=[MixViews(**settings)])
    assert counter.at(position).roles == expected


@every
@pytest.mark.parametrize("position", [EVEN, ODD, MIX], ids=["even", "odd", "mix"])
def test_replacing_adds_no_pass_with_gradient_on_any_objective(name, position):
    counts = []
    for plugins in ([], [MixViews(["mixup"], labels=True)]):
        model, objective = built(name)
        calls = []
        model.blocks[0].register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        step_of(model, objective, *(plugins or [lambda request: request]), position)
        counts.append(sum(calls))
    assert counts[0] == counts[1]


@every
@pytest.mark.parametrize("position", [EVEN, ODD, MIX], ids=["even", "odd", "mix"])
@pytest.mark.parametrize("version", ["replace", "extra"])
def test_shares_of_1_are_the_plain_objective_bit_for_bit(name, position, version):
    results = []
    for mix in (lambda request: request, MixViews([AllOwn()], version=version, labels=True)):
        model, objective = built(name, dtype=torch.float32)
        loss, _ = step_of(model, objective, mix, position)
        loss.backward()
        objective._encoder = [model]
        objective.after_step(position)
        results.append([loss, *(p.grad for p in trainable(model, objective)), *objective.state_dict().values()])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*results, strict=True))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_soft_targets(lam):
    lam = torch.tensor(lam, dtype=torch.float64)
    partners = partners_of(len(lam))
    shared = shared_part(lam, partners)
    eye = torch.eye(len(lam), dtype=torch.float64)
    torch.testing.assert_close(soft_targets(lam, partners), lam[:, None] * eye + (1 - lam[:, None]) * eye.flip(0))
    assert ((shared >= -1e-12) & (shared <= 1 + 1e-12)).all()
    torch.testing.assert_close(shared, shared[partners], msg="two mixed images have as much in common either way")
    torch.testing.assert_close(soft_targets(1 / (1 + shared), partners).sum(1), torch.ones_like(lam))


def test_equal_halves_have_all_in_common_and_wholes_nothing():
    partners = partners_of(4)
    assert shared_part(torch.full((4,), 0.5), partners).tolist() == [1.0] * 4
    assert shared_part(torch.ones(4), partners).tolist() == [0.0] * 4


def targets_of(**settings):
    model, objective = built("MoCoV3")
    _, kept = step_of(model, objective, MixViews(["mixup"], **settings), EVEN)
    return [pair for pair in kept.compared.pairs if pair.soft_targets is not None]


def test_table_6_static_weights():
    eye = torch.eye(6, dtype=torch.float64)
    drawn, static = targets_of(), targets_of(static=("source", "mixed"))
    torch.testing.assert_close(static[0].soft_targets, (eye + eye.flip(0)) / 2)
    torch.testing.assert_close(static[1].soft_targets, eye)
    source, mixed = targets_of(static=("source",)), targets_of(static=["mixed"])
    assert torch.equal(source[0].soft_targets, static[0].soft_targets)
    assert torch.equal(source[1].soft_targets, drawn[1].soft_targets)
    assert torch.equal(mixed[0].soft_targets, drawn[0].soft_targets)
    assert torch.equal(mixed[1].soft_targets, static[1].soft_targets)


def test_table_7_a_share_for_each_image_or_for_the_batch():
    for lam, different in (("sample", 6), ("batch", 1)):
        assert len(set(targets_of(lam=lam)[0].soft_targets.diagonal().tolist())) == different


@pytest.mark.parametrize(("crops", "share", "mixed"), [(2, 0.5, 1), (6, 0.5, 3), (8, 0.5, 4), (1, 0.5, 1), (4, 1, 4)])
def test_table_10_so_many_local_crops_are_mixed(crops, share, mixed):
    model, objective = built("DINO", local_crops=crops)
    _, kept = step_of(model, objective, MixViews(["mixup"], local_share=share), EVEN)
    local = [n for n in kept.compared.predicting if kept.compared.views[n].role is Role.LOCAL]
    assert len(local) == crops
    soft = {pair.predicting for pair in kept.compared.pairs if pair.soft_targets is not None}
    assert len(soft) == mixed
    assert soft <= set(local)
    assert sum(pair.weight for pair in kept.compared.pairs) == 2 + 2 * crops, "each crop weighs what it did"


def test_the_two_mixed_views_share_partners_and_shares_but_not_boxes():
    model, objective = built("MoCoV3")
    torch.manual_seed(0)
    ones = torch.cat([torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)]).double()
    with mock.patch.object(objective.views, "forward", lambda images, *_, **__: images):
        _, kept = step_of(model, objective, MixViews([CutMix()]), EVEN, x=ones)
    first, second = (kept.compared.views[n].images for n in (2, 3))
    torch.testing.assert_close(first.mean((1, 2, 3)), second.mean((1, 2, 3)))
    assert not torch.equal(first, second)


def test_the_classifiers_image_is_mixed_in_mix_with_labels_alone():
    x = images(6, dtype=torch.float64)
    y = labels(6)
    for settings in ({}, {"version": "extra"}, {"labels": True}, {"labels": True, "version": "extra"}):
        for name in ("MoCoV3", "SimSiam"):
            model, objective = built(name)
            mix = MixViews(["mixup"], **settings)
            _, kept = step_of(model, objective, mix, MIX, x=x)
            if not mix.labels:
                assert not mix.mixes_labels
                assert mix.mix_labels(y, 10) is y
                if settings or name == "SimSiam":
                    assert kept.seen.images is x
                continue
            shared = kept.compared.views[0].images
            share = kept.seen.request.view.mixed.lam.view(-1, 1, 1, 1)
            torch.testing.assert_close(shared, share * x + (1 - share) * x.flip(0))
            hot, lam = F.one_hot(y, 10).float(), share.view(-1, 1).float()
            torch.testing.assert_close(mix.mix_labels(y, 10), lam * hot + (1 - lam) * hot.flip(0))
            assert (mix.mix_labels(y, 10).sum(1) == 1).all()
            soft = torch.rand(6, 10).double().softmax(1)
            torch.testing.assert_close(
                mix.mix_labels(soft, 10), share[:, :, 0, 0] * soft + (1 - share[:, :, 0, 0]) * soft.flip(0)
            )
            with pytest.raises(ValueError, match="of 6 mixed images 4 have one; use labels=False"):
                mix.mix_labels(y[:4], 10)
            for wrong in (y[:, None], [1, 2], soft[:, 0]):
                with pytest.raises(TypeError, match=re.escape("classes (B,), or shares of them (B, K); got")):
                    mix.mix_labels(wrong, 10)


def test_other_passes_and_phases_are_left_alone():
    _, moco = built("MoCoV3")
    model = tiny_vit()
    mae = MAE().build(backbone_of(model))
    mix = MixViews(labels=True, version="extra")
    for request in (mae.request(EVEN), mae.request(MIX), PassRequest(Position("sl")), PassRequest(EVEN, Role.KEY)):
        assert mix(request) is request
    assert not MixViews().mixes(moco.request(MIX))
    assert MixViews(labels=True).mixes(moco.request(MIX))
    assert isinstance(mix(moco.request(MIX)).view, MixedView)


@pytest.mark.parametrize("time", [0.0, 1.0], ids=["ssl", "mix"])
@pytest.mark.parametrize("steps", [0, 1], ids=["view 1 mixed", "view 0 mixed"])
@pytest.mark.parametrize("name", ["MoCoV2Plus", "SimCLR"])
def test_exact_microbatches_have_the_whole_batchs_partners(name, steps, time):
    gradients, hot = [], F.one_hot(labels(6), 10).double()
    for size in (6, 2):
        model, mix = tiny_vit().double(), MixViews(labels=True)
        torch.manual_seed(0)
        training = Training(model, PhasePlan(2, 2, 0.5), OBJECTIVES[name](), plugins=[mix])
        training.steps = steps
        optimizer = torch.optim.SGD(training.parameters(), lr=0.01)
        torch.manual_seed(1)
        with training.step(time, optimizer) as step:
            step.backward(
                images(6, dtype=torch.float64),
                size,
                lambda logits, part, mix=mix: (logits.log_softmax(1) * mix.mix_labels(hot, 10)[part]).sum(1).mean(),
            )
            gradients.append([None if p.grad is None else p.grad.clone() for p in training.parameters()])
            optimizer.step()
    for one, other in zip(*gradients, strict=True):
        assert one is other is None or torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("encoder", [tiny_vit, tiny_cnn])
@every
def test_a_plain_loop_trains_with_it(name, encoder):
    model = encoder()
    mix = MixViews(labels=True)
    training = Training(model, PhasePlan(2, 2, 0.5), OBJECTIVES[name](), plugins=[mix])
    optimizer = torch.optim.SGD(training.parameters(), lr=0.01)
    x, y, mixed = images(5), labels(5), []
    for time in (0, 1, 2):
        with training.step(time, optimizer) as step:
            logits = model(x)
            mixed.append(mix.mixes_labels)
            loss = step.loss(F.cross_entropy(logits, mix.mix_labels(y, 10)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.isfinite()
    assert mixed == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"mixers": "mixup"}, TypeError, "mixers must be several"),
        ({"mixers": ["mixupp"]}, ValueError, "a mixer must be one of .* did you mean 'mixup'"),
        ({"mixers": []}, ValueError, "at least one"),
        ({"mixers": ["patchmix"]}, ValueError, "'patchmix' needs to know patch="),
        ({"mixers": [ResizeMix]}, ValueError, "a mixer must be one of"),
        ({"patch": 0}, ValueError, "patch must be"),
        ({"alpha": 0}, ValueError, "alpha must be"),
        ({"lam": "image"}, ValueError, "lam must be one of"),
        ({"patch": 2}, ValueError, "patch=2 is for 'patchmix'"),
        ({"mixer_weights": [1]}, ValueError, "3 numbers, one for each"),
        ({"mixer_weights": 3}, TypeError, "mixer_weights must be a number for each mixer"),
        ({"version": "more"}, ValueError, "version must be one of"),
        ({"term_weights": (1,)}, ValueError, "term_weights must be two numbers"),
        ({"term_weights": (0, 0)}, ValueError, "must not both be 0"),
        ({"term_weights": (-1, 0)}, ValueError, "a term's weight"),
        ({"static": "source"}, TypeError, "static must be several"),
        ({"static": ["lam"]}, ValueError, "a static term must be one of"),
        ({"local_share": 0}, ValueError, "local_share must be"),
        ({"labels": 1}, TypeError, "labels must be true or false"),
    ],
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        MixViews(**arguments)
