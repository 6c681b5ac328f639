"""The project's own sampler: what it learns from curves that were cut."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tune.proposing import Axis, extrapolate, from_logit, to_logit
from tune.proposing.curve_sampler import Curves, CurveSampler

EPOCHS = 9


def draw(trial: optuna.Trial) -> dict[str, Any]:
    """Settings, best at rate 0.01, latent 32 and `wide`; `power` matters only where it is there, and is best at 0.8."""
    values: dict[str, Any] = {
        "rate": trial.suggest_float("rate", 1e-4, 1.0, log=True),
        "latent": trial.suggest_int("latent", 8, 128, log=True),
        "shape": trial.suggest_categorical("shape", ["narrow", "[1, 2]", "wide"]),
    }
    if values["shape"] == "wide":
        values["power"] = trial.suggest_float("power", 0.0, 1.0)
    return values


def final_dice(values: dict[str, Any]) -> float:
    missed = (np.log10(values["rate"]) + 2) ** 2 / 4 + np.log2(values["latent"] / 32) ** 2 / 8
    missed += {"narrow": 1.0, "[1, 2]": 0.7, "wide": 0.0}[values["shape"]] + (values.get("power", 0.8) - 0.8) ** 2
    return float(0.9 * np.exp(-missed))


def search(trials: int, epochs: Callable[[int], int], seed: int = 0, *, at_once: int = 1) -> list[float]:
    """Final Dice of every proposal; trial n shows `epochs(n)` epochs of its curve and is then stopped, or has finished."""
    study, curves, running, found = optuna.create_study(direction="maximize"), Curves(), [], []
    for number in range(trials):
        mixed = 1000 * seed + number
        study.sampler = optuna.samplers.RandomSampler(seed=mixed) if number < 8 else CurveSampler(mixed, curves)
        trial = study.ask()
        running.append((trial, epochs(number), final_dice(draw(trial))))
        found.append(running[-1][-1])
        while len(running) >= at_once:
            trial, shown, dice = running.pop(0)
            for epoch in range(1, shown + 1):
                trial.report(dice * epoch / (epoch + 2) * (EPOCHS + 2) / EPOCHS, epoch)
            study.tell(trial, dice) if shown == EPOCHS else study.tell(trial, state=TrialState.PRUNED)
    return found


def chance(trials: int) -> float:
    """Mean final Dice of random settings."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    return float(np.mean([final_dice(draw(study.ask())) for _ in range(trials)]))


CUTS: dict[str, Callable[[int], int]] = {
    "none was stopped": lambda number: EPOCHS,
    "most were stopped": lambda number: EPOCHS if number % 6 == 0 else 1 + number % 3,
    "none has finished": lambda number: 1,
}


@pytest.mark.parametrize("epochs", CUTS.values(), ids=CUTS.keys())
def test_it_finds_the_best_settings_whatever_was_stopped(epochs: Callable[[int], int]) -> None:
    found = search(30, epochs)
    assert np.mean(found[-8:]) > 0.7
    assert chance(200) < 0.4
    assert max(found) > 0.85


def test_trials_at_the_same_time_try_different_settings() -> None:
    found = search(40, lambda number: EPOCHS, at_once=8)
    assert len({round(dice, 9) for dice in found}) == 40
    assert np.mean(found[-8:]) > 0.6


def test_it_keeps_away_from_where_trials_fail() -> None:
    def narrow(state: TrialState, constraint: float) -> int:
        """How many of the later proposals are narrow, where such trials end badly, and all others are the same."""
        study, curves, count = optuna.create_study(direction="maximize"), Curves(), 0
        for number in range(30):
            study.sampler = optuna.samplers.RandomSampler(seed=number) if number < 8 else CurveSampler(number, curves)
            trial = study.ask()
            bad = draw(trial)["shape"] == "narrow"
            count += bad and number >= 12
            if bad and constraint:
                trial.set_constraint("memory", constraint)
            dice = 0.6 if bad else 0.4 + 0.01 * (number % 7)  # promising, at first
            trial.report(dice, 1)
            study.tell(trial, state=state) if bad else study.tell(trial, dice)
        return count

    assert narrow(TrialState.PRUNED, 0.0) > 6
    assert narrow(TrialState.FAIL, 0.0) <= 2
    assert narrow(TrialState.PRUNED, 1.0) <= 2


def test_before_anything_is_known_it_draws_at_random() -> None:
    study = optuna.create_study(sampler=CurveSampler(0, Curves()))
    assert final_dice(draw(study.ask())) > 0
    assert final_dice(draw(study.ask())) > 0


def curves(cut: Sequence[int]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[np.ndarray[Any, np.dtype[np.float64]]]]:
    """Noisy curves that rise by a share of what they show at first; whole, and cut after so many epochs."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(len(cut), 1))
    whole = first + (1 + 0.2 * first) * np.linspace(0, 1, 6) + rng.normal(size=(len(cut), 6)) * [0, 0.05, 0.05, 0.05, 0.05, 0.05]
    return whole, [curve[:length] for curve, length in zip(whole, cut, strict=True)]


def test_cut_curves_are_continued_as_the_others_went_on() -> None:
    cut = [6] * 30 + [1, 2, 4] * 4
    whole, shown = curves(cut)
    found = extrapolate(shown, 6)
    np.testing.assert_array_equal(found.curves[:30], whole[:30])
    np.testing.assert_array_equal(found.variances[:30], 0)
    missed = found.curves[30:, -1] - whole[30:, -1]
    assert np.abs(missed).max() < 0.3
    spread = np.sqrt(found.variances[30:])
    assert 0.5 < np.sqrt(np.mean((missed / spread) ** 2)) < 2  # the variances are what they say
    assert spread[0] > spread[2] > 0


def test_logits_of_dice() -> None:
    dice = np.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(from_logit(to_logit(dice)), dice, atol=1e-12)


DISTRIBUTIONS: dict[str, tuple[BaseDistribution, Sequence[Any]]] = {
    "range": (FloatDistribution(-1.0, 3.0), [-1.0, 0.5, 3.0]),
    "log range": (FloatDistribution(1e-4, 1.0, log=True), [1e-4, 0.02, 1.0]),
    "whole numbers": (IntDistribution(1, 4), [1, 2, 3, 4]),
    "log whole numbers": (IntDistribution(8, 128, log=True), [8, 9, 31, 128]),
    "numbers to choose from": (CategoricalDistribution([8, 1, 4]), [1, 4, 8]),
    "words": (CategoricalDistribution(["a", "b", "c"]), ["a", "b", "c"]),
    "truth": (CategoricalDistribution([False, True]), [False, True]),
}


@pytest.mark.parametrize(("distribution", "values"), DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
def test_values_and_units(distribution: BaseDistribution, values: Sequence[Any]) -> None:
    axis = Axis(distribution)
    expected = pytest.approx(values) if isinstance(distribution, FloatDistribution) else values
    units = np.array([axis.unit(value) for value in values])
    assert [axis.value(unit) for unit in units] == expected
    assert all(0 <= unit <= 1 for unit in units)
    np.testing.assert_allclose(axis.snapped(units), units, atol=1e-12)
    anywhere = np.random.default_rng(0).random(50)
    assert [axis.value(unit) for unit in axis.snapped(anywhere)] == [axis.value(unit) for unit in anywhere]
    places = axis.place(units)
    assert places.shape[0] == len(values)
    apart = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    assert (apart[~np.eye(len(values), dtype=bool)] > 0).all()


def test_numbers_to_choose_from_lie_in_their_order() -> None:
    axis = Axis(CategoricalDistribution([8, 1, 4]))
    units = np.array([axis.unit(value) for value in (1, 4, 8, 6)])
    np.testing.assert_allclose(axis.place(units)[:, 0], [0, 0.5, 1, 0.75])  # 6 is none of them, and lies between


def test_words_are_all_as_far_from_each_other_and_from_a_field_that_is_not_there() -> None:
    axis = Axis(CategoricalDistribution(["a", "b", "c"]))
    places = axis.place(np.array([axis.unit(value) for value in ("a", "b", "c", "none of them")]))
    apart = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(apart[:3, :3], 1 - np.eye(3))
    np.testing.assert_allclose(apart[3, :3], 0.5)


@pytest.mark.parametrize("whole", [1, 2, 3, 10])
def test_nothing_is_certain_of_curves_that_were_cut_however_few_are_whole(whole: int) -> None:
    """Curves that saturate each at a pace and height of its own: mostly the truth is within two deviations of what is promised."""
    rng, missed = np.random.default_rng(whole), []
    for _ in range(200):
        pace, height = rng.uniform(0.2, 1.0, (12, 1)), rng.uniform(0.3, 0.95, (12, 1))
        true = to_logit(height * (1 - np.exp(-pace * np.arange(1, EPOCHS + 1))))
        found = extrapolate([curve if number < whole else curve[:2] for number, curve in enumerate(true)], EPOCHS)
        assert (found.variances[:whole] == 0).all()
        missed.append(np.abs(found.curves - true)[whole:, -1] / np.sqrt(found.variances[whole:]))
    assert np.mean(np.concatenate(missed) < 2) > 0.65
