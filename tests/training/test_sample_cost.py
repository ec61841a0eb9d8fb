"""The paper's cost of a sample: its Table 1 and Fig. 3."""

from __future__ import annotations

import pytest
from shared.tiny import tiny_vit
from shared.two_view import OBJECTIVES

from mixplug import BYOL, DINO, MAE, MoCoV3, Position, SimCLR, SimSiam, sample_cost
from mixplug.training.costs import CostCounter

FIG_3 = {  # by side of the patches, for token dropout of 0, 0.25, 0.5, 0.75 and 0.9, as far as it can be read
    48: (1.54, 1.44, 1.35, 1.25, 1.1),
    40: (1.71, 1.57, 1.43, 1.29, 1.2),
    30: (2.14, 1.89, 1.64, None, 1.2),
    24: (2.69, 2.30, 1.92, 1.53, None),
    20: (3.36, 2.80, 2.25, 1.70, 1.3),
    16: (4.59, 3.73, 2.87, 2.01, 1.49),
}


@pytest.mark.parametrize("patch", FIG_3)
def test_fig_3(patch):
    """Crops of 240 pixels; the class token counts as dropped in part, and keys keep all of their 226 tokens."""
    for dropped, printed in zip((0, 0.25, 0.5, 0.75, 0.9), FIG_3[patch], strict=True):
        if printed is not None:
            query = (1 - dropped) * (1 + (240 / patch) ** 2)
            # Cells of the last column are cut off after their first decimal in part.
            digits = len(str(printed).split(".")[1])
            cost = sample_cost(MoCoV3(symmetric=False), query=query, key=226)
            assert cost == pytest.approx(printed, abs=0.51 * 10**-2 if digits == 2 else 0.1), (dropped, cost)


def test_table_1():
    q, k, small, base = 50, 80, 20, 100
    lengths = {"query": q, "key": k, "base": base}
    assert sample_cost(SimCLR(), **lengths) == 3 * (q + k) / base
    assert sample_cost(MoCoV3(symmetric=False), **lengths) == (3 * q + k) / base
    dino = DINO(symmetric=False, local_crops=6)
    assert sample_cost(dino, local=small, **lengths) == (3 * q + 3 * 6 * small + k) / base


@pytest.mark.parametrize(
    ("name", "symmetric"),
    # Both of SimCLR's views learn in any case.
    [(name, symmetric) for name in OBJECTIVES for symmetric in (True, False) if symmetric or name != "SimCLR"],
)
def test_it_has_the_passes_of_a_real_step(name, symmetric):
    """With sequences of one length it is 3 for each pass with gradient and 1 for each without."""
    objective = OBJECTIVES[name](**({} if name == "SimCLR" else {"symmetric": symmetric}))
    stated = sample_cost(objective, query=10, key=10, base=10)
    roles = CostCounter(tiny_vit(in_chans=3), objective, (3, 8, 8)).at(Position("ssl")).roles
    assert stated == 3 * (roles["shared"] + roles.get("query", 0)) + roles.get("key", 0)


def test_local_crops_cost_their_own_length():
    whole = sample_cost(DINO(local_crops=4), local=50)
    assert whole == sample_cost(DINO()) + 3 * 4 * 50 / 197


def test_bad_lengths():
    with pytest.raises(TypeError, match=r"objectives of two views, such as MoCoV3\(\), got MAE"):
        sample_cost(MAE())
    for lengths in ({"query": 0}, {"key": -1}, {"base": 0}, {"local": -1}, {"query": float("inf")}):
        name = next(iter(lengths))
        with pytest.raises(ValueError, match=f"{name} must be"):
            sample_cost(DINO(local_crops=2), **{"local": 5, **lengths})
    with pytest.raises(TypeError, match="query must be"):
        sample_cost(BYOL(), query="long")
    with pytest.raises(ValueError, match="local must be 0, since SimSiam has 0 local crops; got 5"):
        sample_cost(SimSiam(), local=5)
    with pytest.raises(ValueError, match="local must be above 0, since DINO has 2 local crops; got 0"):
        sample_cost(DINO(local_crops=2))
