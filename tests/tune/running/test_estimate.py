"""What a search is expected to take, before it starts."""

from typing import Any

import pytest

from cdal.data import open_dataset
from tune.proposing.space import parse
from tune.running.estimate import Forecast, Pace, Paces, calibrate, duration, expected_epochs, forecast

PACE = Pace(epoch=90.0, scoring=100.0)  # a whole trial of ten epochs takes 1,000 s
COMMON: dict[str, Any] = {"scheduler": "asha", "epochs": 10, "grace": 2, "controls": 2, "at_once": 4, "gpus": 2}


def whole(published: Pace = PACE, **changes: Any) -> Forecast:
    unlimited = {"trials": None, "seconds": None, "gpu_hours": None, "price": None}
    return forecast(Paces(PACE, published), **COMMON | unlimited | changes)


def test_stopping_shortens_the_average_trial() -> None:
    assert expected_epochs("none", 10, 2) == 10
    assert expected_epochs("asha", 10, 2) == pytest.approx(2 + 4 / 3 + 4 / 9)  # rungs at 2 and 6
    assert expected_epochs("hedged", 10, 2) == pytest.approx((10 + 3 * (2 + 4 / 3 + 4 / 9)) / 4)
    assert expected_epochs("median", 10, 2) == 6


def test_trials_give_time_and_money() -> None:
    found = whole(trials=42, price=2.0)
    share = (2 + 4 / 3 + 4 / 9) / 10
    assert found.seconds == pytest.approx((2 + 40 * share) * 1000 / 4)
    assert found.most_seconds == pytest.approx(42 * 1000 / 4)
    assert "GPU-hours, costs" in str(found)
    assert f"{8 * found.seconds / 3600 * 2.0:.2f}" in str(found)


def test_slow_published_settings_count_once() -> None:
    slow, share = Pace(epoch=990.0, scoring=100.0), (2 + 4 / 3 + 4 / 9) / 10  # ten times as slow as the others
    found = whole(slow, trials=42)
    assert found.seconds == pytest.approx(10_000)  # the others have ended on other workers when they end
    assert found.most_seconds == pytest.approx((10 + 41) * 1000 / 4)
    assert str(found).startswith("a whole trial takes about 16.7 min, the published settings 2.8 h; 42 trials about 2.8 h (")
    assert "published" not in str(whole(trials=42))
    assert whole(slow, trials=1).seconds == pytest.approx(10_000)
    assert whole(slow, seconds=5000.0).trials == round(2 + (15 - 1) / share)  # it holds one of the workers all the time
    assert whole(slow, seconds=5000.0, at_once=1).trials == 1


def test_budgets_give_trials() -> None:
    assert whole(seconds=5000.0).trials == round(2 + (20 - 2) / ((2 + 4 / 3 + 4 / 9) / 10))
    assert whole(gpu_hours=8 * 5000 / 3600).trials == whole(seconds=5000.0).trials
    assert whole(seconds=5000.0, trials=42).seconds <= 5000.0
    assert whole(scheduler="none", seconds=5000.0).trials == 20
    assert whole(seconds=100.0).trials == 1


def test_without_gpus_no_price_is_told() -> None:
    assert "GPU" not in str(whole(trials=8, gpus=0, price=2.0))


def test_durations_have_the_unit_that_suits_them() -> None:
    assert [duration(seconds) for seconds in (2.34, 45.6, 600, 9000)] == ["2.3 s", "46 s", "10.0 min", "2.5 h"]


def test_a_short_calibration_times_steps_and_cases() -> None:
    fixed = {"model.width_multipliers": [1], "model.encoder_blocks": 0, "model.discriminator_width": 8, "training.batch_size": 4}
    fixed |= {"training.samples_per_case": 1, "evaluation.window": "whole", "evaluation.blend": "soft"}
    content = {"dataset": "phantom", "fixed": fixed, "parameters": {"diffusion.timesteps": {"values": [1, 2]}}}
    dataset = open_dataset("phantom", size=16, cases=8, classes=1)
    config = parse(content, "test.yaml").fitted(dataset.spec).base
    short, long = (
        calibrate(config.replace({"training.steps_per_epoch": steps}), dataset, fold=0, device="cpu") for steps in (2, 2000)
    )
    assert short.scoring > 0
    assert long.epoch > 20 * short.epoch > 0
