"""What the README shows of recipes, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import image_files

from mixplug.cli import main

README = Path(__file__).parent.parent / "README.md"


def test_from_a_folder_of_images_to_a_table(tmp_path, monkeypatch, capsys):
    section = README.read_text().split("## Your own images")[1]
    text = re.search(r"```yaml\n(.*?)```", section, re.DOTALL).group(1)
    assert len(text.splitlines()) < 25
    image_files.train_and_test(tmp_path / "flowers", classes=("daisy", "rose", "tulip"), count=8, size=(90, 70))
    (tmp_path / "flowers.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    # As it stands there but for its length: 2 epochs, one of them merged, in place of 30.
    assert main(["compare", "flowers.yaml", "epochs=2", "data.batch_size=6", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    for label in ("SL", "SSL+SL (input)", "MixTraining (input)", "MixTraining (input, ramps)", "1+1+1 ep"):
        assert label in printed
    assert "features" not in printed
    assert "paper" not in printed.lower(), "the paper has no figures for flowers"
    assert (tmp_path / "runs" / "flowers" / "pareto.png").exists()
