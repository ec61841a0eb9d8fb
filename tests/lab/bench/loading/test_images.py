from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from mixplug.lab.bench.loading import images as benchmark
from mixplug.lab.bench.loading import rates
from mixplug.lab.bench.loading.images import MEAN, PADDING, STD, image_loader, main, torchvision_loader
from mixplug.lab.bench.loading.rates import Rates

TINY = ["--images", "6", "--size", "8", "--batch-size", "4", "--repeats", "3"]


def variants(image):
    """All that the recipe may make of an image, as bytes."""
    padded = TF.normalize(TF.pad(image, PADDING).float().div(255), MEAN, STD)
    height, width = image.shape[1:]
    offsets = range(2 * PADDING + 1)
    windows = [padded[:, i : i + height, j : j + width] for i in offsets for j in offsets]
    return {made.contiguous().numpy().tobytes() for window in windows for made in (window, window.flip(-1))}


@pytest.mark.parametrize("make", [image_loader, torchvision_loader])
def test_both_see_the_same_images_in_batches_of_the_same_kind(make):
    torch.manual_seed(0)
    images = torch.randint(1, 256, (6, 3, 5, 5), dtype=torch.uint8)
    known = [variants(image) for image in images]
    seen = []
    for batch, labels in make(images, torch.arange(6), 4):
        assert batch.dtype == torch.float32
        assert batch.shape == (len(labels), 3, 5, 5)
        assert all(made.numpy().tobytes() in known[label] for made, label in zip(batch, labels, strict=True))
        seen += labels.tolist()
    assert sorted(seen) == list(range(6))
    assert seen != list(range(6))


def test_the_ratio_is_that_of_each_repeat():
    measured = Rates(ours=[100.0, 330.0, 80.0], theirs=[10.0, 11.0, 40.0])
    assert measured.ratios == [10, 30, 2]
    assert measured.lines() == [
        "ImageLoader       100 images/s (quartiles 90 to 215)",
        "torchvision, PIL  11 images/s (quartiles 10 to 26)",
        "ratio             10.0 (quartiles 6.0 to 20.0)",
    ]


def test_it_measures(monkeypatch, capsys):
    """By a clock on which ImageLoader takes a second for a pass and torchvision 4, then 5, then 6."""
    readings = iter([0, 1, 10, 14, *(0, 1, 10, 14), *(0, 1, 10, 15), *(0, 1, 10, 16)])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(readings))
    assert main(TINY) == 0
    out = capsys.readouterr().out
    assert "6 images of 3x8x8, batches of 4, 3 passes over each by turns, cpu" in out
    assert re.search(r"^ImageLoader +6 images/s \(quartiles 6 to 6\)$", out, re.MULTILINE)
    assert re.search(r"^ratio +5\.0 \(quartiles 4\.5 to 5\.5\)$", out, re.MULTILINE)
    assert "threads used: 1" in out
    assert f"torch {torch.__version__.split('+')[0]}" in out


@pytest.mark.parametrize(("ratio", "code"), [("4.9", 0), ("5.0", 0), ("5.1", 1)])
def test_it_may_fail(ratio, code, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "measure", lambda *_: Rates([50.0], [10.0]))
    assert main([*TINY, "--at-least", ratio]) == code
    assert capsys.readouterr().err == ("" if code == 0 else "the ratio is below 5.1\n")


def test_the_real_clock_gives_finite_rates():
    measured = benchmark.measure(6, 8, 4, 2, torch.device("cpu"))
    assert np.isfinite(measured.ratios).all()
    assert len(measured.ratios) == 2
    assert min(measured.ours + measured.theirs) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be a whole number of at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be a whole number of at least 1, got 0"),
        (["--device", "gpu9"], "gpu9"),
        pytest.param(
            ["--device", "cuda"],
            "there is no GPU; use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
