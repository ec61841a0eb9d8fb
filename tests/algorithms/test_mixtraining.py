"""The promises that make MixTraining what it is."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import SAM, ProgressiveResizing
from composer.core import Callback
from composer.models import ComposerClassifier
from composer.optim import DecoupledAdamW, DecoupledSGDW
from shared.settings import classifier, logged, ssl_loader, trainer, weights
from shared.tiny import images, labels, loader, tiny_vit
from shared.two_view import OBJECTIVES
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from mixplug import (
    MAE,
    FusedBackbonePass,
    JointLoss,
    MixTraining,
    MixupSSLData,
    OptimizerSettings,
    Phase,
    PhasePlan,
    PhaseScheduler,
    PhaseSwitch,
    Ramp,
    backbone_of,
    mixup_ssl,
)

masks = pytest.mark.parametrize("mask", ["features", "input"])


class Watcher(Callback):
    """Runs a function after each batch."""

    def __init__(self, observe):
        self.observe = observe

    def batch_end(self, state, logger):
        self.observe(state)


class NoMask(MAE):
    """The same hidden patches for each image and step: without randomness runs can be compared exactly."""

    def request(self, position):
        request = super().request(position)
        if request.select is not None:
            request.select = lambda batch, patches, device: torch.arange(patches // 4).expand(batch, -1)
        return request

    def _predict(self, seen):
        state = torch.get_rng_state()
        torch.manual_seed(0)
        predicted = super()._predict(seen)
        torch.set_rng_state(state)
        return predicted


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "Adam, coupled decay": partial(torch.optim.Adam, weight_decay=0.1),
    "SGD": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "NAdam": torch.optim.NAdam,
    "Rprop": torch.optim.Rprop,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.9, centered=True),
    "DecoupledSGDW": partial(DecoupledSGDW, momentum=0.9, weight_decay=1e-5),
    "DecoupledAdamW": partial(DecoupledAdamW, weight_decay=1e-5),
}


@masks
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rho_0_is_two_runs_one_after_the_other_bit_for_bit(mask, optimizer):
    """SSL then SL with a fresh optimizer, each with its own schedule."""
    objective = NoMask(mask=mask)
    options = {"optimizer": OPTIMIZERS[optimizer], "lr": 1e-3}
    schedule = PhaseScheduler(ssl_factor=0.5)
    joined = trainer(
        classifier(),
        [MixTraining(0, ssl_duration="3ep", sl_duration="2ep", objective=objective, reset_optimizer=True)],
        max_duration="5ep",
        schedulers=schedule,
        **options,
    )
    joined.fit()

    model = classifier()
    first = trainer(
        model,
        [FusedBackbonePass(objective), JointLoss(alpha=1.0)],
        max_duration="3ep",
        schedulers=schedule.alone(Phase.SSL),
        **options,
    )
    first.fit()
    second = trainer(model, max_duration="2ep", schedulers=schedule.alone(Phase.SL), **options)
    second.fit()
    expected = weights(model)
    assert set(expected) == set(weights(joined.state.model))
    for name, value in weights(joined.state.model).items():
        assert torch.equal(value, expected[name]), name


@masks
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_alpha(mask, alpha):
    """In MIX, alpha = 0 gives the SL gradients (with the tokens that MIX shows), alpha = 1 the SSL gradients."""
    seen = {}
    made = trainer(
        classifier().double(),
        [MixTraining(1, alpha, objective=NoMask(mask=mask))],
        max_duration="1ba",
        train_dataloader=loader(8, dtype=torch.float64),
        callbacks=[Watcher(lambda state: seen.update(gradients(state.model)))],
    )
    model = copy.deepcopy(made.state.model)
    made.fit()

    backbone, objective = backbone_of(model), model.ssl_objective
    with backbone.watch(objective.request(Phase.MIX)) as left:
        logits = model.module(images(8, dtype=torch.float64))
    loss = objective(left) if alpha else F.cross_entropy(logits, labels(8))
    loss.backward()
    expected = gradients(model)
    assert ("module.head.weight" in expected) is not bool(alpha)
    assert any(name.startswith("ssl_objective") for name in expected) is bool(alpha)
    assert set(seen) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=1e-12)


@masks
@pytest.mark.parametrize(
    "variant", [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "class_token": False, "global_pool": "map"}]
)
def test_the_fused_pass_is_the_weighted_sum_of_two_passes(mask, variant):
    alpha, passes, seen = 0.3, [], {}
    made = trainer(
        classifier(**variant).double(),
        [MixTraining(1, alpha, objective=NoMask(mask=mask))],
        max_duration="1ba",
        train_dataloader=loader(8, dtype=torch.float64),
        callbacks=[Watcher(lambda state: seen.update(gradients(state.model)))],
    )
    model = copy.deepcopy(made.state.model)
    made.state.model.module.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    made.fit()
    assert len(passes) == 1, "exactly one pass over the backbone in a step"

    backbone, objective = backbone_of(model), model.ssl_objective
    x, y = images(8, dtype=torch.float64), labels(8)
    (alpha * objective(backbone.encode(x, objective.request(Phase.MIX)))).backward()
    with backbone.watch(objective.request(Phase.MIX)):
        logits = model.module(x)
    ((1 - alpha) * F.cross_entropy(logits, y)).backward()  # a second pass, its gradients added
    expected = gradients(model)
    assert set(seen) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=1e-10)


def transformer_flops(tokens, dim, depth, mlp_ratio=4):
    """Forward FLOPs of ``depth`` blocks for one image: qkv, scores and values, projection, MLP."""
    return depth * (2 * tokens * dim * dim * (4 + 2 * mlp_ratio) + 2 * 2 * tokens * tokens * dim)


@pytest.mark.parametrize(
    "options", [{"mask": "features"}, {"mask": "input"}, {"mask": "input", "fused": False}], ids=str
)
@pytest.mark.parametrize(("phase", "total"), [(Phase.SSL, "9ba"), (Phase.MIX, "1ba"), (Phase.SL, None)])
def test_a_step_costs_what_the_design_says(options, phase, total):
    """SL 1, SSL and MIX 1 + d (features) or v + d (input), MIX in two passes 1 + v + d.

    Backward is twice the forward; within 2%.
    """
    dim, depth, patches, batch = 48, 6, 64, 4
    vit = tiny_vit(img_size=16, in_chans=3, embed_dim=dim, depth=depth, num_heads=3)
    data = DataLoader(TensorDataset(images(batch, 3, 16, 16), labels(batch)), batch_size=batch)
    algorithms = {
        Phase.SSL: [MixTraining(0, ssl_duration="8ba", sl_duration="1ba", objective=MAE(**options))],
        Phase.MIX: [MixTraining(1, objective=MAE(**options))],
        Phase.SL: [],
    }[phase]
    made = trainer(
        ComposerClassifier(vit),
        algorithms,
        max_duration=total or "1ba",
        train_dataloader=data,
    )
    for module in made.state.model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the counter does not know the fused kernel of CPUs
    counter = FlopCounterMode(display=False)
    if phase is Phase.SSL:

        class StopError(Exception):
            pass

        def stop(state):
            raise StopError

        made.state.callbacks.append(Watcher(stop))
        with counter, pytest.raises(StopError):
            made.fit()
    else:
        with counter:
            made.fit()

    full, visible = 1 + patches, 1 + patches // 4
    pixels = 2 * 2 * 3
    seen = [visible if options["mask"] == "input" and phase is not Phase.SL else full]
    if phase is Phase.MIX and "fused" in options:
        seen = [full, visible]
    encoder = sum(transformer_flops(tokens, dim, depth) for tokens in seen)
    decoder = transformer_flops(full, dim, 2) + 2 * visible * dim * dim + 2 * full * dim * pixels
    heads = 2 * dim * 10
    # Images need no gradient, so the patch embedding's backward pass is one product, not two.
    embedding = len(seen) * 2 * patches * pixels * dim
    used = encoder + (decoder if phase is not Phase.SL else 0)
    expected = batch * (3 * used + 2 * embedding + (3 if phase is not Phase.SSL else 1) * heads)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@masks
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_no_parameter_moves_in_a_phase_that_does_not_use_it(mask, optimizer):
    snapshots = []
    made = trainer(
        algorithms=[MixTraining(0.5, objective=MAE(mask=mask))],
        optimizer=optimizer,
        lr=1e-2,
        callbacks=[Watcher(lambda state: snapshots.append(weights(state.model)))],
    )
    previous = weights(made.state.model)
    made.fit()
    phases = [list(Phase)[int(p)] for p in logged(made, "mixtraining/phase")]
    assert set(phases) == set(Phase)
    for phase, now in zip(phases, snapshots, strict=True):
        moved = {name for name in now if not torch.equal(now[name], previous[name])}
        decoder = {name for name in now if name.startswith("ssl_objective")}
        head = {"module.head.weight", "module.head.bias"}
        assert bool(moved & decoder) is (phase is not Phase.SL)
        assert bool(moved & head) is (phase is not Phase.SSL)
        if phase is Phase.MIX:
            assert decoder | head <= moved
        assert any(name.startswith("module.blocks") for name in moved)
        previous = now


def test_zero_gradients_do_not_move_unused_parameters_either():
    """DDP and torch.compile give the unused head a gradient of zeros, which weight decay would act on."""
    model = classifier()
    model.module.patch_embed.proj.register_forward_hook(
        lambda module, args, output: output + 0.0 * sum(p.sum() for p in model.module.head.parameters())
    )
    made = trainer(model, [MixTraining(0, ssl_duration="2ep", sl_duration="1ep")], max_duration="3ep", lr=0.1)
    before = weights(model)["module.head.weight"]
    heads = []
    made.state.callbacks.append(Watcher(lambda state: heads.append(state.model.module.head.weight.detach().clone())))
    made.fit()
    assert all(torch.equal(before, head) for head in heads[:6])
    assert not torch.equal(before, heads[6])


def test_reset_reaches_the_optimizer_inside_of_sam():
    steps = []
    count = Watcher(lambda s: steps.append(int(max(v["step"] for v in s.optimizers[0].base_optimizer.state.values()))))
    trainer(algorithms=[MixTraining(0.5, reset_optimizer=True), SAM()], callbacks=[count]).fit()
    assert steps == [1, 2, 3, 4, 5, 6] * 3


def test_a_second_model_shares_nothing():
    algorithm = MixTraining()
    first, second = trainer(algorithms=[algorithm]), trainer(algorithms=[MixTraining(objective=MAE())])
    first.fit()
    assert second.state.model.ssl_objective is not first.state.model.ssl_objective
    plain = classifier()
    assert torch.equal(plain.module(images(2)), classifier().module(images(2)))
    mine = {id(p) for p in first.state.model.parameters()}
    assert not mine & {id(p) for p in second.state.model.parameters()}


def test_one_description_serves_two_models():
    objective = MAE(mask="input")
    made = [trainer(algorithms=[MixTraining(objective=objective)]) for _ in range(2)]
    assert made[0].state.model.ssl_objective is not made[1].state.model.ssl_objective
    assert list(objective.parameters()) == []


def test_a_second_trainer_goes_on_with_the_models_head():
    model = classifier()
    trainer(model, [MixTraining()]).fit()
    head = model.ssl_objective
    second = trainer(model, [MixTraining()])
    second.fit()
    assert second.state.model.ssl_objective is head
    held = [p for group in second.state.optimizers[0].param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="del model"):
        trainer(model, [MixTraining(objective=MAE(decoder_depth=1))])


@masks
@pytest.mark.parametrize("before", [True, False])
def test_progressive_resizing_trains_in_all_phases_with_the_tokens_it_implies(mask, before):
    resizing = ProgressiveResizing(
        mode="resize", initial_scale=0.5, delay_fraction=0.2, finetune_fraction=0.2, size_increment=4
    )
    mixing = MixTraining(objective=MAE(mask=mask))
    tokens, sizes = [], []
    model = classifier(img_size=16, dynamic_img_size=True)
    model.module.blocks[0].register_forward_pre_hook(lambda m, args: tokens.append(args[0].shape[1]))
    model.module.patch_embed.register_forward_pre_hook(lambda m, args: sizes.append(args[0].shape[-1]))
    data = DataLoader(TensorDataset(images(16, 1, 16, 16), labels(16)), batch_size=8)
    made = trainer(
        model,
        [resizing, mixing] if before else [mixing, resizing],
        max_duration="12ep",
        train_dataloader=data,
    )
    made.fit()
    phases = [list(Phase)[int(p)] for p in logged(made, "mixtraining/phase")]
    assert len(phases) == len(tokens) == 24
    assert sizes[0] == 8
    assert sizes[-1] == 16
    assert {8, 12, 16} == set(sizes)
    for phase, size, count in zip(phases, sizes, tokens, strict=True):
        patches = (size // 2) ** 2
        assert count == 1 + (patches // 4 if mask == "input" and phase is not Phase.SL else patches)
    assert set(phases) == set(Phase)


def test_the_parts_alone_are_mixtraining_bit_for_bit_in_any_order():
    def parts():
        return [
            JointLoss(Ramp(1.0, 0.0)),
            MixupSSLData(ssl_loader(), lam=0.7),
            FusedBackbonePass(MAE(mask="input")),
            OptimizerSettings(reset=True),
            PhaseSwitch(0.5),
        ]

    one = [MixTraining(0.5, Ramp(1.0, 0.0), None, None, MAE(mask="input"), mixup_ssl, 0.7, ssl_loader(), None, True)]
    results = []
    for algorithms in (one, parts(), parts()[::-1]):
        made = trainer(algorithms=algorithms)
        made.fit()
        results.append(weights(made.state.model))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in results[0])


def test_what_is_logged():
    made = trainer(algorithms=[MixTraining(0.5, Ramp(1.0, 0.0))])
    made.fit()
    batches = made.state.timestamp.batch.value
    plan = PhasePlan.from_total(6, 0.5)
    expected = [list(Phase).index(plan.phase_at(epoch)) for epoch in range(6) for _ in range(3)]
    assert logged(made, "mixtraining/phase") == expected
    w_ssl, w_sl = logged(made, "mixtraining/w_ssl"), logged(made, "mixtraining/w_sl")
    assert w_ssl == pytest.approx([1.0] * 6 + [1 - i / 6 for i in range(6)] + [0.0] * 6)
    terms = [logged(made, f"loss/train/{name}") for name in ("total", "ssl", "sl")]
    assert [len(values) for values in terms] == [batches] * 3
    for total, ssl, sl, a, b in zip(*terms, w_ssl, w_sl, strict=True):
        assert total == pytest.approx((a * ssl if a else 0) + (b * sl if b else 0), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"rho": 0.25}, "rho was 1/2 and is 1/4"),
        ({"alpha": 0.3}, "alpha was 0.5 and is 0.3"),
        ({"alpha": Ramp(1, 0)}, r"alpha was 0.5 and is Ramp\(start=1, stop=0, over=None\)"),
        ({"objective": MAE(decoder_depth=1)}, "objective.decoder_depth was 2 and is 1"),
        ({"objective": MAE(mask="input")}, "objective.mask was features and is input"),
        ({"objective": OBJECTIVES["BYOL"]()}, r"objective was MAE\(mask=features, .*\) and is BYOL\(views=Views\("),
        ({"reset_optimizer": True}, "OptimizerSettings: reset was False and is True"),
        ({"optimizer_overrides": {"sl": {"eps": 1}}}, "overrides was None and is {'sl': {'eps': 1}}"),
        ({"ssl_duration": "4ep", "sl_duration": "4ep"}, "ssl_duration was None and is 4ep"),
    ],
)
def test_a_checkpoint_of_other_settings_names_the_difference(tmp_path, changes, difference):
    path = saved_at_2_epochs(tmp_path)
    with pytest.raises(ValueError, match=f"{difference}.*load_weights_only=True"):
        trainer(algorithms=[MixTraining(**changes)], load_path=path)
    weights_alone = {"load_weights_only": True, "load_strict_model_weights": False}
    made = trainer(algorithms=[MixTraining(**changes)], load_path=path, **weights_alone)
    assert made.state.timestamp.batch == 0


def test_a_checkpoint_of_another_length_is_refused(tmp_path):
    path = saved_at_2_epochs(tmp_path)
    with pytest.raises(ValueError, match=r"planned for '6ep'.*Set max_duration='6ep'"):
        trainer(algorithms=[MixTraining()], load_path=path, max_duration="8ep")


def saved_at_2_epochs(folder):
    saving = {"save_folder": str(folder), "save_interval": "2ep", "save_filename": "{epoch}.pt"}
    trainer(algorithms=[MixTraining()], **saving).fit()
    return str(folder / "2.pt")


def test_mixtraining_twice_is_refused():
    for algorithms in ([MixTraining(), MixTraining()], [MixTraining(), PhaseSwitch()], [JointLoss(), JointLoss()]):
        with pytest.raises(ValueError, match=r"runs .* 2 times"):
            trainer(algorithms=algorithms)


def test_other_algorithms_keep_their_order():
    from composer.algorithms import CutOut, LabelSmoothing

    made = trainer(algorithms=[LabelSmoothing(), MixTraining(), CutOut()])
    assert [type(a).__name__ for a in made.state.algorithms] == ["LabelSmoothing", "CutOut", "MixTraining"]
