"""Encoders of the user's own: images by any argument, features in any structure."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from shared.tiny import images
from shared.two_view import OBJECTIVES, tiny_cnn
from torch import nn

from mixplug import PassRequest, Phase, Position, SideBySide, backbone_of
from mixplug.training.encoder_pass import EncoderPass


class ModelOutput(OrderedDict):
    """As Hugging Face's: a mapping whose values are attributes too."""

    def __getattr__(self, name):
        return self[name]


@dataclass
class Output:
    logits: torch.Tensor
    last_hidden_state: torch.Tensor
    kept: Any = None


Named = namedtuple("Named", ["last_hidden_state", "pooled"])
OUTPUTS = {
    "tensor": (lambda f, p: f, lambda out: out),
    "dict": (lambda f, p: {"pooled": p, "features": f}, lambda out: out["features"]),
    "tuple": (lambda f, p: (f, p), lambda out: out[0]),
    "list": (lambda f, p: [[p, None], f], lambda out: out[1]),
    "namedtuple": (Named, lambda out: out.last_hidden_state),
    "dataclass": (lambda f, p: Output(p[:, :3], f), lambda out: out.last_hidden_state),
    "Hugging Face": (lambda f, p: ModelOutput(last_hidden_state=f, pooler_output=p), lambda o: o.last_hidden_state),
}


class Encoder(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 2))
        self.made = made

    def forward(self, *, pixel_values, scale=1.0):
        features = scale * self.layers(pixel_values)
        return self.made(features, 2 * features.amax(dim=(2, 3)))


class Whole(nn.Module):
    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        made, self.read = OUTPUTS[name]
        self.encoder = Encoder(made)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.read(self.encoder(scale=1.0, pixel_values=x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_encoder_called_by_keyword_that_returns_a_structure(name):
    model = Whole(name)
    x, more = images(3), images(5, seed=9)
    expected = model(x)
    features = model.encoder.layers(torch.cat([x, more])).mean(dim=(2, 3))
    backbone = backbone_of(model, "encoder")
    side = SideBySide()
    side.images = more
    passes = EncoderPass(backbone)
    passes.add(side)
    with passes.watch(Position("mix")) as seen:
        logits = model(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(seen.features, features)
    torch.testing.assert_close(backbone.features_of(x), features[:3])
    torch.testing.assert_close(backbone.frozen_copy()(x), features[:3])
    objective = OBJECTIVES["MoCoV3"]().build(backbone)
    with backbone.watch(objective.request(Phase.SSL)) as seen:
        model(x)
    assert objective(seen).isfinite()


def test_an_output_without_features_says_what_is_wanted():
    model = Whole("dict")
    model.encoder.made = lambda features, pooled: {"logits": pooled[:, :3], "count": 3}
    with pytest.raises(ValueError, match=r"gives a dict of \{'output.logits': \(2, 3\)\}, .*\(B, N, 8\)"):
        backbone_of(model, "encoder").features_of(images(2))


def test_a_call_without_images_says_what_there_was():
    model = Whole("tensor")
    backbone = backbone_of(model, "encoder")
    with (
        pytest.raises(ValueError, match=r"without images .*\{'pixel_values': \(2, 64\), 'scale': 'float'\}"),
        backbone.watch(PassRequest(Phase.SSL)),
    ):
        model.encoder(pixel_values=images(2, 64), scale=1.0)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny_cnn()

    def forward(self, x):
        return self.net.forward_head(self.net.forward_features(x=x))


def test_timms_own_features_by_keyword():
    model = ByKeyword().eval()
    x = images(3)
    with backbone_of(model).watch(PassRequest(Phase.SSL)) as seen:
        model(x)
    torch.testing.assert_close(seen.output, model.net.forward_features(x))


def test_a_model_that_was_compiled_and_ran_before_is_told_of():
    model = torch.compile(tiny_cnn(), backend="eager")
    model(images(2))
    backbone = backbone_of(model)
    with (
        pytest.raises(RuntimeError, match=r"ran its backbone 0 times .*torch.compiler.reset\(\)"),
        backbone.watch(PassRequest(Phase.SSL)),
    ):
        model(images(2))
    torch.compiler.reset()
    with backbone.watch(PassRequest(Phase.SSL)) as seen:
        model(images(2))
    assert seen.runs == 1
