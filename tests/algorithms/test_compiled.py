"""torch.compile through the Trainer's ``compile_config``: it agrees with eager, and compiles once for each phase."""

from __future__ import annotations

import pytest
import torch
from composer.core import Callback
from shared.settings import classifier, logged, trainer
from shared.tiny import loader
from torch._dynamo.testing import CompileCounterWithBackend

from mixplug import MAE, MixTraining, Ramp

OBJECTIVES = {
    "features": lambda: MAE("features"),
    "input": lambda: MAE("input"),
    "input, ramp": lambda: MAE("input", mask_ratio=Ramp(0.75, 0.0)),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Compilations(Callback):
    """The number of compilations so far, after each batch."""

    def __init__(self, counter):
        self.counter, self.seen = counter, []

    def batch_end(self, state, logger):
        self.seen.append(self.counter.frame_count)


def run(objective, evaluate_before=False, **options):
    made = trainer(
        classifier(),
        [MixTraining(objective=objective)],
        train_dataloader=loader(24),
        eval_dataloader=loader(24),
        **options,
    )
    if evaluate_before:
        made.eval()
    made.fit()
    return made


def compilations_by_phase(objective, **options):
    counter = CompileCounterWithBackend("aot_eager")
    count = Compilations(counter)
    made = run(objective, compile_config={"backend": counter, "fullgraph": True}, callbacks=[count], **options)
    phases = [int(phase) for phase in logged(made, "mixtraining/phase")]
    new = [now - before for before, now in zip([0, *count.seen], count.seen, strict=False)]
    return made, {phase: [n for n, p in zip(new, phases, strict=True) if p == phase] for phase in (0, 1, 2)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "features")) for name in OBJECTIVES]
)
def test_it_agrees_with_eager_and_compiles_at_most_once_in_a_phase(name):
    compiled, new = compilations_by_phase(OBJECTIVES[name](), eval_interval=0)
    eager = run(OBJECTIVES[name](), eval_interval=0)
    expected = logged(eager, "loss/train/total")
    assert logged(compiled, "loss/train/total") == pytest.approx(expected, rel=1e-4)
    # SSL and MIX are one graph: phases are weights. A ramp makes the number of tokens a symbol, at its first step.
    assert new[0] == [1, 0, 0, 0, 0, 0]
    assert sorted(new[1]) == [0, 0, 0, 0, 0, int("ramp" in name)]
    assert new[2] == [1, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_a_second_pass_stays_outside_of_the_graph():
    """The classifier's pass over all patches is a graph of its own in MIX; the decoder's pass is not compiled."""
    made, new = compilations_by_phase(MAE("input", fused=False), eval_interval=0)
    eager = run(MAE("input", fused=False), eval_interval=0)
    assert logged(made, "loss/train/total") == pytest.approx(logged(eager, "loss/train/total"), rel=1e-4)
    assert [sum(compilations) for compilations in new.values()] == [1, 1, 1]


def test_evaluation_before_and_between_compiles_once_more():
    """What was compiled without the adapter is not used with it."""
    _, new = compilations_by_phase(MAE("input"), evaluate_before=True)
    assert sum(map(sum, new.values())) == 4
    assert new[2][1:] == [0] * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["features", "input"])
def test_the_default_compiler_agrees_with_eager(name):
    """``compile_config={}`` but for the random numbers, which inductor would draw in its own way."""
    compiled = run(OBJECTIVES[name](), compile_config={"options": {"fallback_random": True}})
    expected = logged(run(OBJECTIVES[name]()), "loss/train/total")
    assert logged(compiled, "loss/train/total") == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_the_default_compiler_trains():
    made = run(MAE("input"), compile_config={})
    assert torch.tensor(logged(made, "loss/train/total")).isfinite().all()
