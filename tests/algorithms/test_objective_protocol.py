"""A two-view objective, as the protocol's docstring sketches it, runs through the same algorithms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from composer.core import Callback
from shared.settings import classifier, logged, trainer
from torch import nn

from mixplug import MixTraining, Objective, PassRequest, Phase


class TwoViews(Objective):
    """SimSiam (Chen and He, 2021) on the class token, with a flip for an augmentation."""

    def build(self, backbone):
        if not hasattr(self, "project"):
            self.project = nn.Sequential(nn.Linear(backbone.embed_dim, 8), nn.ReLU(), nn.Linear(8, 8))
            self.predict = nn.Linear(8, 8)
        return self

    def augment(self, images):
        return images.flip(-1)

    def first_view(self, images, seen):
        return self.augment(images)

    def request(self, position):
        return PassRequest(position, view=self.first_view if position.phase is Phase.SSL else None)

    def forward(self, seen):
        other = seen.encode(self.augment(seen.source))
        one, two = (self.project(left.features) for left in (seen, other))
        pairs = ((self.predict(one), two.detach()), (self.predict(two), one.detach()))
        return -sum(F.cosine_similarity(p, z).mean() for p, z in pairs) / 2


class Passes(Callback):
    def __init__(self):
        self.seen = []

    def batch_end(self, state, logger):
        self.seen.append(state.model.passes)
        state.model.passes = []


def test_it_trains_in_all_phases_with_one_pass_more_than_the_shared_one():
    model = classifier()
    model.passes = []
    model.module.patch_embed.register_forward_pre_hook(lambda m, args: model.passes.append(args[0].clone()))
    passes = Passes()
    made = trainer(model, [MixTraining(0.5, objective=TwoViews())], callbacks=[passes])
    made.fit()
    phases = [int(p) for p in logged(made, "mixtraining/phase")]
    assert [len(p) for p in passes.seen] == [2 if phase < 2 else 1 for phase in phases]
    for phase, seen in zip(phases, passes.seen, strict=True):
        if phase == 1:
            assert torch.equal(seen[0].flip(-1), seen[1])
    ssl = torch.tensor(logged(made, "loss/train/ssl"))
    assert ssl[:12].isfinite().all()
    assert ssl[12:].isnan().all()
    assert "ssl_objective.project.0.weight" in model.state_dict()
