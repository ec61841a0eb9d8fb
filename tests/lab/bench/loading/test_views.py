from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mixplug import ViewRecipe, Views
from mixplug.lab.bench.loading import views as views_benchmark
from mixplug.lab.bench.loading.images import MEAN, STD, noise_images
from mixplug.lab.bench.loading.rates import Rates
from mixplug.lab.bench.loading.views import ViewPairs, main, torchvision_pairs, torchvision_view

TINY = ["--images", "6", "--size", "8", "--batch-size", "4", "--repeats", "2"]


def test_both_make_two_views_of_all_images():
    noise, labels = noise_images(6, 8)
    views = Views("byol")
    for pairs in (ViewPairs(noise, labels, 4, views), torchvision_pairs(noise, labels, 4, views.recipes)):
        batches = list(pairs)
        assert [[tuple(view.shape) for view in batch] for batch in batches] == [[(4, 3, 8, 8)] * 2, [(2, 3, 8, 8)] * 2]
        assert not torch.equal(*batches[0])


@pytest.mark.parametrize("which", [0, 1])
def test_both_have_the_same_settings(which):
    """Mean and spread of normalised views of one smooth image, of a recipe with all there is."""
    image = torch.linspace(0, 255, 16 * 16 * 3).view(16, 16, 3).sort(0, descending=True).values.byte()
    views = Views("byol").normalised_by(MEAN, STD)
    transform = torchvision_view(views.recipes[which], 16)
    pixels = image.permute(2, 0, 1) / 255
    normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.manual_seed(0)
    theirs = torch.stack([transform(Image.fromarray(image.numpy())) for _ in range(300)])
    ours = torch.cat([views(normalised.expand(10, -1, -1, -1), which) for _ in range(60)])
    for what in (lambda some: some.mean((1, 2, 3)), lambda some: some.std((2, 3)).mean(1)):
        mine, other = what(ours), what(theirs)
        assert abs(mine.mean() - other.mean()) < 5 * math.sqrt(mine.var() / 600 + other.var() / 300)
        assert 0.75 < mine.std() / other.std() < 1.33


def test_what_is_turned_off_is_not_there():
    recipe = ViewRecipe((1.0, 1.0), (1.0, 1.0), flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    image = Image.fromarray(noise_images(1, 8)[0][0].permute(1, 2, 0).numpy())
    expected = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)).div(
        torch.tensor(STD).view(3, 1, 1)
    )
    torch.testing.assert_close(torchvision_view(recipe, 8)(image), expected)


def test_it_measures(capsys):
    assert main([*TINY, "--views", "byol", "--no-blur"]) == 0
    out = capsys.readouterr().out
    assert "6 images of 3x8x8, batches of 4, 2 passes by turns, cpu" in out
    assert "Two views of each, byol without blur" in out
    assert re.search(r"^Views +[\d,]+ images/s \(quartiles", out, re.MULTILINE)
    assert re.search(r"^ratio +\d+\.\d \(quartiles", out, re.MULTILINE)


def test_it_may_fail(monkeypatch, capsys):
    monkeypatch.setattr(views_benchmark, "measure", lambda *_: Rates([50.0], [10.0], "Views"))
    assert main([*TINY, "--at-least", "5"]) == 0
    assert main([*TINY, "--at-least", "5.1"]) == 1
    assert "the ratio is below 5.1" in capsys.readouterr().err


def test_bad_input(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, "--views", "simsian"])
    assert stopped.value.code == 2
    assert "did you mean 'simsiam'" in capsys.readouterr().err
