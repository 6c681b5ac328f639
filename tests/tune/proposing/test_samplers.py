"""Samplers by name."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from cdal.errors import InputError
from tune.proposing import SAMPLERS
from tune.proposing.samplers import make_sampler
from tune.proposing.told import DRAWN, ENDED

FIELDS = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}


def search(name: str, trials: int, objectives: int = 1, seed: int = 0) -> list[tuple[float, float]]:
    """Values proposed for a smooth objective with its optimum at (0.3, 0.01)."""
    study = optuna.create_study(directions=["maximize", "minimize"][:objectives])
    sampler = make_sampler(name, seed=seed, startup=6, fields=FIELDS, objectives=objectives)
    found = []
    for number in range(trials):
        study.sampler = sampler(number, number)
        trial = study.ask()
        trial.set_user_attr(DRAWN, number)
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 1e-4, 1, log=True)
        dice = float(np.exp(-((x - 0.3) ** 2) - (np.log10(y) + 2) ** 2 / 10))
        if objectives == 1:
            trial.report(dice, 1)
        trial.set_user_attr(ENDED, number)
        study.tell(trial, [dice, x][:objectives])
        found.append((x, y))
    return found


def distance(points: list[tuple[float, float]]) -> float:
    return float(np.mean([abs(x - 0.3) + abs(np.log10(y) + 2) / 4 for x, y in points]))


@pytest.mark.parametrize("name", ["curves", "tpe", "cmaes", "nsga2"])
def test_models_come_closer_than_chance(name: str) -> None:
    trials = {"curves": 30, "nsga2": 120}.get(name, 60)
    assert distance(search(name, trials)[-20:]) < 0.6 * distance(search("random", trials)[-20:])


def test_every_other_proposal_of_curves_is_spread_whatever_the_model_says() -> None:
    proposed, spread, random = search("curves", 60), search("quasirandom", 60), search("random", 60)
    assert proposed[7::2] == spread[7::2]
    assert distance(proposed[-20::2]) < 0.3 * distance(random[-20:])


def test_the_gaussian_process_comes_closer_than_chance() -> None:
    assert distance(search("gp", 18)[-6:]) < 0.6 * distance(search("random", 60))


def test_quasirandom_points_are_spread_more_evenly_than_random_ones() -> None:
    def cells(points: list[tuple[float, float]]) -> int:
        return len({(int(x * 8), int((np.log10(y) + 4) * 2)) for x, y in points})

    assert cells(search("quasirandom", 64)) > cells(search("random", 64)) + 8


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_proposal_depends_on_the_seed_alone(name: str) -> None:
    assert search(name, 8) == search(name, 8)
    assert search(name, 8) != search(name, 8, seed=1)


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.several_objectives and name != "gp"])
def test_several_objectives(name: str) -> None:
    assert len(search(name, 12, objectives=2)) == 12


def test_wrong_names_are_told() -> None:
    with pytest.raises(InputError, match=r"--sampler is 'tep'; samplers are curves, tpe"):
        make_sampler("tep", seed=0, startup=4, fields=FIELDS)
    with pytest.raises(InputError, match=r"cmaes, which has one objective only; with several take one of tpe"):
        make_sampler("cmaes", seed=0, startup=4, fields=FIELDS, objectives=2)
    assert all(sampler.advice for sampler in SAMPLERS.values())
