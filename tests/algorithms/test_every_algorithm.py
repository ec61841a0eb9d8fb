"""What holds for every row of the settings table."""

from __future__ import annotations

import math

import pytest
import torch
from shared.settings import ROWS, RUN, logged, resumes_from_every_batch, trainer, weights
from shared.tiny import loader

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@rows
def test_it_trains(row):
    made = trainer(row.model(), row.make(), eval_dataloader=loader())
    before = weights(made.state.model)
    made.fit()
    assert made.state.timestamp.epoch == RUN
    totals = logged(made, "loss/train/total")
    assert len(totals) == made.state.timestamp.batch.value
    assert all(math.isfinite(value) for value in totals)
    after = weights(made.state.model)
    # The first layer and the classifier.
    own = [name for name in before if name.startswith("module.")]
    assert all(not torch.equal(before[name], after[name]) for name in (own[0], own[-1]))
    assert 0 <= made.state.eval_metric_values["MulticlassAccuracy"] <= 1


@rows
def test_it_trains_the_same_way_twice(row):
    results = []
    for _ in range(2):
        made = trainer(row.model(), row.make())
        made.fit()
        results.append(weights(made.state.model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("row", [pytest.param(r, marks=[pytest.mark.slow] * r.slow_to_resume, id=r.name) for r in ROWS])
def test_it_resumes_from_every_batch(row, tmp_path):
    assert resumes_from_every_batch(tmp_path, row.make, model=row.model) >= 3 * RUN - 1


@rows
def test_evaluation_and_prediction_see_the_users_model(row):
    """Between training steps the model gives the logits that its parameters give without mixplug."""
    made = trainer(row.model(), row.make(), eval_dataloader=loader())
    made.fit()
    plain = row.model().module
    plain.load_state_dict(made.state.model.module.state_dict(), strict=True)
    model = made.state.model
    model.eval()
    plain.eval()
    data = loader()
    predicted = made.predict(data)
    with torch.no_grad():
        for (x, y), prediction in zip(data, predicted, strict=True):
            assert torch.equal(model((x, y)), plain(x))
            assert torch.equal(prediction, plain(x))
        right = sum((plain(x).argmax(1) == y).sum() for x, y in data)
    assert made.state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(float(right) / len(data.dataset))


@rows
def test_its_repr_names_its_settings(row):
    for algorithm in row.make():
        assert repr(algorithm).startswith(type(algorithm).__name__ + "(")
        assert " object at 0x" not in repr(algorithm)
