from __future__ import annotations

import pytest
import torch
import torchvision
from timm.models import create_model

from mixplug import small_image_stem


@pytest.mark.parametrize(
    "make", [lambda: create_model("resnet18", num_classes=3), lambda: torchvision.models.resnet18(num_classes=3)]
)
def test_a_residual_network_keeps_small_images_large(make):
    model = make()
    before = {name: value.shape for name, value in model.state_dict().items()}
    maps = []
    model.layer4.register_forward_hook(lambda m, args, out: maps.append(tuple(out.shape)))
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
        assert small_image_stem(model) is model
        model(torch.zeros(2, 3, 32, 32))
    assert maps == [(2, 512, 1, 1), (2, 512, 4, 4)]
    after = {name: value.shape for name, value in model.state_dict().items()}
    assert {name for name in before if before[name] != after[name]} == {"conv1.weight"}
    assert set(before) == set(after)
    assert 0.8 < float(model.conv1.weight.std() / (2 / (9 * 64)) ** 0.5) < 1.2


def test_a_network_with_another_stem_is_refused():
    with pytest.raises(TypeError, match=r"has no single convolution conv1 .* patch_size=2 for a ConvNeXt"):
        small_image_stem(create_model("convnext_atto"))
