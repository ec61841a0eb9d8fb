from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from shared.two_view import OBJECTIVES

from mixplug import MAE, Phase, Ramp, Steps, mixup_ssl
from mixplug.objectives.settings import describe, differences


def is_plain(value):
    """Whether it is made of what is read back as what it was, and nothing else."""
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (Ramp(1, 0), {"name": "Ramp", "start": 1, "stop": 0, "over": None}),
        (Steps({0: 0.5, 0.8: 0}), {"name": "Steps", "points": [[0.0, 0.5], [0.8, 0]], "over": None}),
        ({Phase.SSL: {"betas": (0.9, 0.95)}}, {"ssl": {"betas": [0.9, 0.95]}}),
        ([np.float64(0.5), np.int64(3), Fraction(1, 4), Decimal("0.5"), True], [0.5, 3, 0.25, 0.5, True]),
        (mixup_ssl, "mixplug.views.mixing.mixup_ssl"),
        (torch.ones(2), {"name": "Tensor"}),
    ],
)
def test_objects_as_plain_data(value, described):
    assert describe(value) == described
    assert is_plain(describe(value))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_known_by_all_of_its_arguments(name):
    objective = OBJECTIVES[name]()
    described = describe(objective)
    assert described["name"] == name
    assert described["views"]["recipes"][0]["blur_p"] == 0
    assert is_plain(described)
    assert not list(differences("objective", described, objective))
    for key, value in described.items():
        assert key in ("name", "views") or describe(getattr(objective, key)) == value


def test_differences_are_named():
    saved = describe(MAE("input", mask_ratio=Ramp(0.75, 0.0)))
    assert list(differences("objective", saved, MAE("input", Ramp(0.75, 0.5), 8))) == [
        "objective.mask_ratio.stop was 0.0 and is 0.5",
        "objective.decoder_dim was None and is 8",
    ]
    assert list(differences("alpha", 0.5, Ramp(1, 0))) == ["alpha was 0.5 and is Ramp(start=1, stop=0, over=None)"]
    assert list(differences("sizes", [1, 2], (1, 2, 3))) == ["sizes was [1, 2] and is [1, 2, 3]"]


def test_an_argument_that_was_not_known_was_its_default():
    saved = {"name": "MAE", "mask": "input", "mask_ratio": {"name": "Ramp", "start": 0.75, "stop": 0.0}}
    assert not list(differences("objective", saved, MAE("input", Ramp(0.75, 0.0))))
    assert list(differences("objective", saved, MAE("input", Ramp(0.75, 0.0), fused=False))) == [
        "objective.fused was True and is False"
    ]
    assert list(differences("objective", {**saved, "gone": 3}, MAE("input", Ramp(0.75, 0.0)))) == []
