"""Requests assembled by several, by role; passes within passes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from shared.tiny import images, tiny_vit

from mixplug import MAE, EncoderPass, MoCoV3, PassRequest, Phase, Position, Role, SimCLR, backbone_of, random_tokens

SL, SSL = Position(Phase.SL), Position(Phase.SSL)


def keep_half(request):
    return dataclasses.replace(request, select=random_tokens(0.5)) if request.role == "shared" else request


def flipped(request):
    return dataclasses.replace(request, view=lambda x, seen: x.flip(-1))


def test_nobody_wants_anything_of_a_pass():
    passes = EncoderPass(backbone_of(tiny_vit()))
    assert passes.request(SL) is None
    with passes.watch(SL) as seen:
        assert seen is None


def test_an_amendment_changes_the_supervised_pass():
    vit = tiny_vit()
    passes = EncoderPass(backbone_of(vit))
    passes.add(keep_half)
    passes.add(keep_half)  # counts once
    x = images(3)
    with passes.watch(SL) as seen:
        vit(x)
    assert seen.keep.shape == (3, 8)
    assert seen.output.shape == (3, 9, 16)


def test_several_amendments_change_different_things():
    vit = tiny_vit()
    passes = EncoderPass(backbone_of(vit))
    passes.add(keep_half)
    passes.add(flipped)
    x = images(3)
    with passes.watch(SL) as seen:
        vit(x)
    assert torch.equal(seen.images, x.flip(-1))
    assert seen.keep.shape == (3, 8)


def test_two_that_want_the_same_are_named():
    passes = EncoderPass(backbone_of(tiny_vit()))
    passes.add(keep_half)
    passes.add(lambda request: dataclasses.replace(request, select=random_tokens(0.25)))
    with pytest.raises(
        ValueError, match="keep_half and <lambda> both choose the tokens of the shared pass in the sl phase"
    ):
        passes.request(SL)


def test_an_objective_that_drops_tokens_itself_is_named():
    backbone = backbone_of(tiny_vit())
    passes = EncoderPass(backbone, MAE(mask="input").build(backbone))
    passes.add(keep_half)
    with pytest.raises(ValueError, match="MAE and keep_half both choose the tokens"):
        passes.request(SSL)
    assert passes.request(SL).select is not None


def test_one_that_says_so_combines():
    class Both:
        combines = True

        def __call__(self, request):
            return dataclasses.replace(request, select=random_tokens(0.25))

    passes = EncoderPass(backbone_of(tiny_vit()))
    passes.add(keep_half)
    passes.add(Both())
    assert passes.request(SL).select(1, 16, torch.device("cpu")).shape == (1, 4)


def test_what_is_no_amendment():
    passes = EncoderPass(backbone_of(tiny_vit()))
    with pytest.raises(TypeError, match="an amendment must be a function"):
        passes.add(3)
    passes.add(lambda request: None)
    with pytest.raises(TypeError, match="must return the request"):
        passes.request(SL)


@pytest.mark.parametrize(
    ("objective", "roles"),
    [
        (SimCLR(hidden_dim=8, out_dim=4), {"ssl": ["shared", "query"], "mix": ["shared", "query"]}),
        (
            MoCoV3(hidden_dim=8, out_dim=4),
            {"ssl": ["shared", "key", "query", "key"], "mix": ["shared", "key"]},
        ),
    ],
    ids=["SimCLR", "MoCoV3"],
)
def test_each_pass_of_a_step_is_amended_by_its_role(objective, roles):
    vit = tiny_vit(in_chans=3)
    backbone = backbone_of(vit)
    objective.build(backbone)
    passes, seen_roles = EncoderPass(backbone, objective), []

    def note(request):
        seen_roles.append(str(request.role))
        return request

    passes.add(note)
    for phase, expected in roles.items():
        seen_roles.clear()
        objective.before_step()
        with passes.watch(Position(phase)) as seen:
            vit(torch.rand(4, 3, 8, 8))
        objective(seen)
        assert sorted(seen_roles) == sorted(expected)


def test_a_momentum_encoder_sees_what_amendments_show_it():
    vit = tiny_vit()
    backbone = backbone_of(vit)
    frozen = backbone.frozen_copy()
    x = images(3)
    plain = frozen(x)
    shown = frozen(x, PassRequest(SSL, Role.KEY, view=lambda y, seen: y.flip(-1)))
    assert torch.allclose(shown, frozen(x.flip(-1)))
    assert torch.equal(frozen(x), plain)
    assert not frozen._copied[0].attached


def test_passes_may_nest():
    """A view may be chosen by what the encoder makes of several."""
    vit = tiny_vit().eval()
    backbone = backbone_of(vit)
    passes = EncoderPass(backbone)
    scored = []

    def hardest(x, seen):
        with torch.no_grad():
            scored.append(backbone.encode(x.flip(-1)).features)
        return x.flip(-1)

    passes.add(lambda request: dataclasses.replace(request, view=hardest))
    x = images(2)
    with passes.watch(SL) as seen:
        vit(x)
    assert seen.runs == 1
    assert torch.equal(seen.features, scored[0])
    assert torch.equal(vit(x), tiny_vit().eval()(x))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"share": 2}, ValueError, r"share must be a number in \[0, 1\], got 2"),
        ({"share": -1}, ValueError, "share must be"),
        ({"share": "a"}, TypeError, "share must be"),
        ({"share": 0.5, "hidden": -1}, ValueError, "hidden must be"),
    ],
)
def test_shares_of_tokens_are_checked(arguments, error, says):
    with pytest.raises(error, match=says):
        random_tokens(**arguments)
