"""The hand-written steps do what mixplug does, in arithmetic and in what it costs."""

from __future__ import annotations

import ast
import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from shared.tiny import images, labels, tiny_vit
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixplug import MAE, backbone_of, joint_loss, phase_weights
from mixplug.lab.bench.plain import PlainMAE, plain_step, plain_steps

MASKS = {
    "features": {"mask": "features"},
    "input": {"mask": "input"},
    "two passes": {"mask": "input", "fused": False},
}
masks = pytest.mark.parametrize("mask", MASKS)
phases = pytest.mark.parametrize("phase", ["ssl", "mix"])
variants = pytest.mark.parametrize(
    "variant",
    [
        {},
        {"global_pool": "avg"},
        {"img_size": (8, 12), "reg_tokens": 1, "class_token": False, "global_pool": "avg", "in_chans": 3},
        {"dynamic_img_size": True, "pre_norm": True},
    ],
    ids=str,
)
BATCH, ALPHA = 6, 0.7


def pair(mask, **variant):
    """Mixplug's model and objective, and a plain model and decoder with the same weights."""
    model = tiny_vit(**variant).double()
    objective = MAE(**MASKS[mask]).build(backbone_of(model))
    plain = tiny_vit(**variant).double()
    decoder = PlainMAE(plain).double()
    decoder.load_state_dict(objective.state_dict(), strict=True)
    x = images(BATCH, *(model.patch_embed.proj.in_channels, *model.patch_embed.img_size), dtype=torch.float64)
    return model, objective, plain, decoder, x


def loss_with_mixplug(model, objective, x, y, phase):
    """A step as the README's hand-written loop has it."""
    weights = phase_weights(phase, ALPHA)
    with backbone_of(model).watch(objective.request(phase)) as seen:
        logits = model(x)
    return joint_loss(objective(seen), F.cross_entropy(logits, y), weights)


def gradients(*modules):
    return [{name: p.grad for name, p in module.named_parameters() if p.grad is not None} for module in modules]


@masks
@phases
@variants
def test_losses_and_gradients_are_mixplugs(mask, phase, variant):
    model, objective, plain, decoder, x = pair(mask, **variant)
    y = labels(BATCH)
    torch.manual_seed(0)
    expected = loss_with_mixplug(model, objective, x, y, phase)
    torch.manual_seed(0)  # the same masks
    loss = plain_step(plain, decoder, x, y, phase, ALPHA, mask)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    expected.backward()
    loss.backward()
    for own, theirs in zip(gradients(plain, decoder), gradients(model, objective), strict=True):
        assert set(own) == set(theirs)
        assert own
        for name, gradient in own.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-10, msg=name)


def flops(step):
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step().backward()
    return counter.get_total_flops()


@masks
@phases
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_step_costs_what_mixplugs_costs(mask, phase, pool):
    """But for the classifier, which mixplug runs in the SSL phase as part of the model's own forward pass."""
    model, objective, plain, decoder, x = pair(mask, global_pool=pool)
    y = labels(BATCH)
    head = 2 * BATCH * plain.head.in_features * plain.head.out_features
    with_mixplug = flops(lambda: loss_with_mixplug(model, objective, x, y, phase))
    assert with_mixplug > 100 * head
    assert flops(lambda: plain_step(plain, decoder, x, y, phase, ALPHA, mask)) == with_mixplug - head * (phase == "ssl")


def test_the_supervised_step():
    model, y = tiny_vit(), labels(BATCH)
    assert torch.equal(plain_step(model, None, images(BATCH), y, "sl"), F.cross_entropy(model(images(BATCH)), y))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_steps_are_backward_and_step_on_each_batch(autocast):
    model = tiny_vit()
    decoder = PlainMAE(model)
    twin, twin_decoder = copy.deepcopy((model, decoder))
    batches = [(images(4, seed=seed), labels(4, seed=seed)) for seed in range(3)]

    def optimizer_of(*modules):
        return torch.optim.AdamW([p for module in modules for p in module.parameters()], lr=1e-2)

    torch.manual_seed(0)
    losses = list(
        plain_steps(model, decoder, batches, optimizer_of(model, decoder), "mix", 0.9, "two passes", autocast)
    )

    optimizer, expected = optimizer_of(twin, twin_decoder), []
    torch.manual_seed(0)
    for x, y in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = plain_step(twin, twin_decoder, x, y, "mix", 0.9, "two passes")
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected
    for own, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, theirs)


@masks
def test_the_loss_is_float32_inside_of_autocast(mask):
    model = tiny_vit()
    decoder = PlainMAE(model)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(plain_step(model, decoder, images(8), labels(8), "mix", 0.9, mask))
    assert losses[1].dtype == torch.float32
    assert not torch.equal(losses[1], losses[0])
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=0)


def test_the_decoder_begins_as_mixplugs_does():
    """Xavier's bounds for products, zero for what is added, 0.02 for the mask token."""
    decoder = PlainMAE(tiny_vit(embed_dim=64))
    bound = (6 / 128) ** 0.5
    assert 0.9 * bound < decoder.embed.weight.abs().max() <= bound
    assert not decoder.embed.bias.any()
    assert 0.01 < decoder.mask_token.std() < 0.03
    assert "position" not in decoder.state_dict()


def test_not_a_line_of_mixplug():
    imports = list(ast.walk(ast.parse(inspect.getsource(inspect.getmodule(plain_step)))))
    modules = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in modules} == {
        "__future__",
        "collections",
        "functools",
        "typing",
        "torch",
        "timm",
    }


@pytest.mark.parametrize(
    "wrong", [{"phase": "mixed"}, {"mask": "pixels"}, {"decoder": None}], ids=["phase", "mask", "decoder"]
)
def test_what_there_is_not(wrong):
    model = tiny_vit()
    arguments = {"decoder": PlainMAE(model), "images": images(2), "labels": labels(2), "phase": "mix", **wrong}
    with pytest.raises(ValueError, match=r"phase must be 'ssl', 'mix' or 'sl'.* need a decoder; got phase="):
        plain_step(model, **arguments)


def test_precisions_and_ratios_that_cannot_be():
    model = tiny_vit()
    with pytest.raises(ValueError, match=r"autocast must be None or torch\.bfloat16 .*, got torch\.float16"):
        list(plain_steps(model, None, [], torch.optim.SGD(model.parameters()), "sl", autocast=torch.float16))
    with pytest.raises(ValueError, match=r"mask_ratio=0\.99 leaves 0 of 16 patches visible"):
        PlainMAE(model, mask_ratio=0.99)
