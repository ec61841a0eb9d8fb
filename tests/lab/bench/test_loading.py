from __future__ import annotations

import pytest
import torch

from mixplug import Views
from mixplug.lab.bench import loading
from mixplug.lab.bench.loading import main, measure

TINY = ["--images", "6", "--size", "8", "--batch-size", "4", "--repeats", "3", "--views", "byol"]


def test_both_ways_make_the_same_batches_of_all_images(monkeypatch):
    passes = []

    def note(batches, _):
        passes.append([[tuple(part.shape) for part in batch if part.is_floating_point()] for batch in batches])
        return 1.0

    monkeypatch.setattr(loading, "_pass_over", note)
    measure(torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), 4, 1, Views("byol"), torch.device("cpu"))
    first, last = (4, 3, 8, 8), (2, 3, 8, 8)
    one, two = [[first], [last]], [[first, first], [last, last]]
    assert passes == [one, one, two, two] * 2, "once to warm up, and once"


def test_it_measures(monkeypatch, capsys):
    """By a clock on which ours take a second or two, and torchvision's 4, then 5, then 6, and two."""
    seconds = iter([1, 9, 1, 9, *(1, 4, 2, 2), *(1, 5, 2, 2), *(1, 6, 2, 2)])
    monkeypatch.setattr(loading, "_pass_over", lambda *_: next(seconds))
    assert main(TINY) == 0
    out = capsys.readouterr().out
    assert "6 images of 3x8x8, batches of 4, views byol, cpu" in out
    assert "| ImageLoader: crop, flip | 6 (6 to 6) | 1 (1 to 1) | 5.0 (4.5 to 5.5) |" in out
    assert "| Views: two of each image | 3 (3 to 3) | 3 (3 to 3) | 1.0 (1.0 to 1.0) |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be a whole number of at least 1, got 0"),
        (["--views", "simsian"], "did you mean 'simsiam'"),
        (["--device", "gpu9"], "gpu9"),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
