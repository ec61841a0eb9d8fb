"""Each loss against a slow, literal reading of its paper's formula, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from shared.tiny import images
from torch import nn

from mixplug.objectives import dino, moco, simclr
from mixplug.objectives.two_view import cosine


def embeddings(count, width=5, seed=0):
    return images(count, width, seed=seed, dtype=torch.float64)


def unit(v):
    return v / math.sqrt(sum(float(x) ** 2 for x in v))


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def test_nt_xent_is_equation_1_of_simclr():
    first, second, t = embeddings(4), embeddings(4, seed=1), 0.3
    # z_{2k-1} and z_{2k} are the two views of image k.
    z = [unit(v) for pair in zip(first, second, strict=True) for v in pair]

    def l(i, j):  # noqa: E743  (the paper's name)
        below = sum(math.exp(dot(z[i], z[k]) / t) for k in range(len(z)) if k != i)
        return -math.log(math.exp(dot(z[i], z[j]) / t) / below)

    expected = sum(l(2 * k, 2 * k + 1) + l(2 * k + 1, 2 * k) for k in range(4)) / 8
    assert float(simclr.nt_xent(first, second, t)) == pytest.approx(expected, rel=1e-12)


def test_info_nce_is_equation_1_of_moco():
    queries, keys, queue, t = embeddings(3), embeddings(3, seed=1), embeddings(7, seed=2), 0.2
    terms = []
    for q, k in zip(queries, keys, strict=True):
        positive = math.exp(dot(unit(q), unit(k)) / t)
        terms.append(-math.log(positive / (positive + sum(math.exp(dot(unit(q), unit(n)) / t) for n in queue))))
    assert float(moco.info_nce(queries, keys, queue, t)) == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_contrast_is_ctr_of_moco_v3s_algorithm_1():
    queries, keys, t = embeddings(4), embeddings(4, seed=1), 0.2
    terms = []
    for i, q in enumerate(queries):
        scores = [math.exp(dot(unit(q), unit(k)) / t) for k in keys]
        terms.append(-math.log(scores[i] / sum(scores)))
    assert float(moco.contrast(queries, keys, t)) == pytest.approx(2 * t * sum(terms) / 4, rel=1e-12)


def test_dinos_cross_entropy_is_h_of_equation_2():
    logits, targets = embeddings(3), embeddings(3, seed=1).softmax(dim=-1)
    terms = []
    for s, t in zip(logits, targets, strict=True):
        below = sum(math.exp(float(x)) for x in s)
        terms.append(-sum(float(p) * math.log(math.exp(float(x)) / below) for p, x in zip(t, s, strict=True)))
    assert float(dino.cross_entropy(logits, targets)) == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_the_head_of_dino_is_torchs_weight_norm_with_its_gain_at_1():
    torch.manual_seed(0)
    head = dino._Head(6, 8, 4, 10).double()
    literal = nn.utils.parametrizations.weight_norm(nn.Linear(4, 10, bias=False).double())
    literal.parametrizations.weight.original0.data.fill_(1)
    literal.parametrizations.weight.original1.data.copy_(head.prototypes)
    bottleneck = head.layers(embeddings(3, 6))
    expected = literal(bottleneck / bottleneck.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(embeddings(3, 6)), expected, rtol=1e-12, atol=1e-12)


def test_the_momentum_goes_up_by_half_a_cosine():
    """Grill et al., 2020, section 3.3: tau = 1 - (1 - tau_base) * (cos(pi k / K) + 1) / 2."""
    for k in range(11):
        assert cosine(0.9, 1.0, k / 10) == pytest.approx(1 - (1 - 0.9) * (math.cos(math.pi * k / 10) + 1) / 2)
    assert [cosine(0.9, 1.0, end) for end in (0, 1)] == [pytest.approx(0.9), 1.0]


def test_the_queue_holds_the_latest_keys():
    queue, oldest = torch.zeros(5, 2), torch.zeros((), dtype=torch.long)
    history = [torch.zeros(2)] * 5
    for step, count in enumerate((2, 2, 3, 1, 7, 5)):
        keys = images(count, 2, seed=step)
        moco.enqueue(queue, oldest, keys)
        history = [*history, *keys][-5:]
        # From the oldest on, round the end.
        assert torch.equal(queue.roll(-int(oldest), 0), torch.stack(history))
