"""The self-check passes what computes what the loops do, and finds what does not."""

from __future__ import annotations

import json

import pytest
import torch
from shared.small_recipes import EVEN, TINY, mixtraining, tiny

from mixplug.lab.bench import gate
from mixplug.lab.bench.gate import StepCheck, check_steps
from mixplug.lab.cli.main import main
from mixplug.lab.runs.experiment import Experiment

VIEWS = "views: {Views: {recipe: simsiam, blur: false}}"


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ("{objective: {MAE: {mask: input}}}", [1, 1, 1]),
        ("{objective: {MAE: {mask: input, fused: false}}}", [1, 2, 1]),
        ("{objective: {MAE: {mask: input, mask_ratio: {Ramp: {start: 0.75, stop: 0.25}}}}}", [1, 1, 1]),
        (f"{{objective: {{SimSiam: {{hidden_dim: 8, out_dim: 8, bottleneck_dim: 4, {VIEWS}}}}}}}", [2, 2, 1]),
    ],
)
def test_a_step_computes_what_the_loop_does(options, passes):
    checks = check_steps(tiny(*EVEN, "methods.ssl_sl=null", mixtraining(options)))
    assert [(check.label, check.phase) for check in checks] == [
        ("SL", "sl"),
        *(("MixTraining", phase) for phase in ("ssl", "mix", "sl")),
    ]
    assert all(check.passed for check in checks), checks
    assert [check.passes for check in checks[1:]] == passes
    assert checks[0].flops == checks[3].flops > 0


def test_hidden_tokens_are_hidden_in_the_loop_too():
    mae = mixtraining("{objective: {MAE: {mask: input}}}")
    whole = check_steps(tiny(*EVEN, "methods.ssl_sl=null", mae))
    for algorithms in (
        "[TokenDropout: {rate: 0.5, phases: [sl]}]",
        "[TokenDropout: {rate: {Ramp: {start: 0.75, stop: 0.0}}, phases: [sl]}]",
        "[PatchScaling: {size: 4, phases: [sl]}, TokenDropout: {rate: 0.5, phases: [sl]}]",
    ):
        checks = check_steps(tiny(*EVEN, "methods.ssl_sl=null", mae, f"algorithms={algorithms}"))
        assert all(check.passed for check in checks), (algorithms, checks)
        less = [check.flops < full.flops for check, full in zip(checks, whole, strict=True)]
        assert less == [True, False, False, True], algorithms


class WithAProductMore(Experiment):
    """The classifier runs twice."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.module.register_forward_hook(self.waste)

    def waste(self, module, _, logits):
        module.head(torch.zeros(len(logits), module.head.in_features))


class WithAPassMore(Experiment):
    """The first layer runs once more, on a single patch: by its operations alone it could be chance."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.module.register_forward_pre_hook(self.waste)

    def waste(self, module, arguments):
        embed = module.patch_embed.proj
        embed(torch.zeros(1, embed.in_channels, *embed.kernel_size))


@pytest.mark.parametrize("wasteful", [WithAProductMore, WithAPassMore])
def test_what_computes_more_is_found(wasteful, tmp_path, monkeypatch, capsys):
    arguments = ["bench", str(TINY), "methods.ssl_sl=null", "compile=inductor", "--quick"]
    assert main([*arguments, "--out", str(tmp_path / "well")]) == 0
    assert "NOT" not in capsys.readouterr().out
    monkeypatch.setattr(gate, "Experiment", wasteful)
    assert main([*arguments, "--out", str(tmp_path / "badly")]) == 1
    assert capsys.readouterr().out.count("NOT as the loop") == 4
    assert "NOT as the loop" in (tmp_path / "badly" / "checks.md").read_text()
    kept = [StepCheck(**check) for check in json.loads((tmp_path / "badly" / "checks.json").read_text())]
    assert [check.passed for check in kept] == [False] * 4


def test_a_check_of_nothing_does_not_pass(tmp_path, capsys):
    assert {check.passed for check in check_steps(tiny("algorithms=[LabelSmoothing]"))} == {None}
    assert main(["bench", str(TINY), "algorithms=[LabelSmoothing]", "--quick", "--out", str(tmp_path)]) == 2
    assert "found no phase with a loop" in capsys.readouterr().err
