"""Population based training: how settings change, and a whole population under a real Ray."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cdal.config import Config
from tune.proposing import Space
from tune.proposing.space import parse
from tune.stopping import PopulationTraining, mutable
from tune.stopping.population import mutate
from tune.trials import TrialSettings


def space() -> Space:
    parameters = {
        "diffusion.timesteps": {"values": [1, 2, 4]},
        "loss.soft_dice": {"min": 0.0, "max": 1.0},
        "loss.r1_interval": {"values": [1, 5, 10]},
        "optimiser.lr_generator": {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform"},
    }
    return parse({"dataset": "phantom", "parameters": parameters}, "test.yaml")


@pytest.mark.long
def test_only_loss_weights_and_learning_rates_change_and_stay_in_range() -> None:
    config = space().config({"loss.soft_dice": 0.9, "optimiser.lr_generator": 9e-3, "loss.r1_interval": 10})
    rng = np.random.default_rng(0)
    drawn = [mutate(space(), config.to_dict(), rng) for _ in range(200)]
    assert mutable(space()) == ["loss.soft_dice", "loss.r1_interval", "optimiser.lr_generator"]
    assert all(set(values) == set(mutable(space())) for values in drawn)
    assert all(space().contains({"diffusion.timesteps": 1} | values) for values in drawn)
    rates = np.array([values["optimiser.lr_generator"] for values in drawn])
    assert 0.2 < np.mean(np.isclose(rates, 0.8 * 9e-3)) < 0.6  # a quarter is drawn afresh, the others go either way
    assert np.isclose(rates.max(), 1e-2)
    assert {values["loss.r1_interval"] for values in drawn} == {1, 5, 10}


def test_a_copy_keeps_its_own_number_and_folder() -> None:
    def trial(number: int) -> Any:
        config = space().config({"diffusion.timesteps": number}).to_dict()
        settings = TrialSettings(
            number=number, kind="searched", config=config, dataset="phantom", options={}, data=None, fold=0, folder=f"/{number}"
        )
        return SimpleNamespace(config={"number": number, "kind": "searched", "settings": settings.to_json()})

    scheduler = PopulationTraining(space(), interval=1, seed=0)
    changed, _ = scheduler._get_new_config(trial(1), trial(4))
    settings = TrialSettings.from_json(changed["settings"])
    assert (changed["number"], settings.number, settings.folder, settings.parent) == (1, 1, "/1", 4)
    config = Config.from_dict(settings.config)
    assert config.diffusion.timesteps == 4  # the donor's
    assert config != Config.from_dict(json.loads(trial(4).config["settings"])["config"])
