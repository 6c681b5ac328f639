"""A search that was cut proposes what it would have proposed uncut: every sampler, wherever it is cut, whatever its trials did."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from searches import here, tiny, trials

from tune.lake.status import DIVERGED, FAILED, FINISHED, INFEASIBLE, MACHINE, SEARCHED, SETTING, STOPPED, Curve
from tune.proposing import SAMPLERS, Outcome, Proposal, Queue, Study
from tune.proposing.space import load, parse
from tune.running import Node, Options, make_plan, remake_plan

SPACE = parse(
    {
        "dataset": "phantom",
        "fixed": {"training.epochs": 4},
        "parameters": {
            "diffusion.timesteps": {"values": [1, 2, 4]},
            "model.width_multipliers": {"values": [[1, 1], [1, 2, 2, 2]]},
            "loss.attention": {"min": 0.0, "max": 1.0},
            "loss.attention_normalised": {"values": [False, True], "condition": {"loss.attention": {"min": 0.5}}},
            "model.latent_size": {"min": 16, "max": 256, "distribution": "int_log_uniform"},
            "optimiser.lr_generator": {"min": 1e-5, "max": 1e-2, "distribution": "log_uniform"},
        },
    },
    "test.yaml",
)
STARTUP, EPOCHS, WHOLE = 5, 4, 40
TOLD = [Outcome(Proposal(-1 - n, SEARCHED, SPACE.middle), status, [(1, 0.4)]) for n, status in enumerate((FINISHED, STOPPED))]
TRY, WISH, HINT = (SPACE.active({**SPACE.middle, "loss.attention": value}) for value in (0.1, 0.2, 0.3))
WISHED = 11
"""The trial during which a person asks for another one."""
COSTLY = 14
"""Trials of a search whose proposals take long."""
SEVERAL = [name for name, sampler in SAMPLERS.items() if sampler.several_objectives]


@dataclass
class Life:
    """A search whose trials go as their number and their settings decide, so many of them at once."""

    sampler: str
    objectives: int = 1
    at_once: int = 1
    proposals: list[Proposal] = field(default_factory=list)
    """As they came, in all sessions."""
    cuts: list[list[Outcome]] = field(default_factory=list)
    """What the lake knows whenever a trial has been proposed, and has shown an epoch."""

    def live(self, earlier: Sequence[Outcome] = ()) -> "Life":
        """To the end, from the beginning or from where it was cut."""
        study = Study(SPACE, seed=7, startup=STARTUP, sampler=self.sampler, objectives=("dice", "gpu_hours")[: self.objectives])
        for outcome in TOLD:
            study.add_ended(outcome)
        known = {outcome.proposal.number: outcome for outcome in earlier}
        wished = [TRY, WISH] if any(number > WISHED for number in known) else [TRY]
        queue = Queue.start(SPACE, study, self._trials, list(known.values()), [HINT], wished)
        running: list[Proposal] = []
        while True:
            while len(running) < self.at_once and (proposal := queue.next()) is not None:
                running.append(proposal)
                self.proposals.append(proposal)
                study.report(proposal.number, _curve(proposal)[:1])
                known[proposal.number] = Outcome(_written(proposal), None, _curve(proposal)[:1])
                if proposal.number == WISHED and len(wished) == 1:
                    queue.enqueue(WISH)
                self.cuts.append(sorted(known.values(), key=lambda outcome: outcome.proposal.number))
            if not running:
                return self
            over = sum(outcome.status is not None for outcome in known.values())
            proposal = running.pop(_luck(over) % len(running))
            outcome = _ended(proposal, over)
            study.report(proposal.number, outcome.curve)
            assert outcome.status is not None
            study.end(proposal.number, outcome.status, outcome.costs, outcome.cause)
            known[proposal.number] = outcome

    def cut(self, place: int) -> None:
        """Cut it when so many trials were proposed, and see that it goes on as it did."""
        running = sum(outcome.status is None for outcome in self.cuts[place])
        rest = Life(self.sampler, self.objectives, self.at_once).live(self.cuts[place])
        continued = {proposal.number for proposal in rest.proposals[:running]}
        assert continued == {outcome.proposal.number for outcome in self.cuts[place] if outcome.status is None}
        assert _plain(rest.proposals[running:]) == _plain(self.proposals[place + 1 :])

    @property
    def _trials(self) -> int:
        return COSTLY if self.sampler == "gp" else WHOLE


@cache
def life(sampler: str, objectives: int = 1, at_once: int = 1) -> Life:
    return Life(sampler, objectives, at_once).live()


def _plain(proposals: Sequence[Proposal]) -> list[tuple[int, str, str]]:
    return [(proposal.number, proposal.kind, json.dumps(proposal.values)) for proposal in proposals]


def _written(proposal: Proposal) -> Proposal:
    """As it comes back from the lake, where a list is a list."""
    return Proposal(proposal.number, proposal.kind, SPACE.active(json.loads(json.dumps(proposal.values))))


def _luck(number: int) -> int:
    return int(hashlib.sha256(str(number).encode()).hexdigest()[:8], 16)


def _curve(proposal: Proposal) -> Curve:
    text = json.dumps(proposal.values, sort_keys=True)
    best = 0.9 - abs(proposal.values.get("loss.attention", 0.5) - 0.7) + 1e-3 * (_luck(proposal.number + len(text)) % 100)
    return [(epoch, best * epoch / (epoch + 2)) for epoch in range(1, EPOCHS + 1)]


def _ended(proposal: Proposal, moment: int) -> Outcome:
    """How a trial ends: mostly well, and in every other way too."""
    ends: dict[int, tuple[str, int, str | None]] = {
        3: (INFEASIBLE, 1, SETTING),
        4: (STOPPED, 2, None),
        5: (DIVERGED, 2, SETTING),
        6: (FAILED, 3, MACHINE),
        8: (FAILED, 1, SETTING),
        9: (STOPPED, 3, None),
        10: (INFEASIBLE, 1, SETTING),
    }
    status, epochs, cause = ends.get(proposal.number % 16, (FINISHED, EPOCHS, None))
    costs = {"gpu_hours": 1.0 + _luck(proposal.number) % 7} if status == FINISHED else {}
    ended = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=moment)
    return Outcome(_written(proposal), status, _curve(proposal)[:epochs], costs, cause, ended)


@pytest.mark.parametrize("where", [3, STARTUP, 0.8], ids=["in the startup", "at its border", "with a model"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_cut_search_proposes_what_the_uncut_one_does(sampler: str, where: float) -> None:
    whole = life(sampler)
    whole.cut(int(where if where >= 1 else where * len(whole.proposals)))


@pytest.mark.parametrize("sampler", [name for name in SEVERAL if name != "gp"])
def test_so_it_does_with_several_objectives(sampler: str) -> None:
    whole = life(sampler, 2)
    whole.cut(len(whole.proposals) - 4)


@pytest.mark.parametrize("sampler", ["curves", "tpe", "cmaes", "quasirandom", "nsga2"])
def test_so_it_does_with_several_trials_at_once(sampler: str) -> None:
    whole = life(sampler, at_once=3)
    whole.cut(6)
    whole.cut(22)


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_settings_are_tried_twice(at_once: int) -> None:
    whole = life("quasirandom", at_once=at_once)
    whole.cut(WHOLE // 2)  # goes on with the points that come next
    points = [json.dumps(proposal.values) for proposal in whole.proposals if proposal.number > 1]
    assert len(set(points)) == len(points) == WHOLE - 2


@pytest.mark.long
@pytest.mark.survival
@pytest.mark.parametrize("draw", range(100))
def test_a_hundred_cuts_at_random_moments(draw: int) -> None:
    random = np.random.default_rng(draw)
    sampler = list(SAMPLERS)[draw % len(SAMPLERS)]
    objectives = int(random.integers(1, 3)) if sampler in SEVERAL and sampler != "gp" else 1
    whole = life(sampler, objectives)
    whole.cut(int(random.integers(len(whole.proposals))))


@pytest.mark.long
def test_a_real_search_goes_on_as_it_would_have(tmp_path: Path) -> None:
    arguments = ("--space", tiny(tmp_path, epochs=1), "--storage", tmp_path / "lake", "--max-concurrent", 1)
    here(*arguments, "--trials", 5, "--name", "whole")
    here(*arguments, "--trials", 3, "--name", "cut")  # of four at random
    here("--resume", "cut", "--storage", tmp_path / "lake", "--trials", 5)
    whole, cut = (trials(tmp_path / "lake", name) for name in ("whole", "cut"))
    fields = ["number", "kind", "validation_dice", *(f"config.{path}" for path in load(tiny(tmp_path)).parameters)]
    assert cut[fields].equals(whole[fields])


def test_other_machines_do_not_change_how_many_are_random() -> None:
    plan = make_plan(Options(space="phantom", time_budget=3600), [Node(512, 64)])
    assert plan.startup == 64
    description = json.loads(json.dumps(plan.describe()))
    options = Options.from_dict(description["arguments"])
    assert remake_plan(description, options, [Node(16, 2)]).startup == 64
    assert remake_plan(description, replace(options, trials=9), [Node(512, 64)]).startup == 64
    del description["startup"]  # as earlier versions wrote it
    assert remake_plan(description, options, [Node(16, 2)]).startup == 6
