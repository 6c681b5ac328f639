"""Who becomes a finalist, and what counts as a second look at the test split."""

from pathlib import Path
from typing import Any

import pytest

from cdal.config import Config
from cdal.errors import InputError
from tune.finals import Contest, Evaluation, choose, earlier_looks, fresh_seeds
from tune.finals.selection import Finalist
from tune.results import Writer, create_experiment, load
from tune.running import Node, Options, Plan, make_plan

VALUES = {"diffusion.timesteps": 2, "loss.adversarial": 0.05}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(Options(dataset="phantom", seed=3), [Node(2, 0)])


def row(plan: Plan, number: int, dice: float | None, **changes: Any) -> dict[str, Any]:
    """A trial's row; the values of the searched fields depend on its number."""
    values = VALUES | {"loss.adversarial": number / 1000}
    config = plan.space.config(values).flatten()
    columns = {"number": number, "trial_id": f"{number:05d}", "kind": "searched", "status": "finished", "seed": 3}
    columns |= {f"config.{path}": value for path, value in config.items()}
    return columns | {"validation_dice": dice, "final_dice": None, "seconds": 30.0, "epochs": 6} | changes


def chosen(plan: Plan, rows: list[dict[str, Any]], top: int = 5) -> list[str]:
    return [finalist.id for finalist in choose(plan, rows, top=top, epochs=None)]


def test_the_full_protocol_comes_before_the_cheap_figure(plan: Plan) -> None:
    rows = [row(plan, 2, 0.9, final_dice=0.6), row(plan, 3, 0.7), row(plan, 4, 0.65, final_dice=0.8)]
    assert chosen(plan, rows) == ["00004", "00003", "00002", "00000", "00001"]
    assert chosen(plan, rows, top=1) == ["00004", "00000", "00001"]
    assert choose(plan, rows, top=1, epochs=None)[0].search_dice == 0.8


def test_trials_without_a_result_worth_a_name_are_out(plan: Plan) -> None:
    rows = [
        row(plan, 2, 0.9, status="failed"),
        row(plan, 3, 0.9, status="diverged"),
        row(plan, 4, None),
        row(plan, 5, float("nan")),
        row(plan, 6, 0.2, status="interrupted"),
        row(plan, 7, 0.1, status="stopped"),
    ]
    assert chosen(plan, rows) == ["00006", "00007", "00000", "00001"]
    with pytest.raises(InputError, match="none of the search's trials has a result"):
        chosen(plan, rows[:4])


def test_equal_settings_count_once_whatever_their_seed(plan: Plan) -> None:
    same = {"config.loss.adversarial": 0.5}
    rows = [row(plan, 2, 0.5, **same), row(plan, 3, 0.9, **same, **{"config.training.seed": 8}), row(plan, 4, 0.4)]
    assert chosen(plan, rows) == ["00003", "00004", "00000", "00001"]
    published = {f"config.{path}": value for path, value in plan.published.flatten().items()}
    assert chosen(plan, [row(plan, 2, 0.5) | published, row(plan, 3, 0.4)]) == ["00003", "00000", "00001"]


def test_controls_are_there_even_where_the_search_had_not_run_them(plan: Plan) -> None:
    ran = row(plan, 0, 0.3) | {"kind": "published"}
    finalists = {finalist.id: finalist for finalist in choose(plan, [ran, row(plan, 2, 0.5)], top=3, epochs=9)}
    assert finalists["00000"].search_dice == 0.3
    assert finalists["00001"].search_dice is None
    assert finalists["00001"].config.model.architecture == "unet"
    assert {finalist.config.training.epochs for finalist in finalists.values()} == {9}


def test_seeds_are_new_to_the_search(plan: Plan) -> None:
    assert fresh_seeds(plan, [row(plan, 2, 0.5), row(plan, 3, 0.5, seed=7)], 3) == (8, 9, 10)


def test_a_cut_contest_has_trained_everybody_as_often(plan: Plan) -> None:
    finalists = choose(plan, [row(plan, 2, 0.5, startup_seconds=6.0, scoring_seconds=12.0)], top=1, epochs=None)
    contest = Contest(finalists=finalists, folds=(0, 2), seeds=(4, 5))
    trainings = contest.trainings
    assert [training.number for training in trainings] == list(range(12))
    assert [training.finalist.id for training in trainings[:3]] == ["00002", "00000", "00001"]
    assert {(training.seed, training.fold) for training in trainings[:6]} == {(4, 0), (4, 2)}
    assert trainings[6].config.training.seed == 5
    assert Contest.from_dict(contest.to_dict()) == contest
    assert [contest.seconds(finalist, 2.5) for finalist in finalists] == [12 + 2.5 * 12] * 3  # controls as long as the others


def put_look(root: Path, experiment: str, config: Config, *, case: str = "c1", dataset: str = "d", **columns: Any) -> None:
    """Put a trial that was scored on a test case into the lake."""
    create_experiment(root, experiment, {"dataset": dataset, "fold": 0})
    with Writer(root, experiment) as writer:
        values = {f"config.{path}": value for path, value in config.flatten().items()}
        writer.append("trials", {"trial_id": "00000", "dataset": dataset} | values | columns)
        writer.append("cases", {"trial_id": "00000", "split": "test", "case": case, "class": "x", "votes": 1, "dice": 0.5})


def times(root: Path, config: Config, cases: set[str]) -> int:
    finalist = Finalist(id="a", kind="searched", config=config)
    found = earlier_looks(load(root), "d", cases, [finalist])
    return found["a"].times if found else 0


def test_another_seed_name_or_length_is_no_way_round(tmp_path: Path) -> None:
    config = Config().replace(VALUES)
    put_look(tmp_path, "one", config.replace({"training.seed": 1}), test_evaluations=1)
    assert times(tmp_path, config, {"c1", "c2"}) == 1
    assert times(tmp_path, config.replace({"training.seed": 9, "training.epochs": 7}), {"c1"}) == 1
    put_look(tmp_path, "two", config, test_evaluations=2)
    assert times(tmp_path, config, {"c1"}) == 2


def test_other_settings_cases_or_data_are_not_the_same(tmp_path: Path) -> None:
    config = Config().replace(VALUES)
    put_look(tmp_path, "one", config)
    put_look(tmp_path, "elsewhere", config, case="c9", dataset="other")
    assert times(tmp_path, config.replace({"diffusion.timesteps": 3}), {"c1"}) == 0
    assert times(tmp_path, config, {"c2", "c9"}) == 0  # another fold, and another dataset


def test_an_evaluation_goes_on_until_it_is_ended(tmp_path: Path) -> None:
    config = Config().replace(VALUES)
    finalist = Finalist(id="a", kind="searched", config=config)
    contest, evaluation = Contest(finalists=(finalist,), folds=(0,), seeds=(1,)), Evaluation(str(tmp_path / "tune"))
    assert evaluation.begin(contest, {}, again=False) == {"a": 1}
    put_look(tmp_path, "one", config, test_evaluations=1)
    before = earlier_looks(load(tmp_path), "d", {"c1"}, [finalist])
    assert evaluation.begin(contest, before, again=False) == {"a": 1}  # goes on
    assert evaluation.begin(contest, before, again=True) == {"a": 1}
    evaluation.end()
    with pytest.raises(InputError, match=r"finalist a was tested on \d{4}-\d\d-\d\d .* in one.*--again"):
        evaluation.begin(contest, before, again=False)
    assert evaluation.begin(contest, before, again=True) == {"a": 2}
