"""Each loss against a slow, literal reading of its paper's formula, in float64, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss
from shared.tiny import images

from mixplug.objectives import pairs

T = 0.3


def embeddings(count, width=5, seed=0, dtype=torch.float64):
    return images(count, width, seed=seed, dtype=dtype)


QUEUE = embeddings(7, seed=2)


def queue_for(queries):
    return QUEUE.to(queries.device, torch.promote_types(queries.dtype, torch.float32))


def unit(v):
    return [float(x) / math.sqrt(sum(float(x) ** 2 for x in v)) for x in v]


def similarity(a, b):
    """exp(cos(a, b) / T)."""
    return math.exp(sum(x * y for x, y in zip(unit(a), unit(b), strict=True)) / T)


def literal_negative_cosine(i, j, p, z):
    """Equation 1 of SimSiam."""
    return -T * math.log(similarity(p[i], z[j]))


def literal_nt_xent(i, j, q, k):
    """Equation 1 of SimCLR, over the 2N projections but z_i itself."""
    others = [similarity(q[i], x) for n, x in enumerate(q) if n != i]
    return -math.log(similarity(q[i], k[j]) / sum([*others, *(similarity(q[i], x) for x in k)]))


def literal_info_nce(i, j, q, k):
    """Equation 1 of MoCo."""
    positive = similarity(q[i], k[j])
    return -math.log(positive / (positive + sum(similarity(q[i], n) for n in QUEUE)))


def literal_info_nce_in_batch(i, j, q, k):
    """Algorithm 1 of MoCo v3, but for its factor."""
    return -math.log(similarity(q[i], k[j]) / sum(similarity(q[i], x) for x in k))


def literal_cross_entropy(i, j, logits, assignments):
    """Equation 2 of DINO."""
    below = sum(math.exp(float(x) / T) for x in logits[i])
    return -sum(
        float(p) * math.log(math.exp(float(x) / T) / below) for p, x in zip(assignments[j], logits[i], strict=True)
    )


LOSSES = {
    "negative_cosine": (pairs.negative_cosine, literal_negative_cosine),
    "nt_xent": (lambda q, k, w=None: pairs.nt_xent(q, k, T, w), literal_nt_xent),
    "info_nce": (lambda q, k, w=None: pairs.info_nce(q, k, queue_for(q), T, w), literal_info_nce),
    "info_nce_in_batch": (lambda q, k, w=None: pairs.info_nce_in_batch(q, k, T, w), literal_info_nce_in_batch),
    "cross_entropy": (lambda s, t, w=None: pairs.cross_entropy(s, t, T, w), literal_cross_entropy),
}

every = pytest.mark.parametrize("name", LOSSES)


def pair_of(name, count=4, dtype=torch.float64):
    first, second = embeddings(count, dtype=dtype), embeddings(count, seed=1, dtype=dtype)
    return first, second.softmax(dim=-1) if name == "cross_entropy" else second


@every
def test_each_images_loss_is_the_papers_formula(name):
    loss, literal = LOSSES[name]
    one, other = pair_of(name)
    expected = [literal(i, i, one, other) for i in range(4)]
    assert loss(one, other).tolist() == pytest.approx(expected, rel=1e-12)


@every
def test_soft_targets_weigh_the_losses_of_several_positives(name):
    loss, literal = LOSSES[name]
    one, other = pair_of(name)
    weights = embeddings(4, 4, seed=3).softmax(dim=-1)
    expected = [sum(float(weights[i, j]) * literal(i, j, one, other) for j in range(4)) for i in range(4)]
    assert loss(one, other, weights).tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(loss(one, other, torch.eye(4)), loss(one, other), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"soft_targets must be \(4, 4\), .* got \(4, 3\)"):
        loss(one, other, weights[:, :3])


@every
def test_losses_are_computed_in_float32_under_autocast(name):
    loss, _ = LOSSES[name]
    one, other = (x.bfloat16() for x in pair_of(name, dtype=torch.float32))
    plain = loss(one.float(), other.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(one, other), plain)
    assert plain.dtype == torch.float32


@every
def test_losses_can_be_counted_without_values(name):
    one, other = (x.to("meta") for x in pair_of(name))
    assert LOSSES[name][0](one, other).shape == (4,)


@pytest.mark.parametrize("name", ["nt_xent", "info_nce_in_batch"])
def test_positives_are_in_the_processs_own_part_of_the_batch(name, monkeypatch):
    """As the second of two processes, whose four images come after the other's."""
    elsewhere = F.normalize(embeddings(4, seed=5), dim=1)
    for gather in ("gathered", "gathered_with_gradient"):
        monkeypatch.setattr(pairs, gather, lambda x: torch.cat([elsewhere, x]))
    monkeypatch.setattr(pairs, "rank", lambda: 1)
    loss, literal = LOSSES[name]
    one, other = pair_of(name)
    every_one, every_other = (torch.cat([elsewhere, x]) for x in (one, other))
    weights = embeddings(4, 4, seed=3).softmax(dim=-1)
    of_pairs = torch.tensor(
        [[literal(4 + i, 4 + j, every_one, every_other) for j in range(4)] for i in range(4)], dtype=torch.float64
    )
    torch.testing.assert_close(loss(one, other), of_pairs.diagonal(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(one, other, weights), (weights * of_pairs).sum(1), rtol=1e-12, atol=1e-12)


def test_the_arithmetic_of_moco_v3_is_that_of_its_algorithm_1():
    """The mean of the images' losses gives the same gradients as the loss of the batch, bit for bit."""
    for count in range(2, 40):
        q, k = embeddings(count, dtype=torch.float32), embeddings(count, seed=1, dtype=torch.float32)
        ours, literal = q.clone().requires_grad_(), q.clone().requires_grad_()
        ((2 * T) * pairs.info_nce_in_batch(ours, k, T).mean()).backward()
        logits = F.normalize(literal, dim=-1) @ F.normalize(k, dim=-1).T / T
        (F.cross_entropy(logits, torch.arange(count)) * (2 * T)).backward()
        assert torch.equal(ours.grad, literal.grad)


def lightlys_info_nce(queries, keys):
    loss = NTXentLoss(T, memory_bank_size=(len(QUEUE), QUEUE.shape[1]))
    loss.memory_bank.bank = F.normalize(queue_for(queries), dim=1)
    return loss(queries, keys)


def both_orders(loss):
    return lambda one, other: (loss(one, other).mean() + loss(other, one).mean()) / 2


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("negative_cosine", NegativeCosineSimilarity(), LOSSES["negative_cosine"][0]),
        ("nt_xent", NTXentLoss(T), both_orders(LOSSES["nt_xent"][0])),
        ("info_nce", lightlys_info_nce, LOSSES["info_nce"][0]),
    ],
)
def test_losses_are_lightlys(name, theirs, ours):
    one, other = (x.requires_grad_() for x in pair_of(name, 6, torch.float32))
    expected, found = theirs(one, other), ours(one, other).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for mine, other_gradient in zip(torch.autograd.grad(found, one), torch.autograd.grad(expected, one), strict=True):
        torch.testing.assert_close(mine, other_gradient, rtol=1e-6, atol=1e-6)


def test_dinos_loss_of_two_views_is_lightlys():
    teachers, students = ([embeddings(6, seed=s, dtype=torch.float32) for s in seeds] for seeds in ((0, 1), (2, 3)))
    theirs = DINOLoss(5, teacher_temp=0.5, warmup_teacher_temp=0.5, student_temp=T)(teachers, students, epoch=0)
    assigned = [(teacher / 0.5).softmax(dim=-1) for teacher in teachers]
    ours = [pairs.cross_entropy(students[i], assigned[1 - i], T).mean() for i in range(2)]
    torch.testing.assert_close(sum(ours) / 2, theirs, rtol=1e-6, atol=1e-6)
