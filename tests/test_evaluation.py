"""Metrics, votes, windows, and what a result depends on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import dataset_of
from safetensors.torch import load_file
from torch import Tensor

from cdal.data import Case, DatasetSpec, encode_mask, open_dataset
from cdal.data.cases import CaseDataset
from cdal.data.folds import PARTITION_NAMES
from cdal.data.phantom import PhantomDataset
from cdal.evaluation import CaseResult, Sample, decide, dice_and_iou, evaluate, hd95, probabilities, validate

VOLUME = DatasetSpec(
    name="v",
    image_channels=1,
    classes=("a", "b"),
    image_size=8,
    volumetric=True,
    sample_depth=8,
    folds=PARTITION_NAMES,
    protocol="",
    licence="",
)


def volumes(count: int = 6, spec: DatasetSpec = VOLUME) -> CaseDataset:
    """Volumes of different shapes, some smaller than a window, whose image holds the label: 0, 1, 2 as -1, 0, 1."""
    rng = torch.Generator().manual_seed(0)
    cases = []
    for number in range(count):
        label = torch.randint(0, len(spec.classes) + 1, (5 + number, 11, 19 - 2 * number), dtype=torch.uint8, generator=rng)
        cases.append(Case(id=f"case_{number}", image=label[None].float() - 1, label=label, spacing=(2.0, 1.0, 0.5)))
    return dataset_of(spec, cases)


def oracle(images: Tensor, _: torch.Generator) -> Tensor:
    """Reads the label from the image."""
    return encode_mask((images[:, 0] + 1).to(torch.uint8), 3)


def noisy(images: Tensor, rng: torch.Generator) -> Tensor:
    return oracle(images, rng) + 2 * torch.randn(len(images), 3, *images.shape[2:], generator=rng)


def full(dataset: CaseDataset, sample: Sample, cases: tuple[str, ...] | None = None, **settings: object) -> list[CaseResult]:
    common = {"votes": 3, "multiple": 4, "seed": 0, "device": "cpu"}
    return list(evaluate(dataset, cases or dataset.ids, sample, **common | settings))


def table(result: CaseResult) -> list[tuple[object, ...]]:
    """Everything of a result but the time it took."""
    return [(score.class_name, score.votes, score.dice, score.iou, score.hd95) for score in result.scores]


def test_dice_and_iou_by_hand() -> None:
    # Classes: partly found, missed, invented, absent from both, found exactly.
    both, predicted, true = (np.array(counts) for counts in ([2, 0, 0, 0, 7], [3, 0, 4, 0, 7], [5, 6, 0, 0, 7]))
    dice, iou = dice_and_iou(both, predicted, true)
    np.testing.assert_allclose(dice, [4 / 8, 0, 0, 1, 1])
    np.testing.assert_allclose(iou, [2 / 6, 0, 0, 1, 1])


def test_hd95_by_hand() -> None:
    true = torch.zeros(12, 12, 12, dtype=torch.bool)
    true[4:7, 4:7, 4:7] = True
    assert hd95(true, true, (1, 1, 1)) == 0
    assert hd95(true.roll(2, 0), true, (3, 1, 1)) == pytest.approx(6)
    assert hd95(true.roll(2, 1), true, (3, 1.5, 1)) == pytest.approx(3)
    assert hd95(true.roll(2, 2), true, (3, 1, 0.5)) == pytest.approx(1)
    point, far = torch.zeros(2, 9, 9, 9, dtype=torch.bool)
    point[1, 1, 1] = far[1, 4, 5] = True
    assert hd95(point, far, (1, 1, 1)) == pytest.approx(5)


def test_hd95_of_an_image_is_measured_in_its_plane() -> None:
    true = torch.zeros(1, 12, 12, dtype=torch.bool)
    true[0, 4:8, 4:8] = True
    assert hd95(true.roll(3, 2), true, (99, 1, 2)) == pytest.approx(6)
    assert hd95(true, true, (99, 1, 2)) == 0


def test_hd95_of_empty_masks() -> None:
    empty, some = torch.zeros(3, 4, 12, dtype=torch.bool), torch.ones(3, 4, 12, dtype=torch.bool)
    assert hd95(empty, empty, (1, 1, 1)) == 0
    assert hd95(some, empty, (1, 1, 1)) == hd95(empty, some, (1, 1, 1)) == 13


@pytest.mark.parametrize(("name", "foreground"), [("monu", 1), ("lung", -1)])
def test_votes_agree_with_the_released_evaluation(parity: Path, name: str, foreground: int) -> None:
    golden = load_file(parity / "metrics_vote.safetensors")
    expected = json.loads((parity / "manifest.json").read_text())["metrics_vote"][name]
    votes, truth = golden[f"{name}.votes"], golden[f"{name}.gt"]
    probability = probabilities(votes).mean(dim=0, keepdim=True)
    torch.testing.assert_close(probability, golden[f"{name}.prob"], atol=1e-6, rtol=0)
    assert torch.equal(decide(probability), golden[f"{name}.pred"][0].to(torch.uint8))

    label = (truth[0] == foreground).to(torch.uint8)
    spec = DatasetSpec(
        name=name, image_channels=1, classes=("x",), image_size=32, volumetric=False, folds=PARTITION_NAMES, protocol="",
        licence="", foreground=foreground,
    )  # fmt: skip
    dataset = dataset_of(spec, [Case(id=f"{i}", image=torch.zeros(1, 1, 32, 32), label=label) for i in range(4)])
    stored = iter(votes)
    (result,) = evaluate(dataset, ["0"], lambda images, rng: next(stored)[None], votes=len(votes), multiple=8, seed=0, device="cpu")
    assert result.scores[-1].votes == len(votes) == expected["n_votes"]
    assert result.scores[-1].dice == pytest.approx(expected["f1"], abs=1e-12)
    assert result.scores[-1].iou == pytest.approx(expected["iou"], abs=1e-12)


def test_half_is_rounded_to_even_before_the_foreground_is_told() -> None:
    assert decide(torch.tensor([0.49, 0.5, 0.51]).reshape(1, 1, 1, 3)).tolist() == [[[0, 0, 1]]]
    assert decide(torch.tensor([0.49, 0.5, 0.51]).reshape(1, 1, 1, 3), foreground=-1).tolist() == [[[1, 1, 0]]]


def test_probabilities_leave_the_masks_alone() -> None:
    masks = torch.tensor([-3.0, -1, 0, 1, 3])
    assert probabilities(masks).tolist() == [0, 0, 0.5, 1, 1]
    assert masks.tolist() == [-3, -1, 0, 1, 3]


@pytest.mark.parametrize("settings", [{"window": "whole"}, {"window": "sliding"}, {"blend": "rounded"}, {"overlap": 0.0}])
def test_a_perfect_sampler_is_perfect_on_the_grid_of_every_case(settings: dict) -> None:
    dataset = volumes()
    results = full(dataset, oracle, **settings)
    assert [result.case_id for result in results] == list(dataset.ids)
    for result in results:
        case = dataset.case(result.case_id)
        assert torch.equal(result.labels, case.label)
        assert result.labels.dtype == torch.uint8
        assert result.entropy.shape == case.label.shape
        assert result.entropy.max() == 0
        assert [(score.class_name, score.votes) for score in result.scores] == [(name, n) for n in (1, 2, 3) for name in "ab"]
        assert all((score.dice, score.iou, score.hd95) == (1, 1, 0) for score in result.scores)
        assert result.dice == 1


def test_scores_are_those_of_the_labels() -> None:
    dataset = volumes()
    for result in full(dataset, noisy, votes=2):
        true = dataset.case(result.case_id).label
        for index, score in enumerate(result.scores[-2:], start=1):
            found, there = (result.labels == index).numpy(), (true == index).numpy()
            assert score.dice == pytest.approx(2 * (found & there).sum() / (found.sum() + there.sum()))
            assert score.iou == pytest.approx((found & there).sum() / (found | there).sum())
            assert 0 < score.dice < 1


def test_absent_classes_in_a_case() -> None:
    label = torch.zeros(8, 8, 8, dtype=torch.uint8)
    label[:4] = 1
    empty = torch.zeros(8, 8, 8, dtype=torch.uint8)
    cases = [Case(id=f"{i}", image=torch.zeros(1, 8, 8, 8), label=(label, empty, label, empty)[i]) for i in range(4)]
    dataset = dataset_of(VOLUME, cases)

    def nothing(images: Tensor, _: torch.Generator) -> Tensor:
        return encode_mask(torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8), 3)

    missed, right = full(dataset, nothing, ("0", "1"), votes=1)
    diagonal = math.sqrt(3 * 8**2)
    assert table(missed) == [("a", 1, 0, 0, diagonal), ("b", 1, 1, 1, 0)]
    assert table(right) == [("a", 1, 1, 1, 0), ("b", 1, 1, 1, 0)]
    score = validate(dataset, ["0", "1"], nothing, votes=1, multiple=4, seed=0, device="cpu")
    assert score.class_dice == (0.5, 1.0)
    assert (score.dice, score.iou) == (0.75, 0.75)


@pytest.mark.parametrize("settings", [{"window": "whole"}, {"window": "sliding"}, {"blend": "rounded"}])
def test_a_prefix_is_what_fewer_votes_give(settings: dict) -> None:
    dataset = volumes(4)
    for many, few in zip(full(dataset, noisy, votes=5, **settings), full(dataset, noisy, votes=2, **settings), strict=True):
        assert table(many)[:4] == table(few)


def test_more_votes_are_better_and_less_sure_than_one() -> None:
    results = full(volumes(), noisy, votes=15, window="whole")
    dice = [np.mean([score.dice for result in results for score in result.scores if score.votes == n]) for n in (1, 5, 15)]
    assert dice[0] < dice[1] < dice[2]
    for result in results:
        assert 0 <= result.entropy.min() < result.entropy.max() <= 1
        assert [score.seconds for score in result.scores[::2]] == pytest.approx([result.seconds * n / 15 for n in range(1, 16)])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_windows_are_those_of_monai(overlap: float) -> None:
    """A sampler whose result depends on the place in the window, blended by MONAI's own function."""
    from monai.inferers import sliding_window_inference

    ramp = torch.arange(8 * 8.0).reshape(8, 8) / 32 - 1

    def placed(images: Tensor, _: torch.Generator) -> Tensor:
        return torch.stack([0.9 * ramp.expand(len(images), 8, 8), 0.7 * images[:, 0] - 0.3 * ramp, 0.1 - 0.5 * images[:, 0]], dim=1)

    def as_volumes(windows: Tensor) -> Tensor:
        masks = placed(windows.transpose(1, 2).flatten(0, 1), torch.Generator())
        return probabilities(masks).unflatten(0, (len(windows), 8)).transpose(1, 2)

    dataset = volumes()
    for result in full(dataset, placed, overlap=overlap, votes=1):
        image = dataset.case(result.case_id).image[None]
        theirs = sliding_window_inference(image, (8, 8, 8), 4, as_volumes, overlap, padding_mode="replicate")[0]
        top = theirs.topk(2, dim=0).values
        clear = top[0] - top[1] > 1e-5
        assert clear.float().mean() > 0.9
        assert torch.equal(result.labels[clear], theirs.argmax(0)[clear].to(torch.uint8))


def test_published_blending_rounds_within_the_window() -> None:
    """Where one window is sure and another nearly even, soft votes follow the sure one and rounded votes make a tie."""
    spec = DatasetSpec(
        name="i", image_channels=1, classes=("x",), image_size=4, volumetric=False, folds=PARTITION_NAMES, protocol="", licence=""
    )
    image, label = torch.zeros(1, 1, 4, 6), torch.zeros(1, 4, 6, dtype=torch.uint8)
    dataset = dataset_of(spec, [Case(id=f"{number}", image=image, label=label) for number in range(4)])

    def sides(images: Tensor, _: torch.Generator) -> Tensor:
        assert len(images) == 2  # the left window, then the right one
        return torch.tensor([-0.1, 1.0])[:, None, None, None].expand(2, 1, 4, 4)

    (soft,) = full(dataset, sides, ("0",), overlap=0.5, blend="soft")
    (rounded,) = full(dataset, sides, ("0",), overlap=0.5, blend="rounded")
    assert soft.labels[0, 0].tolist() == [0, 0, 1, 1, 1, 1]
    assert rounded.labels[0, 0].tolist() == [0, 0, 0, 0, 1, 1]


def test_windows_and_whole_slices_agree_for_a_sampler_that_looks_at_single_pixels() -> None:
    dataset = volumes()

    def by_pixel(images: Tensor, _: torch.Generator) -> Tensor:
        return torch.cat([0.3 - images.abs(), images * 0.7, -images * 0.9 - 0.05], dim=1)

    sliding, whole = (full(dataset, by_pixel, window=window) for window in ("sliding", "whole"))
    for one, other in zip(sliding, whole, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert table(one) == table(other)


@pytest.mark.parametrize("window", ["whole", "sliding"])
def test_samplers_get_sizes_that_they_can_halve_and_bounded_batches(window: str) -> None:
    dataset = volumes()
    sizes = set()

    def watched(images: Tensor, rng: torch.Generator) -> Tensor:
        sizes.add(tuple(images.shape[2:]))
        assert images[:, 0].numel() <= 600
        return oracle(images.clamp(-1, 1), rng)

    full(dataset, watched, window=window, max_pixels=600)
    validate(dataset, dataset.ids, watched, votes=2, multiple=4, seed=0, device="cpu", max_pixels=600)
    assert all(height % 4 == width % 4 == 0 for height, width in sizes)


def test_results_depend_on_case_and_seed_not_on_company_or_order() -> None:
    dataset = volumes()
    alone = {case_id: table(full(dataset, noisy, (case_id,))[0]) for case_id in dataset.ids}
    together = {result.case_id: table(result) for result in full(dataset, noisy, dataset.ids[::-1])}
    assert alone == together
    assert len({str(scores) for scores in alone.values()}) == len(alone)
    other_seed = {result.case_id: table(result) for result in full(dataset, noisy, seed=1)}
    assert all(other_seed[case_id] != alone[case_id] for case_id in alone)


def test_results_do_not_touch_the_global_random_state() -> None:
    dataset = volumes(4)
    before = torch.get_rng_state()
    first = [table(result) for result in full(dataset, noisy)]
    torch.manual_seed(9)
    assert first == [table(result) for result in full(dataset, noisy)]
    torch.set_rng_state(before)


def test_validation_is_the_mean_over_whole_cases() -> None:
    dataset = volumes()
    perfect = validate(dataset, dataset.ids, oracle, votes=1, multiple=4, seed=0, device="cpu")
    assert perfect.class_dice == perfect.class_iou == (1.0, 1.0)

    def by_pixel(images: Tensor, _: torch.Generator) -> Tensor:
        return torch.cat([0.3 - images.abs(), images * 0.7, -images * 0.9 - 0.05], dim=1)

    score = validate(dataset, dataset.ids, by_pixel, votes=1, multiple=4, seed=0, device="cpu")
    results = full(dataset, by_pixel, window="whole", votes=1)
    for index in range(2):
        assert score.class_dice[index] == pytest.approx(np.mean([result.scores[index].dice for result in results]))
        assert score.class_iou[index] == pytest.approx(np.mean([result.scores[index].iou for result in results]))
    assert score.dice == pytest.approx(np.mean([result.dice for result in results]))


def test_validation_repeats_itself_in_any_order() -> None:
    dataset = volumes()
    settings = {"votes": 2, "multiple": 4, "seed": 3, "device": "cpu"}
    first = validate(dataset, dataset.ids, noisy, **settings)
    assert validate(dataset, dataset.ids, noisy, **settings) == first
    assert validate(dataset, dataset.ids[::-1], noisy, **settings) == first
    assert validate(dataset, dataset.ids, noisy, **settings | {"seed": 4}) != first


def test_one_class_and_images() -> None:
    dataset = PhantomDataset(cases=8, classes=1, size=20, difficulty=0)

    def threshold(images: Tensor, rng: torch.Generator) -> Tensor:
        return images - images.mean() + 0.1 * torch.randn(images.shape, generator=rng)

    for window in ("sliding", "whole"):
        for result in full(dataset, threshold, window=window):
            assert result.labels.shape == (1, 20, 20)
            assert result.scores[-1].dice > 0.4
    assert validate(dataset, dataset.ids, threshold, votes=2, multiple=8, seed=0, device="cpu").dice > 0.4


def test_inverted_foreground() -> None:
    """The published chest X-ray encoding: the foreground is -1 in the mask and still 1 in the labels."""
    spec = DatasetSpec(
        name="i",
        image_channels=1,
        classes=("x",),
        image_size=8,
        volumetric=False,
        folds=PARTITION_NAMES,
        protocol="",
        licence="",
        foreground=-1,
    )
    label = (torch.arange(64) % 3 == 0).to(torch.uint8).reshape(1, 8, 8)
    dataset = dataset_of(spec, [Case(id=f"{i}", image=label[None].float(), label=label) for i in range(4)])
    for result in full(dataset, lambda images, _: encode_mask(images[:, 0].to(torch.uint8), 1, spec.foreground)):
        assert torch.equal(result.labels, label)


def test_real_volumes_keep_their_grid(hippocampus_folder: Path) -> None:
    dataset = open_dataset("hippocampus", hippocampus_folder)

    def dark(images: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([images, -images, torch.randn(images.shape, generator=rng) - 1], dim=1)

    cases = dataset.split(0).test[:3]
    for window in ("sliding", "whole"):
        for result in evaluate(dataset, cases, dark, votes=2, multiple=8, seed=0, device="cpu", window=window):
            assert result.labels.shape == dataset.case(result.case_id).label.shape
            assert all(math.isfinite(score.hd95) for score in result.scores)
