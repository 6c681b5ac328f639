"""What Optuna is told, and which trials come. Without a running Ray."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from cdal.errors import InputError
from tune.lake.status import (
    DIVERGED,
    FAILED,
    FINISHED,
    INFEASIBLE,
    MACHINE,
    PUBLISHED,
    SEARCHED,
    SETTING,
    STOPPED,
    STORE,
    TRIED,
    UNET,
)
from tune.proposing import SAMPLERS, Outcome, Proposal, Queue, Space, Study, TruthfulSearcher, controls, settings, startup_trials
from tune.proposing.space import parse


def space() -> Space:
    return parse(
        {
            "dataset": "phantom",
            "fixed": {"training.epochs": 4},
            "parameters": {
                "diffusion.timesteps": {"values": [1, 2, 4]},
                "loss.attention": {"min": 0.0, "max": 1.0},
                "model.width_multipliers": {"values": [[1, 1], [1, 2, 2, 2]]},
            },
        },
        "test.yaml",
    )


def study() -> Study:
    return Study(space(), seed=0, startup=4)


def searcher(queue: Queue, refused: list[int] | None = None) -> TruthfulSearcher:
    return TruthfulSearcher(
        queue,
        lambda proposal: {"number": proposal.number},
        lambda proposal, why: (refused or []).append(proposal.number),
        lambda: False,
    )


def told(found: Study) -> list[tuple[TrialState, float | None, dict[int, float]]]:
    return [(trial.state, trial.value, trial.intermediate_values) for trial in found.optuna.trials]


def test_optuna_is_told_the_truth() -> None:
    found = study()
    tune = searcher(Queue.start(space(), found, 6))
    for name in "abcdef":
        assert tune.suggest(name)["number"] == "abcdef".index(name)
    for name, epochs in {"a": 4, "b": 4, "c": 2, "e": 1}.items():
        for epoch in range(1, epochs + 1):
            tune.on_trial_result(name, {"curve": [(epoch, 0.1 * epoch)]})
    tune.on_trial_complete("a", {"status": "finished"})
    tune.on_trial_complete("b", {"status": "finished"})
    tune.on_trial_complete("c", {"curve": [(3, 0.3)]})  # stopped by the scheduler: Tune hands over its last report
    tune.on_trial_complete("d", {"status": "diverged"})
    tune.on_trial_complete("e", error=True)
    published, stopped, diverged, crashed, running = told(found)  # the U-Net, b, is none of Optuna's business
    assert published == (TrialState.COMPLETE, pytest.approx(0.4), pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}))
    assert stopped == (TrialState.PRUNED, pytest.approx(0.3), pytest.approx({1: 0.1, 2: 0.2, 3: 0.3}))
    assert diverged == (TrialState.FAIL, None, {})
    assert crashed[0] == TrialState.FAIL
    assert running[0] == TrialState.RUNNING


def test_not_a_number_is_a_failure() -> None:
    found = study()
    found.propose(2)
    found.report(2, [(1, float("nan"))])
    found.end(2, FINISHED)
    assert told(found) == [(TrialState.FAIL, None, {})]


def test_controls_come_first_and_numbers_are_consecutive() -> None:
    queue = Queue.start(space(), study(), 5)
    proposals = [queue.next() for _ in range(6)]
    assert [proposal and (proposal.number, proposal.kind) for proposal in proposals] == [
        (0, PUBLISHED), (1, UNET), (2, SEARCHED), (3, SEARCHED), (4, SEARCHED), None,
    ]  # fmt: skip
    assert queue.empty
    assert Queue.start(space(), study(), 1).waiting == [Proposal(0, PUBLISHED, space().published)]


def test_published_values_outside_the_space_run_but_are_not_told() -> None:
    outside = parse({"dataset": "phantom", "parameters": {"diffusion.timesteps": {"values": [1, 2]}}}, "test.yaml")
    found = Study(outside, seed=0, startup=4)
    queue = Queue.start(outside, found, 4)
    assert queue.next() == Proposal(0, PUBLISHED, {"diffusion.timesteps": 4})
    found.report(0, [(1, 0.5)])
    found.end(0, FINISHED)
    assert told(found) == []


def run(queue: Queue, until: int) -> list[Proposal]:
    """One trial after the other, each finished with a Dice that depends on its values alone."""
    proposals = []
    while (proposal := queue.next()) is not None and proposal.number < until:
        queue.study.report(proposal.number, [(1, _dice(proposal))])
        queue.study.end(proposal.number, FINISHED)
        proposals.append(proposal)
    return proposals


def _dice(proposal: Proposal) -> float:
    return 1 - abs(float(proposal.values["loss.attention"]) - 0.3)


def test_a_resumed_search_proposes_what_an_uninterrupted_one_does() -> None:
    whole = run(Queue.start(space(), study(), 14), 14)
    first = run(Queue.start(space(), study(), 14), 8)
    outcomes = [Outcome(proposal, FINISHED, [(1, _dice(proposal))]) for proposal in first]
    rest = run(Queue.start(space(), study(), 14, outcomes), 14)
    assert first + rest == whole


def test_unfinished_trials_are_continued_first() -> None:
    cut = Proposal(3, SEARCHED, {"diffusion.timesteps": 2, "loss.attention": 0.5, "model.width_multipliers": (1, 1)})
    outcomes = [
        Outcome(Proposal(0, PUBLISHED, space().published), FINISHED, [(1, 0.5)]),
        Outcome(Proposal(1, UNET, space().published), FINISHED, [(1, 0.5)]),
        Outcome(cut, None, [(1, 0.2), (2, 0.3)]),
    ]
    found = study()
    queue = Queue.start(space(), found, 6, outcomes)
    assert queue.next() == cut
    following = queue.next()
    assert following is not None
    assert following.number == 4
    assert [state for state, _, _ in told(found)] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    assert told(found)[1][2] == {1: 0.2, 2: 0.3}


def test_values_that_do_not_fit_are_recorded_and_skipped() -> None:
    refused: list[int] = []
    found = study()

    def configure(proposal: Proposal) -> dict[str, Any]:
        if proposal.number == 2:
            raise InputError("no")
        return {"number": proposal.number}

    tune = TruthfulSearcher(
        Queue.start(space(), found, 4), configure, lambda proposal, why: refused.append(proposal.number), lambda: False
    )
    assert [tune.suggest(name) for name in "abcd"] == [{"number": 0}, {"number": 1}, {"number": 3}, None]
    assert refused == [2]
    assert [state for state, _, _ in told(found)] == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


def test_nothing_is_told_of_a_trial_that_never_began() -> None:
    found = study()
    tune = searcher(Queue.start(space(), found, 4))
    for name in "abc":
        tune.suggest(name)
    tune.on_trial_result("a", {"curve": [(1, 0.2)]})
    for name in "ac":
        tune.on_trial_complete(name)  # as Tune does when a trial is stopped that waits
    assert [state for state, _, _ in told(found)] == [TrialState.PRUNED, TrialState.RUNNING]


def test_startup_trials_follow_the_size_of_the_search() -> None:
    assert [startup_trials(trials) for trials in (1, 8, 24, 400, None)] == [4, 4, 6, 6, 6]
    assert [startup_trials(trials, at_once=16) for trials in (8, 24, 400, None)] == [4, 12, 16, 16]  # each worker has one


def test_rays_own_searcher_calls_a_stopped_trial_complete_and_ours_does_not() -> None:
    """The reason for a searcher of our own: see the head of tune/proposing/study.py."""
    theirs = OptunaSearch(space().distributions, metric="dice", mode="max", seed=0)
    theirs.suggest("a")
    theirs.on_trial_result("a", {"dice": 0.2, "training_iteration": 1})
    theirs.on_trial_complete("a", {"dice": 0.2, "training_iteration": 1})  # as Tune does when a scheduler stops a trial
    (stopped,) = theirs._ot_study.trials
    assert (stopped.state, stopped.value) == (TrialState.COMPLETE, 0.2)

    found = study()
    tune = searcher(Queue.start(space(), found, 3))
    tune.suggest("a")
    tune.on_trial_result("a", {"curve": [(1, 0.2)]})
    tune.on_trial_complete("a", {"curve": [(1, 0.2)]})
    assert told(found) == [(TrialState.PRUNED, 0.2, {1: 0.2})]  # Optuna gives the last intermediate value


def proposals_that_are_too_large(told_as: str) -> tuple[int, Study]:
    """How many of the later proposals take four steps, where such trials never go well; over three seeds."""
    count = 0
    for seed in range(3):
        found = Study(space(), seed=seed, startup=4, sampler="tpe")
        for number in range(60):
            large = found.propose(number).values["diffusion.timesteps"] == 4
            count += large and number >= 30
            if not large:
                found.report(number, [(1, 0.5 + 0.01 * (number % 7))])
            found.end(number, told_as if large else FINISHED)
    return count, found


def test_out_of_memory_is_infeasible_and_the_sampler_keeps_away() -> None:
    infeasible, found = proposals_that_are_too_large(INFEASIBLE)
    failed, _ = proposals_that_are_too_large(FAILED)
    assert infeasible < 0.7 * failed  # of which a sampler learns nothing
    first = next(trial for trial in found.optuna.trials if trial.params["diffusion.timesteps"] == 4)
    assert first.state == TrialState.PRUNED
    assert first.constraints == {"memory": 1.0}


def test_several_objectives_are_told_when_a_trial_finishes() -> None:
    found = Study(space(), seed=0, startup=4, objectives=("dice", "seconds_per_case"))
    for number, (dice, seconds) in enumerate([(0.9, 3.0), (0.8, 1.0), (0.7, 2.0)]):
        found.propose(number)
        found.report(number, [(1, dice - 0.1), (2, dice)])
        found.end(number, FINISHED, {"seconds_per_case": seconds, "gpu_hours": 1.0})
    found.propose(3)
    found.report(3, [(1, 0.3)])
    found.end(3, STOPPED)
    assert [trial.state for trial in found.optuna.trials] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]
    assert [trial.values for trial in found.optuna.best_trials] == [[0.9, 3.0], [0.8, 1.0]]
    assert found.propose(4).values.keys() == space().parameters.keys()


def test_the_journal_holds_every_ended_trial_for_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "tune" / "optuna-journal.log"
    for _ in range(2):  # written anew by every session
        found = Study(space(), seed=0, startup=4, journal=path)
        for number, status in enumerate([FINISHED, STOPPED, INFEASIBLE, FAILED]):
            found.propose(number)
            found.report(number, [(1, 0.1 * number), (2, 0.2 * number)])
            found.end(number, status)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    written = optuna.load_study(study_name="experiment", storage=storage).trials
    assert [(trial.state, trial.intermediate_values) for trial in written] == [
        (trial.state, trial.intermediate_values) for trial in found.optuna.trials
    ]
    assert [trial.params for trial in written] == [trial.params for trial in found.optuna.trials]
    assert [trial.user_attrs["status"] for trial in written] == [FINISHED, STOPPED, INFEASIBLE, FAILED]


def test_what_was_sampled_here_decides_whether_more_pays() -> None:
    elsewhere = Outcome(Proposal(-1, SEARCHED, space().published), FINISHED, [(1, 0.9)])
    earlier = [
        Outcome(Proposal(number, SEARCHED, space().published), FINISHED, [(1, dice)]) for number, dice in ((5, 0.5), (2, 0.2))
    ]
    found = study()
    found.add_ended(elsewhere)
    queue = Queue.start(space(), found, 20, earlier)
    queue.waiting.clear()
    proposal = queue.next()
    assert proposal is not None
    found.report(proposal.number, [(1, 0.7)])
    following = queue.next()
    assert following is not None
    found.report(following.number, [(1, 0.1)])
    found.end(following.number, STOPPED)
    assert found.sampled == [0.2, 0.5]  # in order of proposal, up to the first that runs; none from elsewhere
    found.end(proposal.number, STOPPED)
    assert found.sampled == [0.2, 0.5, 0.7, 0.1]


def few() -> Space:
    """Four settings, and two more with a condition."""
    parameters = {
        "diffusion.timesteps": {"values": [2, 4]},
        "loss.attention": {"values": [0.0, 1.0]},
        "loss.attention_normalised": {"values": [False, True], "condition": {"loss.attention": {"min": 0.01}}},
    }
    return parse({"dataset": "phantom", "fixed": {"training.epochs": 4}, "parameters": parameters}, "test.yaml")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_setting_is_tried_twice_and_the_search_ends_when_all_have_been(sampler: str) -> None:
    found = Study(few(), seed=0, startup=4, sampler=sampler)
    queue = Queue.start(few(), found, 20)
    asked = searcher(queue)
    configs = []
    while (config := asked.suggest(f"{len(configs)}")) is not None:
        configs.append(config["number"])
        if len(configs) == 5:
            asked.on_trial_complete("2", {"curve": [(1, 0.5)], "status": STOPPED})
            asked.on_trial_complete("3", {"curve": [], "status": FAILED, "cause": MACHINE})
    settings_tried = [str(trial.params) for trial in found.optuna.trials if trial.state == TrialState.RUNNING]
    settings_tried += [str(trial.params) for trial in found.optuna.trials if trial.intermediate_values]
    assert len(settings_tried) == len(set(settings_tried)) == 6
    assert configs == list(range(8))  # with the U-Net, and once more what failed by the machine's fault
    assert "all 6 settings of the space have been tried" in str(found.why_exhausted)
    for number in range(8):
        if number not in (2, 3):
            asked.on_trial_complete(str(number), {"curve": [(4, 0.5)], "status": FINISHED})
    assert asked.suggest("8") == Searcher.FINISHED


def test_a_search_that_goes_on_knows_what_was_tried_before_the_cut() -> None:
    earlier = [
        Outcome(Proposal(n, SEARCHED, values), FINISHED, [(1, 0.5)]) for n, values in enumerate(few().every_setting or (), 2)
    ]
    queue = Queue.start(few(), found := Study(few(), seed=0, startup=4), 20, earlier[:-1])
    queue.waiting.clear()
    proposal = queue.next()
    assert proposal is not None
    assert (proposal.number, proposal.values) == (7, earlier[-1].proposal.values)
    assert queue.next() is None
    assert found.why_exhausted is not None
    assert study().why_exhausted is None  # its fractions have no end


def test_hints_come_right_after_the_controls() -> None:
    hint = {"diffusion.timesteps": 1, "loss.attention": 0.25, "model.width_multipliers": (1, 1)}
    queue = Queue.start(space(), study(), 6, hints=[hint])
    assert [queue.next() for _ in range(3)][2] == Proposal(2, SEARCHED, hint)
    following = queue.next()
    assert following is not None
    assert following.number == 3
    done = [Outcome(Proposal(2, SEARCHED, hint), FINISHED, [(1, 0.5)])]
    assert [proposal.number for proposal in Queue.start(space(), study(), 6, done, [hint]).waiting] == [0, 1]


@pytest.mark.parametrize("sampler", ["curves", "tpe", "cmaes", "nsga2"])
def test_of_what_failed_by_no_fault_of_its_own_nothing_is_learnt(sampler: str) -> None:
    def proposed(showed: float, status: str, cause: str | None) -> tuple[list[Proposal], list[float]]:
        """What follows after one trial among many ended like that."""
        found = Study(space(), seed=0, startup=4, sampler=sampler)
        proposals = []
        for number in range(16):
            proposals.append(found.propose(number))
            dice = showed if number == 7 else _dice(proposals[-1])
            found.report(number, [(1, dice)])
            found.end(number, status if number == 7 else FINISHED, cause=cause)
        return proposals[8:], list(found.sampled)

    high, low = (proposed(dice, FAILED, MACHINE) for dice in (0.99, 0.01))
    assert high == low == proposed(0.5, FAILED, STORE)
    assert len(high[1]) == 15
    assert proposed(0.99, FAILED, SETTING)[1] == proposed(0.99, DIVERGED, None)[1] != high[1]
    assert proposed(0.99, FINISHED, None)[0] != high[0]


def test_the_cause_is_the_trials_own_word_or_the_machine() -> None:
    def taught(result: dict[str, Any] | None, *, error: bool) -> bool:
        found = study()
        tune = searcher(Queue.start(space(), found, 4))
        for name in "abc":
            tune.suggest(name)
        tune.on_trial_result("c", {"curve": [(1, 0.3)]})
        tune.on_trial_complete("c", result, error=error)
        return bool(found.sampled)

    assert not taught({"status": FAILED, "cause": MACHINE}, error=False)
    assert not taught(None, error=True)
    assert taught({"status": FAILED, "cause": SETTING}, error=False)
    assert taught({}, error=False)  # stopped


OWN = {"diffusion.timesteps": 2, "loss.attention": 0.75, "model.width_multipliers": (1, 1)}
HINT = {"diffusion.timesteps": 1, "loss.attention": 0.25, "model.width_multipliers": (1, 1)}


def test_what_people_want_to_try_comes_after_the_controls_and_is_told_but_not_sampled() -> None:
    found = study()
    queue = Queue.start(space(), found, 6, hints=[HINT], tries=[OWN])
    assert [(p.number, p.kind) for p in queue.waiting] == [(0, PUBLISHED), (1, UNET), (2, TRIED), (3, SEARCHED)]
    run(queue, 6)
    assert len(found.sampled) == 3
    assert {"loss.attention": 0.75} in [{"loss.attention": trial.params["loss.attention"]} for trial in found.optuna.trials]


def test_what_people_want_meanwhile_comes_first_even_beyond_the_end() -> None:
    queue = Queue.start(space(), study(), 3)
    assert [queue.next(), queue.next()] == controls(space())
    wished = [queue.enqueue(OWN), queue.enqueue(HINT)]
    assert [queue.next(), queue.next()] == wished
    assert [(proposal.number, proposal.kind) for proposal in wished] == [(2, TRIED), (3, TRIED)]
    assert queue.empty
    queue.enqueue(OWN)
    assert not queue.empty
    assert queue.next() is not None
    assert queue.next() is None
    queue.more(4)
    assert not queue.empty
    assert [proposal and proposal.number for proposal in (queue.next(), queue.next(), queue.next(), queue.next())] == [
        5,
        6,
        None,
        None,
    ]


def test_a_search_that_is_about_to_end_still_hears_people() -> None:
    queue = Queue.start(space(), study(), 2)
    tune = searcher(queue)
    assert [tune.suggest(name) for name in "abc"] == [{"number": 0}, {"number": 1}, None]
    queue.enqueue(OWN)
    assert tune.suggest("d") == {"number": 2}
    for name in "abd":
        tune.on_trial_complete(name, {"status": FINISHED})
    assert tune.suggest("e") == "FINISHED"


def test_what_was_tried_before_a_cut_is_not_tried_again() -> None:
    done = [Outcome(proposal, FINISHED, [(1, 0.5)]) for proposal in (*controls(space()), Proposal(2, TRIED, OWN))]
    other = OWN | {"loss.attention": 0.5}
    waiting = Queue.start(space(), study(), 9, done, [HINT], [OWN, other]).waiting
    assert waiting == [Proposal(3, TRIED, other), Proposal(4, SEARCHED, HINT)]
    done += [Outcome(Proposal(3, TRIED, other), FINISHED, [(1, 0.5)]), Outcome(Proposal(4, SEARCHED, HINT), FINISHED, [(1, 0.5)])]
    done += [Outcome(Proposal(6, TRIED, HINT), None, [])]  # asked for while 5 was waiting
    queue = Queue.start(space(), study(), 9, done, [HINT], [OWN, other, HINT])
    assert queue.waiting == [Proposal(6, TRIED, HINT)]
    assert queue.next_number == 7


def test_people_and_the_search_take_numbers_at_the_same_time() -> None:
    queue = Queue.start(space(), study(), 300)
    with ThreadPoolExecutor(1) as people:
        wished = people.submit(lambda: [queue.enqueue(OWN).number for _ in range(40)])
        numbers = [proposal.number for _ in range(100) if (proposal := queue.next())]
    assert len(set(numbers)) == 100
    assert len(set(wished.result())) == 40
    assert not set(wished.result()) & {number for number in numbers if number not in wished.result()}


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"loss.atention": 1.0}, r"mine.yaml: 'loss.atention' is not searched here; fields that are: diffusion.timesteps"),
        ({"training.epochs": 9}, r"mine.yaml: 'training.epochs' is not searched here"),
        ({"loss.attention": 1.5}, r"mine.yaml: loss.attention is 1.5, but the search has 0 to 1; name a value within"),
        ({"loss.attention": "high"}, r"mine.yaml: loss.attention is 'high'; it must be a number"),
        ({"diffusion.timesteps": 3}, r"mine.yaml: diffusion.timesteps is 3, but the search has 1 \| 2 \| 4"),
        ([1], r"mine.yaml: settings are lines of the form `diffusion.timesteps: 4`"),
        ({}, r"mine.yaml: settings are lines of the form"),
    ],
)
def test_own_settings_that_do_not_fit_are_one_sentence(wanted: object, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        settings(space(), wanted, "mine.yaml")


def test_own_settings_name_a_part_of_the_fields() -> None:
    outside = {"diffusion.timesteps": {"values": [1, 2]}, "loss.attention": {"min": 0.0, "max": 1.0}}  # published: 4
    with pytest.raises(InputError, match=r"it leaves diffusion.timesteps at the published 4, but the search has 1 \| 2"):
        settings(parse({"dataset": "phantom", "parameters": outside}, "test.yaml"), {"loss.attention": 0.5}, "mine.yaml")
    assert settings(space(), {"model.width_multipliers": [1, 1], "loss.attention": 1}, "mine.yaml") == {
        "diffusion.timesteps": 4, "loss.attention": 1.0, "model.width_multipliers": (1, 1),
    }  # fmt: skip
