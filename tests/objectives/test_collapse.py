"""Signs of collapse that need no labels."""

from __future__ import annotations

import math

import pytest
import torch
from shared.settings import classifier, logged, trainer
from shared.two_view import OBJECTIVES

from mixplug import MAE, MixTraining, Phase, backbone_of
from mixplug.objectives.collapse import RANK_INTERVAL, embedding_std, rank_me, watch_rank


def test_rank_me_counts_directions():
    """Garrido et al., Eqs. 1 and 2, on embeddings whose singular values are known."""
    orthogonal = torch.linalg.qr(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    for directions in (1, 2, 6):
        assert float(rank_me(orthogonal[:, :directions])) == pytest.approx(directions, rel=1e-5)
    shares = [0.5, 0.3, 0.2]
    entropy = -sum(share * math.log(share) for share in shares)
    scaled = orthogonal[:, :3] * torch.tensor(shares) * 7
    assert float(rank_me(scaled)) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert float(rank_me(torch.ones(8, 4))) == pytest.approx(1, abs=1e-3), "collapsed"


def test_what_is_not_finite_raises_nothing():
    assert torch.isfinite(rank_me(torch.full((4, 3), float("nan"))))
    assert torch.isfinite(rank_me(torch.zeros(4, 3)))


def test_it_is_measured_now_and_then():
    steps = [step for step in range(2 * RANK_INTERVAL) if watch_rank(torch.eye(3), step)]
    assert steps == [0, RANK_INTERVAL]


@pytest.mark.parametrize("make", [lambda: MAE(mask="input"), MAE, OBJECTIVES["MoCoV3"]], ids=["input", "all", "MoCoV3"])
def test_spread_and_rank_are_logged(make, monkeypatch):
    monkeypatch.setattr("mixplug.objectives.collapse.RANK_INTERVAL", 4)
    made = trainer(classifier(drop_rate=0.1), [MixTraining(objective=make())])
    made.fit()
    spread, ranks = (logged(made, f"mixtraining/{name}") for name in ("embedding_std", "rank_me"))
    assert (len(spread), len(ranks)) == (12, 3), "in SSL and MIX"
    assert all(0 < value < 1.5 for value in spread)
    assert all(1 <= value <= 8 for value in ranks), "of 8 images a batch"


def test_the_spread_of_mae_is_that_of_its_tokens_mean():
    torch.manual_seed(0)
    backbone = backbone_of(classifier().module)
    objective = MAE(mask="input").build(backbone)
    seen = backbone.encode(torch.randn(6, 1, 8, 8), objective.request(Phase.SSL))
    objective(seen)
    expected = {"embedding_std": embedding_std(seen.output.mean(1)), "rank_me": rank_me(seen.output.mean(1))}
    assert objective.monitors() == expected
