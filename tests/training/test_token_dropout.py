"""Which tokens are dropped, of which pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared.tiny import images, tiny_vit

from mixplug import MAE, EncoderPass, PassRequest, Phase, Position, Ramp, Role, Steps, backbone_of
from mixplug.training.token_dropout import DropTokens

SL = Position(Phase.SL)


def kept_by(drop, request=None, patches=16, batch=3):
    amended = drop(request or PassRequest(SL))
    return None if amended.select is None else amended.select(batch, patches, torch.device("cpu"))


@given(st.floats(0.001, 0.999), st.integers(1, 50))
def test_the_number_of_kept_tokens_is_exact(rate, patches):
    kept = kept_by(DropTokens(rate), patches=patches)
    # Shares count in millionths.
    assert kept.shape[1] == max(1, math.floor(patches * (round(1e6 * (1 - rate)) + 1) / 1e6))
    assert all(len(set(row.tolist())) == kept.shape[1] for row in kept)


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 3}])
def test_class_and_register_tokens_are_kept(options):
    vit = tiny_vit(**options)
    passes = EncoderPass(backbone_of(vit))
    passes.add(DropTokens(0.75))
    with passes.watch(SL) as seen:
        vit(images(5))
    assert seen.output.shape[1] == vit.num_prefix_tokens + 4
    assert len({tuple(sorted(row.tolist())) for row in seen.keep}) > 1, "another draw for every image"


def test_rate_0_is_the_identity_bit_for_bit():
    grads = []
    for drop in (None, DropTokens(0.0), DropTokens(Ramp(0.75, 0.0))):
        vit = tiny_vit()
        passes = EncoderPass(backbone_of(vit))
        if drop is not None:
            passes.add(drop)
        with passes.watch(Position("sl", 1.0, 1.0, 1.0)):
            out = vit(images(4))
        out.square().sum().backward()
        grads.append([out.detach(), *(p.grad for p in vit.parameters())])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))


def test_kept_tokens_are_uniform():
    """Chi-square of how often each of 16 patches is kept, 99.9% quantile for 15 degrees of freedom."""
    torch.manual_seed(0)
    batch, kept = 8000, 4
    counts = torch.bincount(kept_by(DropTokens(0.75), batch=batch).flatten(), minlength=16).double()
    expected = batch * kept / 16
    # Draws without replacement vary less than a multinomial: (N - n) / (N - 1) of it.
    chi_square = float(((counts - expected) ** 2 / expected).sum()) / ((16 - kept) / 15)
    assert chi_square < 37.7


def test_by_role():
    everywhere = DropTokens(0.5, keys=True)
    for role in Role:
        request = PassRequest(Position("ssl"), role)
        assert (kept_by(DropTokens(0.5), request) is not None) == (role in ("shared", "query"))
        assert (kept_by(everywhere, request) is not None) == (role not in ("local", "score"))


def test_an_objective_that_hides_patches_itself_is_left_alone():
    for mask in ("input", "features"):
        vit = tiny_vit()
        mae = MAE(mask=mask).build(backbone_of(vit))
        passes = EncoderPass(backbone_of(vit), mae)
        passes.add(DropTokens(0.5))
        for phase, kept in (("ssl", None), ("mix", None), ("sl", 8)):
            request = passes.request(Position(phase))
            own = mae.request(Position(phase)) if phase != "sl" else None
            if kept is None:
                assert (request.select is None) == (own.select is None)
                assert request.metrics["token_dropout"] == 0
            else:
                assert request.select(1, 16, torch.device("cpu")).shape == (1, kept)


def test_rates_by_phase_and_clock():
    drop = DropTokens({"ssl": 0.5, "sl": Ramp(0.75, 0.0)})
    assert drop.rate_of(PassRequest(Position("ssl", 0.5))) == 0.5
    assert drop.rate_of(PassRequest(Position("mix", 0.5))) == 0
    assert drop.rate_of(PassRequest(Position("sl", 0.5, 1.0, 0.9))) == 0.375
    whole = DropTokens(Ramp(0.75, 0.0))
    assert whole.rate_of(PassRequest(Position("sl", 0.5, 1.0, 0.8))) == pytest.approx(0.15)
    assert DropTokens(Ramp(0.75, 0.0, over="phase")).rate_of(PassRequest(Position("sl", 0.5, 1, 0.8))) == 0.375
    end = DropTokens(Steps({0: 0.5, 0.9: 0.0}), phases=("sl",))
    assert [end.rate_of(PassRequest(Position("sl", 0, 0, t))) for t in (0.5, 0.9)] == [0.5, 0.0]
    assert end.rate_of(PassRequest(Position("mix", 0, 0, 0.5))) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"rate": 1.0}, ValueError, r"rate must be a number in \[0, 1\), got 1.0"),
        ({"rate": -0.1}, ValueError, "TokenDropout's rate"),
        ({"rate": "half"}, TypeError, "TokenDropout's rate"),
        ({"rate": Ramp(0.0, 1.0)}, ValueError, "TokenDropout's rate=Ramp"),
        ({"rate": {"sl": 1.5}}, ValueError, "rate of the sl phase"),
        ({"rate": {"slow": 0.5}}, ValueError, "a phase of TokenDropout's rate"),
        ({"rate": {"ssl": 0.5}, "phases": ("sl",)}, ValueError, "a phase of TokenDropout's rate"),
        ({"rate": 0.5, "phases": ("supervised",)}, ValueError, "a phase of TokenDropout"),
        ({"rate": 0.5, "phases": "sl"}, TypeError, "phases must be several"),
        ({"rate": 0.5, "keys": 1}, TypeError, "keys"),
    ],
)
def test_bad_arguments(arguments, error, says):
    with pytest.raises(error, match=says):
        DropTokens(**arguments)
