"""The training loop: exact resume, workers that share one batch, weights that are switched off, and clear ends."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import run
from safetensors.torch import load_file

from cdal.checkpoint import load_model
from cdal.config import Config
from cdal.data import Dataset, open_dataset
from cdal.errors import DivergedError, InputError
from cdal.pulse import Ended, listening
from cdal.train import main
from cdal.trainer import Draws, Trainer
from cdal.training import BEST, LAST, MIDWAY, Report, history, train

SMALL: dict[str, Any] = {
    "model.image_size": 16,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.attention_resolutions": [8],
    "model.encoder_blocks": 0,
    "model.latent_size": 8,
    "model.latent_embedding": 16,
    "model.discriminator_width": 4,
    "model.discriminator_time_embedding": 8,
    "diffusion.timesteps": 2,
    "loss.r1_interval": 2,
    "loss.adversarial": 0.1,
    "optimiser.ema_decay": 0.5,
    "optimiser.cosine_epochs": 3,
    "training.epochs": 3,
    "training.steps_per_epoch": 3,
    "training.batch_size": 8,
    "evaluation.validation_cases": 2,
}


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return open_dataset("phantom", size=16, cases=12, classes=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, phantom: Dataset) -> tuple[list[Report], Path]:
    """Reports and folder of a training of `small()` that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return list(train(small(), phantom, folder)), folder


def small(**changes: Any) -> Config:
    return Config().replace(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def numbers(reports: list[Report]) -> list[dict[str, Any]]:
    """What must not depend on the machine's speed."""
    return [
        {key: value for key, value in report.values.items() if not key.endswith(("seconds", "per_second", "bytes"))}
        for report in reports
    ]


def assert_same_checkpoint(a: Path, b: Path) -> None:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"model__architecture": "unet"}, {"loss__attention": 0, "loss__adversarial": 0}])
def test_reports_and_checkpoints(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path], changes: dict[str, Any]
) -> None:
    config = small(**changes)
    reports, folder = (list(train(config, phantom, tmp_path)), tmp_path) if changes else whole
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.step for report in reports] == [3, 6, 9]
    assert [report.last for report in reports] == [False, False, True]
    assert history(folder) == reports
    assert all(math.isfinite(report.values["loss_generator"]) for report in reports)
    assert reports[-1].values["images"] == 72

    best = max(report.values["dice"] for report in reports)
    assert [report for report in reports if report.best][-1].values["dice"] == best
    loaded, generator = load_model(folder / BEST)
    assert loaded == config
    assert not generator.training

    saved = load_file(folder / LAST)
    trains_discriminator = any(name.startswith("discriminator.") for name in saved)
    assert trains_discriminator == (changes == {})
    assert ("loss_discriminator" in reports[0].values) == trains_discriminator


@pytest.mark.long
@pytest.mark.parametrize("cut_after", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path], cut_after: int
) -> None:
    config, (reports, folder) = small(), whole
    first = train(config, phantom, tmp_path)
    for _ in range(cut_after):
        next(first)
    first.close()
    rest = list(train(config, phantom, tmp_path))
    assert [report.epoch for report in rest] == list(range(cut_after + 1, 4))
    assert numbers(history(tmp_path)) == numbers(reports)
    assert_same_checkpoint(tmp_path / LAST, folder / LAST)
    assert_same_checkpoint(tmp_path / BEST, folder / BEST)
    assert list(train(config, phantom, tmp_path)) == []


@pytest.mark.parametrize("signs", [1, 4, 6])
def test_an_epoch_that_is_ended_in_its_middle_goes_on_there(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path], signs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, (reports, folder) = small(), whole
    left, step, made = [signs], Trainer.step, list[int]()

    def end() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Ended

    def count(self: Trainer, *arguments: Any) -> Any:
        made.append(self.steps)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", count)
    with pytest.raises(Ended), listening(end):
        list(train(config, phantom, tmp_path))
    assert (tmp_path / MIDWAY).is_file()
    list(train(config, phantom, tmp_path))
    assert made == list(range(reports[-1].step)), "a step was repeated or left out"
    assert numbers(history(tmp_path)) == numbers(reports)
    assert_same_checkpoint(tmp_path / LAST, folder / LAST)
    assert_same_checkpoint(tmp_path / BEST, folder / BEST)
    assert not (tmp_path / MIDWAY).exists()


def test_what_was_kept_of_another_epoch_or_is_torn_is_not_taken_up(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path]
) -> None:
    config, (reports, _) = small(), whole
    steps = iter(range(10))

    def end() -> None:
        if next(steps) == 0:
            raise Ended

    with pytest.raises(Ended), listening(end):
        list(train(config, phantom, tmp_path))
    kept = (tmp_path / MIDWAY).read_bytes()
    next(train(config, phantom, tmp_path))
    for content in (kept, kept[:-9]):
        (tmp_path / MIDWAY).write_bytes(content)
        next(train(config, phantom, tmp_path))
        assert not (tmp_path / MIDWAY).exists()
    assert numbers(history(tmp_path)) == numbers(reports)


@pytest.mark.long
def test_a_run_killed_inside_an_epoch_repeats_that_epoch(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, (reports, folder) = small(), whole
    step = Trainer.step

    def dies(self: Trainer, *args: Any) -> Any:
        if self.steps == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        list(train(config, phantom, tmp_path))
    monkeypatch.undo()
    list(train(config, phantom, tmp_path))
    assert numbers(history(tmp_path)) == numbers(reports)
    assert_same_checkpoint(tmp_path / LAST, folder / LAST)


def test_more_epochs_may_be_asked_for_later(tmp_path: Path, phantom: Dataset) -> None:
    list(train(small(training__epochs=1), phantom, tmp_path))
    assert [report.epoch for report in train(small(training__epochs=2), phantom, tmp_path)] == [2]


def test_another_configuration_needs_another_folder(phantom: Dataset, whole: tuple[list[Report], Path]) -> None:
    with pytest.raises(InputError, match=r"was trained with loss.adversarial = 0.1, not 0.2; use another folder"):
        next(train(small(loss__adversarial=0.2), phantom, whole[1]))


@pytest.mark.long
def test_the_callers_random_state_does_not_matter(tmp_path: Path, phantom: Dataset) -> None:
    config = small(training__epochs=1)
    torch.manual_seed(1)
    (one,) = train(config, phantom, tmp_path / "a")
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    (two,) = train(config, phantom, tmp_path / "b")
    assert numbers([one]) == numbers([two])
    assert torch.equal(state, torch.random.get_rng_state())
    (other,) = train(small(training__epochs=1, training__seed=1), phantom, tmp_path / "c")
    assert numbers([other]) != numbers([one])


def numbers_close(ours: list[Report], theirs: list[Report], rel: float = 1e-3) -> None:
    for one, other in zip(numbers(ours), numbers(theirs), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith(("loss", "r1", "attention")):
                assert one[name] == pytest.approx(other[name], rel=rel, abs=1e-6), name


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"model__architecture": "unet"}, {"model__mask_channels": 3}])
def test_a_batch_in_parts_gives_the_same_numbers(tmp_path: Path, phantom: Dataset, changes: dict[str, Any]) -> None:
    """The soft Dice, which counts over the batch, and the discriminator's groups of four included."""
    data = open_dataset("phantom", size=16, cases=12, classes=2) if "model__mask_channels" in changes else phantom
    changes |= {"loss__soft_dice": 1.0, "optimiser__lr_generator": 1e-3, "training__batch_size": 16, "training__epochs": 1}
    whole = list(train(small(**changes), data, tmp_path / "whole"))
    parts = list(train(small(training__accumulation=4, **changes), data, tmp_path / "parts"))
    numbers_close(parts, whole)
    assert [report.values["images"] for report in parts] == [48]


@pytest.mark.long
def test_a_batch_that_does_not_fit_is_computed_with_less_memory(
    tmp_path: Path, phantom: Dataset, whole: tuple[list[Report], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (reports, _), step, made = whole, Trainer.step, []

    def fits_only_when_recomputing(self: Trainer, *args: Any) -> Any:
        made.append(self.recompute)
        if self.steps == 4 and not self.recompute:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, *args)

    monkeypatch.setattr(Trainer, "step", fits_only_when_recomputing)
    with pytest.warns(UserWarning, match="a batch does not fit the memory"):
        tight = list(train(small(), phantom, tmp_path))
    assert made == [False] * 5 + [True] * 6
    assert [report.values["lr_generator"] for report in tight] == [report.values["lr_generator"] for report in reports]
    numbers_close(tight, reports)


def test_memory_that_does_not_suffice_at_all(tmp_path: Path, phantom: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_fits(self: Trainer, *args: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Trainer, "step", never_fits)
    with pytest.warns(UserWarning, match="does not fit"), pytest.raises(torch.OutOfMemoryError):
        list(train(small(), phantom, tmp_path))


def a_step(trainer: Trainer) -> dict[str, torch.Tensor]:
    """One step on a batch that is always the same."""
    model, rng = trainer.config.model, torch.Generator().manual_seed(0)
    masks = (8, model.mask_channels, model.image_size, model.image_size)
    image, mask = torch.randn(8, 1, *masks[2:], generator=rng), torch.randn(masks, generator=rng).sign()
    return trainer.step(image, mask, Draws.random(masks, trainer.config.diffusion.timesteps, model.latent_size, rng))


@pytest.mark.long
def test_recomputed_activations_give_the_same_weights() -> None:
    kept, recomputed = (Trainer(small(), torch.device("cpu"), recompute=recompute) for recompute in (False, True))
    for _ in range(2):  # with R1 and without
        ours, theirs = a_step(recomputed), a_step(kept)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6) for name in ours)
    for name, tensor in kept.state().items():
        torch.testing.assert_close(recomputed.state()[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_discriminator_may_be_updated_more_rarely() -> None:
    trainer = Trainer(small(optimiser__discriminator_interval=2, loss__r1_interval=2), torch.device("cpu"))
    assert trainer.discriminator is not None
    for number in range(6):
        before = [parameter.clone() for parameter in trainer.discriminator.parameters()]
        losses = a_step(trainer)
        changed = any(not torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))
        assert changed == ("loss_discriminator" in losses) == (number % 2 == 0)
        assert ("r1_penalty" in losses) == (number % 4 == 0)  # the interval counts updates
        assert "attention_mean" in losses


def test_the_penalty_may_be_rescaled_by_its_interval() -> None:
    plain, rescaled = (
        a_step(Trainer(small(loss__r1_interval=8, loss__r1_rescaled=on), torch.device("cpu"))) for on in (False, True)
    )
    assert float(rescaled["r1_penalty"]) == pytest.approx(8 * float(plain["r1_penalty"]), rel=1e-5)
    assert torch.equal(rescaled["loss_real"], plain["loss_real"])


def test_half_precision_stays_close_and_keeps_weights_losses_and_r1_in_full(tmp_path: Path, phantom: Dataset) -> None:
    full, half = (Trainer(small(training__precision=precision), torch.device("cpu")) for precision in ("fp32", "bf16"))
    ours, theirs = a_step(half), a_step(full)
    assert all(value.dtype == torch.float32 for value in (*ours.values(), *half.state().values()))
    assert torch.equal(ours["r1_penalty"], theirs["r1_penalty"])  # at the first step the discriminators are equal
    assert torch.equal(ours["loss_real"], theirs["loss_real"])  # it shares that pass
    for name in ours:
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=0.05, abs=0.02), name
    assert not torch.equal(ours["attention_mean"], theirs["attention_mean"])
    (report,) = train(small(training__precision="bf16", training__epochs=1), phantom, tmp_path)
    assert math.isfinite(report.values["loss_generator"])


def test_divergence_ends_with_a_reason(tmp_path: Path, phantom: Dataset) -> None:
    config = small(optimiser__lr_generator=1e30, optimiser__cosine_epochs=0, training__epochs=5)
    with pytest.raises(DivergedError, match=r"loss_\w+ became (nan|inf) in epoch \d, step \d+"):
        list(train(config, phantom, tmp_path))


def test_learning_rates_follow_the_cosine(tmp_path: Path, phantom: Dataset) -> None:
    config = small(optimiser__lr_generator=1e-3, optimiser__lr_floor=1e-4, training__steps_per_epoch=1)
    rates = [report.values["lr_generator"] for report in train(config, phantom, tmp_path)]
    expected = [1e-4 + 9e-4 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__mask_channels": 3}, "model.mask_channels is 3, but dataset phantom has 1"),
        ({"model__image_channels": 3}, "model.image_channels is 3, but dataset phantom has 1"),
        ({"model__image_size": 32}, "model.image_size is 32, but dataset phantom has 16"),
        ({"training__batch_size": 6}, "at most 4 or a multiple of 4"),
        ({"training__accumulation": 3}, "training.accumulation is 3 for a worker's share of 8 samples"),
        ({"training__accumulation": 4}, "parts must be equal, and multiples of 4"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path: Path, phantom: Dataset, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        next(train(small(**changes), phantom, tmp_path))


TINY = [
    *("--set", "training.epochs=2", "--set", "training.steps_per_epoch=2", "--set", "training.batch_size=8"),
    *("--set", "model.width_multipliers=[1,1]", "--set", "model.base_width=8"),
    *("--set", "model.encoder_blocks=0", "--set", "model.discriminator_width=4"),
    *("--set", "loss.adversarial=0.1", "--set", "loss.soft_dice=1", "--set", "evaluation.validation_cases=2"),
    *("--set", "optimiser.lr_generator=1e-3"),
]


@pytest.mark.long
def test_two_workers_compute_what_one_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Minibatch statistics included: a worker's share keeps the discriminator's groups together."""
    assert main(["--device", "cpu", "--out", str(tmp_path / "one"), *TINY]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = run([*launcher, "-m", "cdal.train", "--device", "cpu", "--out", tmp_path / "two", *TINY])
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("epoch") == capsys.readouterr().out.count("epoch")
    for ours, theirs in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for name, value in ours.values.items():
            if name.startswith(("loss", "r1", "attention", "images")) and not name.endswith("per_second"):
                assert theirs.values[name] == pytest.approx(value, rel=2e-3), name


@pytest.mark.long
def test_a_training_does_not_wait_for_a_compiler(tmp_path: Path) -> None:
    """Importing it takes as long as importing torch, in every process that trains."""
    script = """
import sys
from cdal.train import main
for epochs in (2, 3):  # begun, and gone on with
    assert main([*sys.argv[1:], "--set", f"training.epochs={epochs}"]) == 0
print("torch._dynamo" in sys.modules)
"""
    done = run([sys.executable, "-c", script, "--device", "cpu", "--out", tmp_path / "run", *TINY])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_command_line_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, words in (
        (["--dataset", "hippocampus"], "give its folder with --data"),
        (["--set", "loss.adversarial=much"], "loss.adversarial is 'much'; it must be a number"),
        (["--fold", "9"], "fold"),
        (["--device", "nowhere"], "--device is nowhere, which PyTorch cannot use here"),
    ):
        assert main(["--out", str(tmp_path / "x"), *args]) == 2
        told = capsys.readouterr().err
        assert words in told
        assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
