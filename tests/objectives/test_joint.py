from __future__ import annotations

import pytest
import torch

from mixplug import LossWeights, Phase, Position, Ramp, joint_loss, phase_weights


def test_weights_by_phase():
    assert phase_weights(Phase.SSL, 0.3) == (1, 0)
    assert phase_weights(Phase.MIX, 0.3) == (0.3, 0.7)
    assert phase_weights(Phase.SL, 0.3) == (0, 1)
    assert phase_weights(Position(Phase.MIX, 0.25), Ramp(1.0, 0.0)) == (0.75, 0.25)


def test_phases_by_name():
    assert phase_weights("ssl", 0.3) == (1, 0)
    assert phase_weights("sl", 0.3) == (0, 1)
    with pytest.raises(ValueError, match=r"must be one of \['ssl', 'mix', 'sl'\], got 'foo'"):
        phase_weights("foo", 0.3)


@pytest.mark.parametrize(("alpha", "error"), [(1.5, ValueError), (-0.1, ValueError), ("0.5", TypeError)])
def test_a_bad_alpha(alpha, error):
    with pytest.raises(error, match="alpha"):
        phase_weights(Phase.MIX, alpha)


def test_it_is_equation_3():
    ssl, sl = torch.tensor(3.0, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    assert joint_loss(ssl, sl, LossWeights(0.25, 0.75)) == 0.25 * 3 + 0.75 * 5


def test_a_term_without_weight_is_not_in_the_graph():
    ssl = torch.tensor(float("nan"), requires_grad=True)
    sl = torch.tensor(5.0, requires_grad=True)
    joint_loss(ssl, sl, LossWeights(0, 1)).backward()
    assert ssl.grad is None
    assert sl.grad == 1
    assert joint_loss(None, sl, LossWeights(0, 1)) == 5


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="ssl loss has weight 1"):
        joint_loss(None, torch.tensor(1.0), LossWeights(1, 0))
    with pytest.raises(ValueError, match="weight above 0"):
        joint_loss(torch.tensor(1.0), torch.tensor(1.0), LossWeights(0, 0))
