"""Pixels that nobody judged: they have no say in training, and count in no score."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import dataset_of
from scipy import ndimage
from tape import TapedGraphs
from torch import Tensor

from cdal import trainer as trainer_module
from cdal.checkpoint import load_model
from cdal.config import Config
from cdal.data import Augmentation, Case, DatasetSpec, training_batch
from cdal.data.cases import CaseDataset
from cdal.data.dataset import IGNORED
from cdal.data.folds import PARTITION_NAMES
from cdal.errors import InputError
from cdal.evaluation import CaseResult, Sample, evaluate, validate
from cdal.metrics import error_correlation, object_scores
from cdal.predict import full_protocol
from cdal.trainer import Draws, Trainer
from cdal.training import BEST, draw_batch, train

SIZE = 16
SMALL: dict[str, Any] = {
    "model.image_size": SIZE,
    "model.base_width": 8,
    "model.width_multipliers": [1, 1],
    "model.attention_resolutions": [8],
    "model.encoder_blocks": 1,
    "model.latent_size": 4,
    "model.latent_embedding": 8,
    "model.discriminator_width": 4,
    "model.discriminator_time_embedding": 8,
    "diffusion.timesteps": 2,
    "loss.adversarial": 0.1,
    "loss.soft_dice": 1.0,
    "loss.r1_interval": 2,
    "optimiser.ema_decay": 0.5,
    "training.batch_size": 8,
    "training.steps_per_epoch": 2,
    "training.epochs": 2,
    "evaluation.validation_cases": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "cdal": {},
    "three channels": {"model.mask_channels": 3},
    "unet": {"model.architecture": "unet"},
    "parts": {"training.accumulation": 2},
    "half": {"training.precision": "bf16"},
    "no discriminator": {"loss.attention": 0.0, "loss.adversarial": 0.0},
}


def spec(classes: int = 2, **changes: Any) -> DatasetSpec:
    values: dict[str, Any] = {
        "name": "scribbles", "image_channels": 1, "classes": ("a", "b")[:classes], "image_size": SIZE, "volumetric": False,
        "folds": PARTITION_NAMES, "protocol": "", "licence": "", "has_ignored": True,
    }  # fmt: skip
    return DatasetSpec(**values | changes)


def images(classes: int = 2, count: int = 8, **changes: Any) -> CaseDataset:
    """Images that hold their label, of which a quarter is ignored: what the image says there is wrong."""
    rng = torch.Generator().manual_seed(0)
    cases = []
    for number in range(count):
        coarse = torch.randint(0, classes + 1, (1, 6, 5), generator=rng, dtype=torch.uint8)
        label = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
        ignored = torch.rand(1, 6, 5, generator=rng).repeat_interleave(4, 1).repeat_interleave(4, 2) < 0.25
        ignored[..., :2, :2], ignored[..., -2:, -2:] = True, False
        image = torch.where(ignored, (label + 1) % (classes + 1), label)[None].float() - 1
        cases.append(Case(id=f"case_{number}", image=image, label=label.where(~ignored, IGNORED), spacing=(1.0, 0.5, 2.0)))
    return dataset_of(spec(classes, **changes), cases)


def batch(dataset: CaseDataset, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    common = {"step": 0, "batch_size": 8, "samples_per_case": 2, "mask_channels": dataset.spec.mask_channels, "seed": 0}
    image, mask, known = training_batch(dataset, dataset.ids, **common | settings)
    assert known is not None
    return image, mask, known


# --- Batches ---


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize(
    "augmentation", [Augmentation(), Augmentation(flips=True, rotation=30, scale=(0.7, 1.3))], ids=["", "changed"]
)
def test_a_batch_tells_what_is_known_and_the_rest_is_background(classes: int, augmentation: Augmentation) -> None:
    dataset = images(classes, augmentation=augmentation)
    image, mask, known = batch(dataset)
    assert known.shape == (8, 1, SIZE, SIZE)
    assert known.dtype == torch.bool
    assert 0.05 < (~known).float().mean() < 0.6
    assert set(mask.unique().tolist()) == {-1, 1}  # also where a turned label is looked up between two of its pixels
    background = mask[:, :1] == 1 if classes > 1 else mask == -1
    assert background[~known].all()
    assert not background[known].all()
    said = (image + 1).round()  # of pixels that were not blended with others, that is, all of them or those far from edges
    if augmentation == Augmentation():
        label = mask.argmax(dim=1, keepdim=True) if classes > 1 else (mask > 0).long()
        assert torch.equal(said[known].long(), label[known])


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_what_is_known(world: int) -> None:
    dataset = images(augmentation=Augmentation(flips=True, rotation=20))
    whole = batch(dataset)
    for rank in range(world):
        for share, all_of_it in zip(batch(dataset, rank=rank, world=world), whole, strict=True):
            assert torch.equal(share, all_of_it[rank::world])


def test_a_dataset_without_ignored_pixels_has_no_such_tensor() -> None:
    dataset = images()
    plain = dataset_of(
        replace(dataset.spec, has_ignored=False),
        [replace(case, label=case.label.where(case.label != IGNORED, 0)) for case in map(dataset.case, dataset.ids)],
    )
    assert training_batch(plain, plain.ids, step=0, batch_size=4, samples_per_case=1, mask_channels=3, seed=0).known is None


def test_crops_are_centred_on_foreground_and_background_but_not_on_ignored_pixels() -> None:
    label = torch.full((3, 9, 8), IGNORED, dtype=torch.uint8)
    label[0, 2, 3], label[2, 7, 1:4] = 1, 0
    numbered = torch.arange(label.numel(), dtype=torch.float32).reshape(1, *label.shape)
    dataset = dataset_of(spec(image_size=1), [Case(id="few", image=numbered, label=label)])  # crops of a pixel are their centres
    rng = np.random.default_rng(0)
    places, seen = zip(*(dataset.draw("few", 1, rng) for _ in range(2000)), strict=True)
    assert {int(one.item()) for one in seen} == {0, 1}
    assert np.mean([one.item() for one in seen]) == pytest.approx(0.5, abs=0.05)
    assert {int(one.item()) for one in places} == {2 * 8 + 3, 2 * 72 + 7 * 8 + 1, 2 * 72 + 7 * 8 + 2, 2 * 72 + 7 * 8 + 3}
    nothing = dataset_of(spec(image_size=4), [Case(id="none", image=numbered, label=torch.full_like(label, IGNORED))])
    assert (nothing.draw("none", 5, rng)[1] == IGNORED).all()


# --- Training ---


def weights_after(
    config: Config, known: Tensor | None, *, disturbed: Callable[[Tensor], Tensor] | None = None, steps: int = 2
) -> dict[str, Tensor]:
    """The state after some steps, with R1 and without; what the generator says goes through a function."""
    model, rng = config.model, torch.Generator().manual_seed(0)
    masks = (8, model.mask_channels, SIZE, SIZE)
    trainer = Trainer(config, torch.device("cpu"))
    if disturbed is not None:
        computing = trainer._half_generator.now() if trainer._half_generator else trainer.generator
        computing.register_forward_hook(lambda _, __, said: disturbed(said))
    for _ in range(steps):
        image, mask = torch.randn(8, 1, SIZE, SIZE, generator=rng), torch.randn(masks, generator=rng).sign()
        trainer.step(image, mask, Draws.random(masks, config.diffusion.timesteps, model.latent_size, rng), known)
    return trainer.state()


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_weights_do_not_depend_on_what_is_predicted_where_nobody_judged(changes: dict[str, Any]) -> None:
    config = Config().replace(SMALL | changes)
    known = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    known[..., 3:9, 2:12] = False
    everywhere = known.expand(8, 1, -1, -1)

    def disturbed(said: Tensor) -> Tensor:
        return torch.where(known, said, said.flip(0) * 0.3 - 0.5)

    usual, other = (weights_after(config, everywhere, disturbed=change) for change in (None, disturbed))
    assert usual.keys() == other.keys()
    assert all(torch.equal(usual[name], other[name]) for name in usual)
    seen, spoiled = (weights_after(config, None, disturbed=change) for change in (None, disturbed))
    assert not all(torch.equal(seen[name], spoiled[name]) for name in seen)
    assert not all(torch.equal(seen[name], usual[name]) for name in seen)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_pixels_that_are_all_known_are_as_if_nothing_were_told(changes: dict[str, Any]) -> None:
    config = Config().replace(SMALL | changes)
    told, untold = (weights_after(config, known) for known in (torch.ones(8, 1, SIZE, SIZE, dtype=torch.bool), None))
    for name, tensor in untold.items():
        torch.testing.assert_close(told[name], tensor)


def test_a_training_goes_through_and_is_another_one_than_with_background(tmp_path: Path) -> None:
    config, dataset = Config().replace(SMALL | {"model.mask_channels": 3}), images()
    plain = [replace(case, label=case.label.where(case.label != IGNORED, 0)) for case in map(dataset.case, dataset.ids)]
    ignoring, counting = (
        [report.values for report in train(config, found, tmp_path / name)]
        for name, found in (("ignoring", dataset), ("counting", dataset_of(replace(dataset.spec, has_ignored=False), plain)))
    )
    assert all(np.isfinite(values["loss_generator"]) for values in ignoring)
    assert ignoring[0]["loss_reconstruction"] < counting[0]["loss_reconstruction"]
    _, generator = load_model(tmp_path / "ignoring" / BEST)
    (scored,) = full_protocol(config, generator, dataset, dataset.ids[:1])
    assert not scored.labels[dataset.case(scored.case_id).label == IGNORED].any()


def test_a_training_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    config, dataset = Config().replace(SMALL | {"model.mask_channels": 3}), images()
    assert list(train(config, dataset, tmp_path))
    assert list(train(config, dataset, tmp_path)) == []  # the same go on
    cases = [dataset.case(case_id) for case_id in dataset.ids]
    for change, words in (
        ({"has_ignored": False}, "left out"),
        ({"classes": ("x", "y")}, "classes"),
        ({"preparation": replace(dataset.spec.preparation, windows=((0.0, 1.0),))}, "windows"),
    ):
        with pytest.raises(InputError, match=f"last.safetensors comes from .*{words}.* a folder of its own"):
            list(train(config, dataset_of(replace(dataset.spec, **change), cases), tmp_path))


def test_recorded_steps_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    config, dataset = Config().replace(SMALL | {"model.mask_channels": 3}), images()
    states = []
    for graphs in (None, TapedGraphs):
        if graphs is not None:
            monkeypatch.setattr(trainer_module, "Graphs", graphs)
        trainer = Trainer(config, torch.device("cpu"))
        for step in range(8):
            trainer.step(*draw_batch(config, dataset, dataset.ids, step, torch.device("cpu")))
        states.append(copy.deepcopy(trainer.state()))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)


# --- Scores ---


def reader(dataset: CaseDataset, junk: int, noise: float = 2.0) -> Sample:
    """Noisy votes for what a case's label says, and where it is ignored for the class `junk`; it knows cases by their images."""

    def draw(image: Tensor, rng: torch.Generator) -> Tensor:
        (case,) = (case for case in map(dataset.case, dataset.ids) if torch.equal(case.image[:, 0], image))
        said = case.label.where(case.label != IGNORED, junk)
        one_hot = (said == torch.arange(len(dataset.spec.classes) + 1, dtype=torch.uint8)[:, None, None]) * 2.0 - 1
        return one_hot + noise * torch.randn(one_hot.shape, generator=rng)

    return lambda images, rngs: torch.stack([torch.stack([draw(image, rng) for image in images]) for rng in rngs])


def everything(result: CaseResult) -> dict[str, Any]:
    values = asdict(result)
    values["scores"] = [{key: value for key, value in score.items() if key != "seconds"} for score in values["scores"]]
    return {key: value for key, value in values.items() if key != "seconds"}


def test_what_is_predicted_where_nobody_judged_counts_in_no_score() -> None:
    dataset = images()
    common: dict[str, Any] = {"multiple": 4, "seed": 0, "device": "cpu"}
    one, other = (list(evaluate(dataset, dataset.ids, reader(dataset, junk), votes=3, window="whole", **common)) for junk in (0, 2))
    for first, second, case in zip(one, other, map(dataset.case, dataset.ids), strict=True):
        ours, theirs = everything(first), everything(second)
        assert torch.equal(ours.pop("labels"), theirs.pop("labels"))
        known = case.label != IGNORED
        assert torch.equal(ours["entropy"][known], theirs.pop("entropy")[known])
        entropy = ours.pop("entropy")
        assert ours.pop("mean_entropy") == pytest.approx(theirs.pop("mean_entropy"))
        assert ours == theirs
        assert not first.labels[~known].any()
        assert not entropy[~known].any()
        assert first.mean_entropy == pytest.approx(float(entropy[known].mean()))
        assert first.entropy_error == error_correlation(entropy[known], first.labels[known] != case.label[known])
        for index, score in enumerate(first.scores[-2:], start=1):
            found, there = first.labels[known] == index, case.label[known] == index
            assert score.dice == pytest.approx(2 * (found & there).sum() / (found.sum() + there.sum()))
            assert score.volume_error == pytest.approx(2 * (found.sum() - there.sum()) / (found.sum() + there.sum()))
            assert 0 < score.dice < 1
    score, again = (validate(dataset, dataset.ids, reader(dataset, junk), votes=3, **common) for junk in (0, 2))
    assert score == again


def test_a_perfect_prediction_is_perfect_whatever_was_ignored() -> None:
    dataset = images()
    cases = []
    for case in map(dataset.case, dataset.ids):
        objects, _ = ndimage.label(np.isin(case.label.numpy(), (1, 2)))
        cases.append(replace(case, instances=torch.from_numpy(objects.astype(np.int32))))
    dataset = dataset_of(dataset.spec, cases)
    for junk in (0, 1, 2):
        sample = reader(dataset, junk, noise=0.0)
        for result in evaluate(dataset, dataset.ids, sample, votes=1, multiple=4, seed=0, device="cpu", window="whole"):
            assert {(score.dice, score.iou, score.hd95, score.assd, score.volume_error) for score in result.scores} == {
                (1, 1, 0, 0, 0)
            }
            assert all(score.aji is not None and score.panoptic_quality is not None for score in result.scores)
            assert result.entropy_error is None
        assert validate(dataset, dataset.ids, sample, votes=1, multiple=4, seed=0, device="cpu").dice == 1


def test_a_case_of_which_nothing_was_judged_is_refused() -> None:
    dataset = images()
    nothing = replace(dataset.case("case_0"), id="blank", label=torch.full_like(dataset.case("case_0").label, IGNORED))
    blank = dataset_of(dataset.spec, [nothing])
    settings: dict[str, Any] = {"votes": 1, "multiple": 4, "seed": 0, "device": "cpu"}
    with pytest.raises(InputError, match="every pixel of case blank of scribbles is ignored; leave its files out"):
        next(evaluate(blank, ["blank"], reader(blank, 0), **settings))
    with pytest.raises(InputError, match="every pixel of case blank"):
        validate(blank, ["blank"], reader(blank, 0), **settings)


def row(text: str) -> Tensor:
    """An image of one row: digits number objects, a dot is background."""
    return torch.tensor([[[0 if letter == "." else int(letter) for letter in text]]])


@pytest.mark.parametrize(
    ("predicted", "true", "known", "aji", "quality"),
    [
        ("1111....", "1100....", "11001111", 1, 1),  # an object that reaches into what nobody judged
        ("11111111", "11000011", "11000011", 1, 1),  # one that it parts stays one
        ("11111111", "11000022", "11000011", 0.5, 0),  # two true ones that one predicted joins there: half of it each
        ("....1111", "........", "11110000", 1, 1),  # nothing but unjudged
        ("...11111", "1.......", "11110000", 0, 0),  # mostly unjudged: no object, and the true one is missed
        ("1..11111", "1.......", "11110000", 1, 1),
        ("1.......", "1...2222", "11110000", 1, 1),
    ],
)
def test_objects_that_touch_what_nobody_judged(predicted: str, true: str, known: str, aji: float, quality: float) -> None:
    seen = row(known) > 0
    found = object_scores(row(predicted) > 0, row(true) * seen, seen)
    assert found == pytest.approx((aji, quality))
