from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared.tiny import images

from mixplug import mixup_ssl


@given(st.floats(0, 1))
def test_it_is_equation_2(lam):
    x_sl, x_ssl = images(4, dtype=torch.float64), images(4, seed=9, dtype=torch.float64)
    assert torch.equal(mixup_ssl(x_sl, x_ssl, lam), lam * x_sl + (1 - lam) * x_ssl)


def test_equal_data_sets_are_not_mixed():
    x = images(4)
    assert mixup_ssl(x) is x
    assert mixup_ssl(x, x) is x


def test_shapes_that_differ_are_both_named():
    with pytest.raises(ValueError, match=r"\(4, 1, 8, 8\).*\(4, 3, 8, 8\)"):
        mixup_ssl(images(4), images(4, 3, 8, 8))


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        mixup_ssl(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("lam", "error"), [(-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_a_bad_lam(lam, error):
    with pytest.raises(error, match="lam must be a number"):
        mixup_ssl(images(2), images(2), lam)
