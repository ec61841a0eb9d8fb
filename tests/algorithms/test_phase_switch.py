from __future__ import annotations

import pytest
import torch
from composer.core import Time
from shared.settings import logged, trainer, weights
from shared.tiny import loader

from mixplug import MixTraining, PhaseScheduler, PhaseSwitch


def phases(made):
    return [int(p) for p in logged(made, "mixtraining/phase")]


@pytest.mark.parametrize("total", [2, 3, 5, 8])
@pytest.mark.parametrize("rho", [0, 0.5, 1])
def test_max_duration_is_what_runs(total, rho):
    made = trainer(algorithms=[MixTraining(rho)], max_duration=f"{total}ep")
    made.fit()
    assert made.state.timestamp.epoch == total
    assert len(phases(made)) == 3 * total


def test_phases_in_batches_switch_in_mid_epoch():
    made = trainer(algorithms=[MixTraining(0.5, ssl_duration="4ba", sl_duration="6ba")], max_duration="8ba")
    made.fit()
    assert phases(made) == [0, 0, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("durations", [("4ep", "6ep"), (4, 6), (Time.from_epoch(4), Time.from_epoch(6))])
def test_durations_as_composer_takes_them(durations):
    made = trainer(algorithms=[MixTraining(0.5, 0.5, *durations)], max_duration="8ep")
    made.fit()
    assert phases(made) == [0] * 6 + [1] * 6 + [2] * 12


@pytest.mark.parametrize("max_duration", ["150ep", "9ep", "8ba"])
def test_durations_that_do_not_fit_name_the_one_that_does(max_duration):
    with pytest.raises(ValueError, match="set max_duration='8ep'"):
        trainer(algorithms=[MixTraining(0.5, 0.5, "4ep", "6ep")], max_duration=max_duration)


def test_durations_that_do_not_fit_a_later_fit():
    made = trainer(algorithms=[MixTraining(0.5, 0.5, "4ep", "6ep")], max_duration=None)
    with pytest.raises(ValueError, match="set max_duration='8ep'"):
        made.fit(duration="9ep")
    made.fit(duration="8ep")
    assert phases(made) == [0] * 6 + [1] * 6 + [2] * 12


def test_a_run_too_short_to_divide():
    with pytest.raises(ValueError, match="no room"):
        trainer(algorithms=[MixTraining()], max_duration="1ep")


@pytest.mark.parametrize("unit", ["100sp", "100tok"])
def test_other_units_are_refused(unit):
    with pytest.raises(ValueError, match=r"must be in epochs \('ep'\) or batches \('ba'\)"):
        trainer(algorithms=[MixTraining()], max_duration=unit)


@pytest.mark.parametrize("kind", [MixTraining, PhaseSwitch])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rho": -0.1}, ValueError, r"rho must be a number in \[0, 1\], got -0.1"),
        ({"rho": 1.5}, ValueError, "rho"),
        ({"rho": float("nan")}, ValueError, "rho"),
        ({"rho": "0.5"}, TypeError, "without quotes"),
        ({"ssl_duration": "0ep", "sl_duration": "0ep"}, ValueError, "leave nothing to train; .* at least '1ep'"),
        ({"ssl_duration": 5, "sl_duration": -1}, ValueError, "sl_duration must be whole epochs .* at least 0; got -1"),
        ({"ssl_duration": "5", "sl_duration": "5ep"}, ValueError, "ssl_duration must be"),
        ({"ssl_duration": "5 epochs", "sl_duration": "5ep"}, ValueError, "ssl_duration must be like '100ep'"),
        ({"ssl_duration": 2.5, "sl_duration": "5ep"}, TypeError, "ssl_duration must be like"),
        ({"ssl_duration": "5sp", "sl_duration": "5sp"}, ValueError, "epochs .* or batches"),
        ({"ssl_duration": "5ep"}, ValueError, "both ssl_duration and sl_duration or neither"),
        ({"ssl_duration": "5ep", "sl_duration": "5ba"}, ValueError, "one unit"),
    ],
)
def test_bad_options_are_refused_at_construction(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(**options)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_a_bad_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\]"):
        MixTraining(alpha=alpha)


def test_an_alpha_that_is_no_number():
    with pytest.raises(TypeError, match="alpha"):
        MixTraining(alpha="0.5")


def test_an_empty_train_dataloader():
    made = trainer(algorithms=[MixTraining()], train_dataloader=loader(4, batch_size=8, drop_last=True))
    with pytest.raises(ValueError, match="train_dataloader is empty"):
        made.fit()


def test_dividing_a_run_anew_in_its_middle_is_refused():
    made = trainer(algorithms=[MixTraining()], max_duration=None)
    made.fit(duration="3ep")
    with pytest.raises(ValueError, match=r"planned for '3ep'.*max_duration='6ep'"):
        made.fit(duration="3ep")


@pytest.mark.parametrize("piece", ["1ep", "2ep", "3ep"])
def test_a_run_in_pieces_is_the_run(piece):
    """A Trainer built with the whole length may train it fit by fit."""
    options = {"max_duration": "6ep", "schedulers": PhaseScheduler()}
    whole = trainer(algorithms=[MixTraining(reset_optimizer=True)], **options)
    whole.fit()
    pieces = trainer(algorithms=[MixTraining(reset_optimizer=True)], **options)
    while pieces.state.timestamp.epoch < 6:
        pieces.fit(duration=piece)
    assert pieces.state.timestamp.batch == whole.state.timestamp.batch
    for name, value in weights(whole.state.model).items():
        assert torch.equal(value, weights(pieces.state.model)[name]), name
    with pytest.raises(ValueError, match=r"planned for '6ep'.*max_duration='7ep'"):
        pieces.fit(duration="1ep")


def test_a_piece_in_another_unit_is_refused():
    with pytest.raises(ValueError, match="planned for '6ep', so a fit\\(\\) must be in the same unit; '3ba' is not"):
        trainer(algorithms=[MixTraining()]).fit(duration="3ba")


def test_a_piece_of_a_run_is_announced():
    with pytest.warns(UserWarning, match="ends at '2ep', while the phases are planned for '6ep'"):
        trainer(algorithms=[MixTraining()]).fit(duration="2ep")


def test_a_run_too_short_for_a_mix_phase_says_so():
    made = trainer(algorithms=[MixTraining(0.4, ssl_duration="1ba", sl_duration="2ba")], max_duration="3ba")
    with pytest.warns(UserWarning, match=r"no MIX phase.*rho=0.4 of 1 is less than one. Train for at least 3 of each"):
        made.fit()


@pytest.mark.parametrize(("rho", "ssl", "sl"), [(0, "1ba", "2ba"), (0.4, "0ba", "3ba"), (0.4, "3ba", "0ba")])
def test_a_run_that_is_meant_to_have_none_does_not(recwarn, rho, ssl, sl):
    trainer(algorithms=[MixTraining(rho, ssl_duration=ssl, sl_duration=sl)], max_duration="3ba").fit()
    assert not [warning for warning in recwarn if "MIX phase" in str(warning.message)]


def test_alone_it_leaves_the_loss_alone():
    plain, switched = trainer(), trainer(algorithms=[PhaseSwitch(0.5)])
    plain.fit()
    switched.fit()
    assert logged(plain, "loss/train/total") == logged(switched, "loss/train/total")
