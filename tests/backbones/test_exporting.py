from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from shared.tiny import images, tiny_vit

import mixplug


def test_a_checkpoints_own_model_without_its_wrappers_and_ssl_head(tmp_path):
    vit = tiny_vit()
    state = {f"_orig_mod.module.{name}": value for name, value in vit.state_dict().items()}
    state["_orig_mod.ssl_objective.head.weight"] = torch.ones(2)
    torch.save({"state": {"model": state}}, tmp_path / "x.pt")
    plain = tiny_vit(depth=2)
    torch.nn.init.zeros_(plain.head.weight)
    plain.load_state_dict(load_file(mixplug.export(tmp_path / "x.pt", tmp_path / "m.safetensors")), strict=True)
    assert torch.equal(plain.eval()(images(3)), vit.eval()(images(3)))


@pytest.mark.parametrize(
    ("source", "path", "error", "message"),
    [
        ("nowhere.pt", "m.safetensors", FileNotFoundError, "no checkpoint 'nowhere.pt'"),
        ("nowhere.pt", "m.pt", ValueError, "a .safetensors file"),
        (3, "m.safetensors", TypeError, "a Trainer or the path"),
    ],
)
def test_bad_input(source, path, error, message):
    with pytest.raises(error, match=message):
        mixplug.export(source, path)


def test_a_file_that_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no Composer checkpoint"):
        mixplug.export(tmp_path / "x.pt", tmp_path / "m.safetensors")
