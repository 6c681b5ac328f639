"""The surrogate repeats what was recorded and is close to a truth that it has not seen."""

from pathlib import Path

import numpy as np
import pytest
from recorded import EPOCHS, NOISE, settings, space, true_curve, true_seconds, write_lake

from cdal.errors import InputError
from tune.proposing.space import parse
from tune.rehearsal import Surrogate, families, read
from tune.results import create_experiment, load


def test_recorded_settings_answer_with_their_own_curves(tmp_path: Path) -> None:
    dice = write_lake(tmp_path)
    recording = read(load(tmp_path))
    surrogate = Surrogate(recording)
    assert len(recording.trials) == 40  # the U-Net is none of them
    assert recording.startup_seconds == 5.0
    assert recording.best == max(curve.max() for curve in dice)
    for trial, curve in zip(recording.trials, dice, strict=True):
        answer = surrogate.curve(trial.values, seed=3)
        np.testing.assert_array_equal(answer.dice, curve)
        assert answer.seconds == true_seconds(trial.values)
        assert answer.fails_after is None


def test_a_smooth_truth_is_foretold(tmp_path: Path) -> None:
    write_lake(tmp_path, tried=settings(60, seed=0))
    surrogate = Surrogate(read(load(tmp_path)))
    fresh = settings(100, seed=1)
    answers = [surrogate.curve(values, seed=0) for values in fresh]
    errors = [answer.dice - true_curve(values) for answer, values in zip(answers, fresh, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 3 * NOISE
    assert np.std([answer.dice[-1] for answer in answers]) > 10 * NOISE
    np.testing.assert_allclose([answer.seconds for answer in answers], [true_seconds(values) for values in fresh], rtol=0.05)
    assert surrogate.rank_correlation is not None
    assert surrogate.rank_correlation > 0.95


def test_noise_is_like_the_record_and_belongs_to_the_seed(tmp_path: Path) -> None:
    write_lake(tmp_path, tried=settings(60, seed=0))
    surrogate = Surrogate(read(load(tmp_path)))
    values = settings(1, seed=2)[0] | {"optimiser.lr_generator": 1e-3}
    last = [surrogate.curve(values, seed).dice[-1] for seed in range(50)]
    assert 0.3 * NOISE < np.std(last) < 3 * NOISE
    np.testing.assert_array_equal(surrogate.curve(values, 7).dice, surrogate.curve(values, 7).dice)


def test_stopped_curves_are_used_as_far_as_they_go(tmp_path: Path) -> None:
    tried = settings(60, seed=0)
    recorded = write_lake(tmp_path, tried=tried, stopped=0.5)
    cut = [index for index, curve in enumerate(recorded) if curve.size == 2]
    assert 15 < len(cut) < 45
    surrogate = Surrogate(read(load(tmp_path)))
    for index in cut:
        answer = surrogate.curve(tried[index], seed=0).dice
        np.testing.assert_array_equal(answer[:2], recorded[index])
        assert answer[-1] == pytest.approx(true_curve(tried[index])[-1], abs=0.15)
    fresh = settings(100, seed=1)
    errors = [surrogate.curve(values, seed=0).dice[-1] - true_curve(values)[-1] for values in fresh]
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_settings_fail_where_the_nearest_recorded_one_failed(tmp_path: Path) -> None:
    tried = settings(40, seed=0)
    too_fast = {index: 2 for index, values in enumerate(tried) if values["optimiser.lr_generator"] > 4e-3}
    assert len(too_fast) > 3
    write_lake(tmp_path, tried=tried, failed=too_fast)
    surrogate = Surrogate(read(load(tmp_path)))
    index = next(iter(too_fast))
    assert surrogate.curve(tried[index], seed=0).fails_after == 2
    assert surrogate.curve(tried[index] | {"optimiser.lr_generator": 9.9e-3}, seed=0).fails_after == 2
    assert surrogate.curve(tried[index] | {"optimiser.lr_generator": 1e-4}, seed=0).fails_after is None


def test_experiments_of_the_newest_ones_space_are_taken_together(tmp_path: Path) -> None:
    other = space(**{"loss.soft_dice": {"min": 0.0, "max": 2.0}})
    write_lake(tmp_path, "first")
    write_lake(tmp_path, "other", of=other)
    content = space().to_dict()
    seeded = parse(content | {"fixed": content["fixed"] | {"training.seed": 2}}, "another.yaml")  # the same space nevertheless
    write_lake(tmp_path, "second", of=seeded, seed=1)
    assert sorted(families(load(tmp_path))) == [["first", "second"], ["other"]]
    assert len(read(load(tmp_path)).trials) == 80
    assert len(read(load(tmp_path), ["first"]).trials) == 40
    assert read(load(tmp_path), ["other"]).space.parameters["loss.soft_dice"].high == 2.0
    with pytest.raises(InputError, match="first and other have different spaces"):
        read(load(tmp_path), ["first", "other"])


def test_too_little_is_refused(tmp_path: Path) -> None:
    create_experiment(tmp_path, "undescribed", {"dataset": "phantom"})
    with pytest.raises(InputError, match="says what its space is"):
        read(load(tmp_path))
    write_lake(tmp_path, "short", tried=settings(5, seed=0))
    with pytest.raises(InputError, match=r"short has 5 trials with curves, 5 of them whole; a rehearsal needs 16"):
        read(load(tmp_path))
    with pytest.raises(InputError, match="no experiment 'missing'; the lake holds short, undescribed"):
        read(load(tmp_path), ["missing"])
    with pytest.raises(InputError, match="undescribed"):
        read(load(tmp_path), ["undescribed"])
    write_lake(tmp_path, "stopped", stopped=2.0)
    with pytest.raises(InputError, match="40 trials with curves, 0 of them whole"):
        read(load(tmp_path), ["stopped"])


def test_a_curve_has_all_epochs(tmp_path: Path) -> None:
    write_lake(tmp_path, failed={0: 0, 1: 3})
    recording = read(load(tmp_path))
    surrogate = Surrogate(recording)
    for trial in recording.trials[:3]:
        answer = surrogate.curve(trial.values, seed=0)
        assert answer.dice.shape == (EPOCHS,)
        assert answer.seconds > 0
