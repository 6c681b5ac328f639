"""Votes, windows, and what a result depends on."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import dataset_of
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor

from cdal.config import Config
from cdal.data import Case, DatasetSpec, Preparation, encode_mask, open_dataset
from cdal.data.cases import CaseDataset
from cdal.data.folds import PARTITION_NAMES
from cdal.data.phantom import PhantomDataset
from cdal.evaluation import (
    BATCH_PIXELS,
    SLAB_PIXELS,
    CaseResult,
    Sample,
    Votes,
    decide,
    draw_votes,
    evaluate,
    prefix_means_,
    probabilities,
    validate,
)
from cdal.generator import Generator
from cdal.metrics import error_correlation, object_scores, surface_distances
from cdal.predict import sampler
from cdal.scores import Score
from cdal.sections import ModelConfig

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

TILES = DatasetSpec(
    name="t",
    image_channels=3,
    classes=("x",),
    image_size=256,
    volumetric=False,
    folds=PARTITION_NAMES,
    protocol="",
    licence="",
    preparation=Preparation(scaling="bytes", mean=(142.07, 98.48, 132.96), std=(65.78, 57.05, 57.78)),
)


def volumes(count: int = 6, spec: DatasetSpec = VOLUME) -> CaseDataset:
    """Volumes of different shapes, some smaller than a window, whose image holds the label: 0, 1, 2 as -1, 0, 1."""
    rng = torch.Generator().manual_seed(0)
    cases = []
    for number in range(count):
        label = torch.randint(0, len(spec.classes) + 1, (5 + number, 11, 19 - 2 * number), dtype=torch.uint8, generator=rng)
        cases.append(Case(id=f"case_{number}", image=label[None].float() - 1, label=label, spacing=(2.0, 1.0, 0.5)))
    return dataset_of(spec, cases)


def each(draw: Callable[[Tensor, torch.Generator], Tensor]) -> Sample:
    """A sampler from a function that draws one mask per image."""
    return lambda images, rngs: torch.stack([draw(images, rng) for rng in rngs])


@each
def oracle(images: Tensor, _: torch.Generator) -> Tensor:
    """Reads the label from the image."""
    return encode_mask((images[:, 0] + 1).to(torch.uint8), 3)


@each
def noisy(images: Tensor, rng: torch.Generator) -> Tensor:
    return encode_mask((images[:, 0] + 1).to(torch.uint8), 3) + 2 * torch.randn(len(images), 3, *images.shape[2:], generator=rng)


@each
def by_pixel(images: Tensor, _: torch.Generator) -> Tensor:
    return torch.cat([0.3 - images.abs(), images * 0.7, -images * 0.9 - 0.05], dim=1)


def full(dataset: CaseDataset, sample: Sample, cases: tuple[str, ...] | None = None, **settings: object) -> list[CaseResult]:
    common = {"votes": 3, "multiple": 4, "seed": 0, "device": "cpu"}
    return list(evaluate(dataset, cases or dataset.ids, sample, **common | settings))


def table(result: CaseResult) -> list[Score]:
    """Everything of a result but the time it took."""
    return [replace(score, seconds=0.0) for score in result.scores]


@pytest.mark.parametrize(("name", "foreground"), [("monu", 1), ("lung", -1)])
def test_votes_agree_with_the_released_evaluation(parity: Path, name: str, foreground: int) -> None:
    golden = load_file(parity / "metrics_vote.safetensors")
    expected = json.loads((parity / "manifest.json").read_text())["metrics_vote"][name]
    votes, truth = golden[f"{name}.votes"], golden[f"{name}.gt"]
    probability = prefix_means_(probabilities(votes))[-1:]
    torch.testing.assert_close(probability, golden[f"{name}.prob"], atol=1e-6, rtol=0)
    assert torch.equal(decide(probability), golden[f"{name}.pred"][0].to(torch.uint8))

    label = (truth[0] == foreground).to(torch.uint8)
    spec = DatasetSpec(
        name=name, image_channels=1, classes=("x",), image_size=32, volumetric=False, folds=PARTITION_NAMES, protocol="",
        licence="", foreground=foreground,
    )  # fmt: skip
    dataset = dataset_of(spec, [Case(id=f"{i}", image=torch.zeros(1, 1, 32, 32), label=label) for i in range(4)])
    (result,) = evaluate(dataset, ["0"], lambda *_: votes[:, None], votes=len(votes), multiple=8, seed=0, device="cpu")
    assert result.scores[-1].votes == len(votes) == expected["n_votes"]
    assert result.scores[-1].dice == pytest.approx(expected["f1"], abs=1e-12)
    assert result.scores[-1].iou == pytest.approx(expected["iou"], abs=1e-12)


def scores(result: CaseResult) -> list[dict[str, float]]:
    return [{name: getattr(score, name) for name in ("dice", "iou", "hd95", "assd", "volume_error")} for score in result.scores]


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
        assert all(
            (score.dice, score.iou, score.hd95, score.assd, score.volume_error) == (1, 1, 0, 0, 0) for score in result.scores
        )
        assert (result.dice, result.mean_entropy, result.entropy_error) == (1, 0, None)


def test_scores_are_those_of_the_labels() -> None:
    dataset = volumes()
    for result in full(dataset, noisy, votes=2):
        case = dataset.case(result.case_id)
        for index, score in enumerate(result.scores[-2:], start=1):
            found, there = result.labels == index, case.label == index
            assert score.dice == pytest.approx(2 * (found & there).sum() / (found.sum() + there.sum()))
            assert score.iou == pytest.approx((found & there).sum() / (found | there).sum())
            assert score.volume_error == pytest.approx(2 * (found.sum() - there.sum()) / (found.sum() + there.sum()))
            assert (score.hd95, score.assd) == surface_distances(found, there, case.spacing)
            assert score.aji is score.panoptic_quality is None
            assert 0 < score.dice < 1
        assert result.mean_entropy == pytest.approx(float(result.entropy.mean()))
        assert result.entropy_error == error_correlation(result.entropy, result.labels != case.label)
        assert result.entropy_error is not None


def test_where_objects_are_told_apart_they_are_scored_class_by_class() -> None:
    dataset = volumes(4)
    cases = []
    for case in map(dataset.case, dataset.ids):
        objects, _ = ndimage.label(case.label.numpy() > 0)  # of both classes
        cases.append(replace(case, instances=torch.from_numpy(objects.astype(np.int32))))
    for result, case in zip(full(dataset_of(VOLUME, cases), noisy), cases, strict=True):
        for index, score in enumerate(result.scores[-2:], start=1):
            there = case.label == index
            assert (score.aji, score.panoptic_quality) == object_scores(result.labels == index, case.instances * there)
            assert 0 < score.aji < 1


def test_absent_classes_in_a_case() -> None:
    label = torch.zeros(8, 8, 8, dtype=torch.uint8)
    label[:4] = 1
    empty = torch.zeros(8, 8, 8, dtype=torch.uint8)
    cases = [Case(id=f"{i}", image=torch.zeros(1, 8, 8, 8), label=(label, empty, label, empty)[i]) for i in range(4)]
    dataset = dataset_of(VOLUME, cases)

    @each
    def nothing(images: Tensor, _: torch.Generator) -> Tensor:
        return encode_mask(torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8), 3)

    missed, right = full(dataset, nothing, ("0", "1"), votes=1)
    perfect = {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "volume_error": 0}
    diagonal = math.sqrt(3 * 8**2)
    assert scores(missed) == [{"dice": 0, "iou": 0, "hd95": diagonal, "assd": diagonal, "volume_error": -2}, perfect]
    assert scores(right) == [perfect, perfect]
    score = validate(dataset, ["0", "1"], nothing, votes=1, multiple=4, seed=0, device="cpu")
    assert score.class_dice == (0.5, 1.0)
    assert (score.dice, score.iou) == (0.75, 0.75)


@pytest.mark.parametrize("settings", [{"window": "whole"}, {"window": "sliding"}, {"blend": "rounded"}])
def test_a_prefix_is_what_fewer_votes_give(settings: dict) -> None:
    dataset = volumes(4)
    for many, few in zip(full(dataset, noisy, votes=5, **settings), full(dataset, noisy, votes=2, **settings), strict=True):
        assert table(many)[:4] == table(few)


def test_prefixes_are_means() -> None:
    votes = torch.rand(7, 3, 4, generator=torch.Generator().manual_seed(0))
    means = prefix_means_(votes.clone())
    for number in range(1, 8):
        torch.testing.assert_close(means[number - 1], votes[:number].mean(dim=0))
        assert torch.equal(means[:number], prefix_means_(votes[:number].clone()))


@pytest.mark.parametrize("architecture", ["cdal", "unet"])
def test_a_generator_encodes_images_once_and_votes_stand_for_themselves(architecture: str) -> None:
    model = ModelConfig(
        image_size=16, image_channels=1, mask_channels=3, base_width=8, width_multipliers=(1, 2), attention_resolutions=(),
        encoder_blocks=1, latent_size=8, latent_embedding=8, latent_layers=1, discriminator="small", attention_tap=2,
        architecture=architecture,
    )  # fmt: skip
    generator = Generator.from_config(model)
    torch.nn.init.normal_(generator.out_conv.weight)
    encoded = []
    generator.image_stem.register_forward_hook(lambda *_: encoded.append(1))
    sample = sampler(Config(model=model), generator)
    images = torch.randn(2, 1, 16, 24)
    many, few = (sample(images, [torch.Generator().manual_seed(seed) for seed in range(votes)]) for votes in (4, 2))
    assert len(encoded) == 2
    assert many.shape == (4, 2, 3, 16, 24)
    torch.testing.assert_close(many[:2], few, rtol=1e-4, atol=1e-5)  # some CPUs round larger batches in another order
    assert torch.equal(many[0], many[1]) == (architecture == "unet")
    assert -1 <= many.min() < many.max() <= 1


def test_more_votes_are_better_and_less_sure_than_one() -> None:
    results = full(volumes(), noisy, votes=15, window="whole")
    dice = [np.mean([score.dice for result in results for score in result.scores if score.votes == n]) for n in (1, 5, 15)]
    assert dice[0] < dice[1] < dice[2]
    for result in results:
        assert 0 <= result.entropy.min() < result.entropy.max() <= 1
        assert [score.seconds for score in result.scores[::2]] == pytest.approx([result.seconds * n / 15 for n in range(1, 16)])


def unsure(channels: int, votes: set[int] | None = None) -> Sample:
    """Says what the first channel of an image holds, as unsure as the second says; adds every vote it is asked for to a set."""

    @each
    def draw(images: Tensor, rng: torch.Generator) -> Tensor:
        if votes is not None:
            votes.add(rng.initial_seed())
        said = images[:, :1] if channels == 1 else encode_mask((images[:, 0] + 1).to(torch.uint8), channels)
        return said + images[:, 1:] * torch.randn(len(images), channels, *images.shape[2:], generator=rng)

    return draw


def unsure_image(channels: int, shape: tuple[int, int, int] = (3, 24, 24), most: float = 3.0) -> Tensor:
    """An image (2, D, H, W) for `unsure`, which is sure of three quarters and then less and less."""
    rng = torch.Generator().manual_seed(0)
    said = torch.randint(0, 2, shape, generator=rng) * 2 - 1 if channels == 1 else torch.randint(0, 3, shape, generator=rng) - 1
    return torch.stack([said, torch.linspace(-3 * most, most, shape[-1]).clamp(min=0).expand(shape)]).float()


def draw_unsure(image: Tensor, channels: int, votes: int = 60, seen: set[int] | None = None, **settings: object) -> Votes:
    spec = replace(VOLUME, image_channels=2, classes=("a", "b")[: max(1, channels - 1)])
    common = {"votes": votes, "multiple": 8, "seed": 0, "device": "cpu"}
    return draw_votes(image, "a", spec, unsure(channels, seen), **common | settings)


@pytest.mark.parametrize(
    "settings", [{"window": "whole"}, {"overlap": 0.0}, {"overlap": 0.5}, {"overlap": 0.5, "blend": "rounded"}], ids=str
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_drawing_ends_early_with_the_first_of_all_votes(channels: int, depth: int, settings: dict) -> None:
    image = unsure_image(channels)[:, :depth]
    drawn: set[int] = set()
    early, full = draw_unsure(image, channels, seen=drawn, confidence=0.95, **settings), draw_unsure(image, channels, **settings)
    assert early.used in (6, 9, 13, 19, 28, 42)
    assert len(drawn) == early.used
    assert full.used == len(full.labels) == len(early.labels) == 60
    assert torch.equal(early.labels[: early.used], full.labels[: early.used])
    assert (early.labels[early.used :] == early.labels[early.used - 1]).all()
    assert not torch.equal(early.labels[-1], early.labels[0])
    torch.testing.assert_close(early.entropy, draw_unsure(image, channels, early.used, **settings).entropy)


@pytest.mark.long
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("blend", ["soft", "rounded"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_confidence_keeps_its_word(channels: int, blend: str, confidence: float) -> None:
    """Over many cases, all votes change no more pixels than they were expected to."""
    changed, foreground, used = 0, 0, []
    for seed in range(12):
        settings: dict = {"overlap": 0.5, "blend": blend, "seed": seed}
        image = unsure_image(channels)[:, :1]
        early, full = draw_unsure(image, channels, confidence=confidence, **settings), draw_unsure(image, channels, **settings)
        changed += int((early.labels[-1] != full.labels[-1]).sum())
        foreground += int(early.labels[-1].count_nonzero())
        used.append(early.used)
    assert changed <= (1 - confidence) * foreground
    assert np.mean(used) < 60


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"window": "whole"}, {"window": "sliding"}, {"blend": "rounded"}], ids=str)
def test_votes_that_agree_are_few_and_votes_that_cannot_agree_are_all(settings: dict) -> None:
    dataset = volumes(4)

    @each
    def coin(images: Tensor, rng: torch.Generator) -> Tensor:
        return encode_mask(torch.randint(0, 3, (len(images), *images.shape[2:]), generator=rng, dtype=torch.uint8), 3)

    for result in full(dataset, oracle, votes=12, confidence=0.99, **settings):
        assert result.votes_used == 4
        assert len(result.scores) == 2 * 12
        assert all((score.dice, score.hd95) == (1, 0) for score in result.scores)
        seconds = [score.seconds for score in result.scores[::2]]
        assert seconds == pytest.approx([result.seconds * min(votes, 4) / 4 for votes in range(1, 13)])
    for result in full(dataset, coin, votes=12, confidence=0.99, **settings):
        assert result.votes_used == 12
        assert [score.seconds for score in result.scores[::2]] == pytest.approx(
            [result.seconds * votes / 12 for votes in range(1, 13)]
        )
    assert {result.votes_used for result in full(dataset, oracle, votes=12, **settings)} == {12}
    assert {result.votes_used for result in full(dataset, coin, votes=3, confidence=0.5, **settings)} == {3}


def test_every_slab_of_a_volume_stops_by_itself() -> None:
    """Only the last slices of a large volume are hard: they get the draws that they would get if the first had used all votes."""
    side, votes = 512, 9
    easy = SLAB_PIXELS // side**2
    image = torch.zeros(2, easy + 2, side, side)
    image[0] = torch.where(torch.arange(side) < torch.arange(100, 100 + easy + 2)[:, None, None], 1, -1)
    image[1, easy:] = 3
    drawn: set[int] = set()
    early = draw_unsure(image, 1, votes, drawn, window="whole", confidence=0.99)
    full = draw_unsure(image, 1, votes, window="whole")
    assert early.used == full.used == votes
    assert len(drawn) == 4 + votes
    assert torch.equal(early.labels, full.labels)
    assert torch.equal(early.entropy, full.entropy)
    assert draw_unsure(image[:, :easy], 1, votes, window="whole", confidence=0.99).used == 4


def by_hand(image: Tensor, masks: Callable[[Tensor], Tensor], roi: tuple[int, int, int], overlap: float) -> Tensor:
    """Probabilities (M, D, H, W) of an image (C, D, H, W): the mean over all windows that hold a voxel, the last moved inside."""
    sides = image.shape[1:]
    gaps = [max(0, window - side) for window, side in zip(roi, sides, strict=True)]
    padded = np.pad(image.numpy(), [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps)], mode="edge")
    starts = []
    for side, window in zip(padded.shape[1:], roi, strict=True):
        step = max(1, int(window * (1 - overlap)))
        starts.append(sorted({min(start, side - window) for start in range(0, side - window + step, step)}))
    total, cover = 0.0, np.zeros(padded.shape[1:])
    for corner in itertools.product(*starts):
        box = tuple(slice(start, start + window) for start, window in zip(corner, roi, strict=True))
        piece = probabilities(masks(torch.from_numpy(padded[:, *box]).transpose(0, 1))).transpose(0, 1)
        whole = np.zeros((len(piece), *padded.shape[1:]))
        whole[:, *box] = piece
        total, cover[box] = total + whole, cover[box] + 1
    inside = tuple(slice(gap // 2, gap // 2 + side) for gap, side in zip(gaps, sides, strict=True))
    return torch.from_numpy(total / cover)[:, *inside]


def placed(images: Tensor, _: object = None) -> Tensor:
    """Depends on the place in the window."""
    height, width = images.shape[2:]
    ramp = torch.arange(float(height * width)).reshape(height, width) / (height * width / 2) - 1
    first = images[:, 0]
    return torch.stack([(0.9 * ramp).expand_as(first), 0.7 * first - 0.3 * ramp, 0.1 - 0.5 * first], dim=1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_windows_blend_with_equal_weight(overlap: float) -> None:
    dataset = volumes()
    for result in full(dataset, each(placed), overlap=overlap, votes=1):
        expected = by_hand(dataset.case(result.case_id).image, placed, (1, 8, 8), overlap)
        top = expected.topk(2, dim=0).values
        clear = top[0] - top[1] > 1e-5
        assert clear.float().mean() > 0.9
        assert torch.equal(result.labels[clear], expected.argmax(0)[clear].to(torch.uint8))


@pytest.mark.parametrize(("settings", "windows"), [({}, 3 * 7), ({"overlap": 0.0}, 2 * 3), ({"window": "whole"}, 1)])
@pytest.mark.parametrize("blend", ["soft", "rounded"])
def test_a_slice_is_drawn_once_per_window_in_its_plane(blend: str, settings: dict, windows: int) -> None:
    """Crops of the volumes are 8 slices deep, windows are not: the slices above and below one have no say in it."""
    image = torch.arange(40.0)[:, None, None].expand(1, 40, 12, 20)
    seen = []

    def watched(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        seen.extend(images[:, 0, 0, 0].int().tolist() * len(rngs))
        return encode_mask((images[:, 0] % 3).to(torch.uint8), 3).expand(len(rngs), -1, -1, -1, -1)

    votes = draw_votes(image, "a", VOLUME, watched, votes=2, multiple=4, seed=0, device="cpu", blend=blend, **settings)
    assert np.bincount(seen).tolist() == [2 * windows] * 40
    assert torch.equal(votes.labels[1], image[0] % 3)


@pytest.mark.parametrize(("side", "overlap", "tiles"), [(512, 0.0, 2), (1000, 0.0, 4), (1000, 0.25, 5)])
def test_images_are_cut_into_tiles(side: int, overlap: float, tiles: int) -> None:
    """512 pixels in tiles of 256 is the published evaluation of MoNuSeg; 1000 are its own, and no multiple of the tiles."""
    image = torch.randint(0, 256, (3, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images)
        return placed(images)[:, :2].mean(dim=1, keepdim=True)

    votes = draw_votes(
        image, "a", TILES, each(lambda images, _: watched(images)), votes=1, multiple=8, seed=0, device="cpu", overlap=overlap
    )
    windows = torch.cat(seen)
    assert windows.shape == (tiles**2, 3, 256, 256)
    assert torch.equal(windows[0], TILES.normalise(image[None, :, 0, :256, :256])[0])
    assert torch.equal(windows[-1], TILES.normalise(image[None, :, 0, -256:, -256:])[0])
    expected = by_hand(TILES.normalise(image.transpose(0, 1)).transpose(0, 1), watched, (1, 256, 256), overlap)[0]
    clear = (expected - 0.5).abs() > 1e-5
    assert clear.float().mean() > 0.9
    assert torch.equal(votes.labels[0][clear], expected.round()[clear].to(torch.uint8))


def test_published_blending_rounds_within_the_window() -> None:
    """Where one window is sure and another nearly even, soft votes follow the sure one and rounded votes make a tie."""
    spec = DatasetSpec(
        name="i", image_channels=1, classes=("x",), image_size=4, volumetric=False, folds=PARTITION_NAMES, protocol="", licence=""
    )
    image, label = torch.zeros(1, 1, 4, 6), torch.zeros(1, 4, 6, dtype=torch.uint8)
    dataset = dataset_of(spec, [Case(id=f"{number}", image=image, label=label) for number in range(4)])

    @each
    def sides(images: Tensor, _: torch.Generator) -> Tensor:
        assert len(images) == 2  # the left window, then the right one
        return torch.tensor([-0.1, 1.0])[:, None, None, None].expand(2, 1, 4, 4)

    (soft,) = full(dataset, sides, ("0",), overlap=0.5, blend="soft")
    (rounded,) = full(dataset, sides, ("0",), overlap=0.5, blend="rounded")
    assert soft.labels[0, 0].tolist() == [0, 0, 1, 1, 1, 1]
    assert rounded.labels[0, 0].tolist() == [0, 0, 0, 0, 1, 1]


def test_windows_and_whole_slices_agree_for_a_sampler_that_looks_at_single_pixels() -> None:
    dataset = volumes()
    sliding, whole = (full(dataset, by_pixel, window=window) for window in ("sliding", "whole"))
    for one, other in zip(sliding, whole, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert table(one) == table(other)


@pytest.mark.parametrize("window", ["whole", "sliding"])
def test_samplers_get_sizes_that_they_can_halve(window: str) -> None:
    dataset = volumes()
    sizes = set()

    def watched(images: Tensor, rngs: list[torch.Generator]) -> Tensor:
        sizes.add(tuple(images.shape[2:]))
        return oracle(images, rngs)

    full(dataset, watched, window=window)
    validate(dataset, dataset.ids, watched, votes=2, multiple=4, seed=0, device="cpu")
    assert all(height % 4 == width % 4 == 0 for height, width in sizes)


@pytest.mark.parametrize("settings", [{"window": "whole"}, {"window": "sliding", "overlap": 0.0}])
def test_large_volumes_go_through_in_bounded_batches_and_in_order(settings: dict) -> None:
    """Slices of one large volume, each with its own pattern, in more than two slabs; half a slab is left at the end."""
    depth, side = 5 * SLAB_PIXELS // (2 * 512**2), 512
    label = (torch.arange(side) // 32 % torch.arange(2, depth + 2)[:, None] == 0)[:, None].expand(depth, side, side).to(torch.uint8)
    spec = replace(VOLUME, image_size=256)
    most = 0

    def watched(images: Tensor, rngs: list[torch.Generator]) -> Tensor:
        nonlocal most
        most = max(most, len(images[:, 0].flatten()))
        return oracle(images, rngs)

    image = label[None].float() - 1
    seen = draw_votes(image, "a", spec, watched, votes=2, multiple=8, seed=0, device="cpu", **settings)
    assert torch.equal(seen.labels[0], label)
    assert torch.equal(seen.labels[1], label)
    assert seen.entropy.shape == label.shape
    assert most <= BATCH_PIXELS

    case = Case(id="a", image=image, label=label)
    most = 0
    dataset = dataset_of(spec, [case, *(replace(case, id=name) for name in "bcd")])
    score = validate(dataset, ["a"], watched, votes=1, multiple=8, seed=0, device="cpu")
    assert score.dice == 1
    assert most <= BATCH_PIXELS


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

    score = validate(dataset, dataset.ids, by_pixel, votes=1, multiple=4, seed=0, device="cpu")
    results = full(dataset, by_pixel, window="whole", votes=1)
    for index in range(2):
        assert score.class_dice[index] == pytest.approx(np.mean([result.scores[index].dice for result in results]))
        assert score.class_iou[index] == pytest.approx(np.mean([result.scores[index].iou for result in results]))
    assert score.dice == pytest.approx(np.mean([result.dice for result in results]))


def test_validation_cuts_large_slices_into_windows() -> None:
    """A sampler gets small pieces of large images: attention over all pixels at once would fill the memory."""
    seen = []

    def sample(images: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        seen.append(tuple(images.shape[2:]))
        return oracle(images, rngs)

    spec = replace(VOLUME, volumetric=False)
    for side, expected in ((16, {(16, 16)}), (17, {(8, 8)}), (100, {(8, 8)})):
        seen.clear()
        label = torch.randint(0, 3, (1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
        dataset = dataset_of(spec, [Case(id=f"{i}", image=label[None].float() - 1, label=label) for i in range(4)])
        assert validate(dataset, dataset.ids, sample, votes=2, multiple=4, seed=0, device="cpu").dice == 1
        assert set(seen) == expected


def test_validation_repeats_itself_in_any_order() -> None:
    dataset = volumes()
    settings = {"votes": 2, "multiple": 4, "seed": 3, "device": "cpu"}
    first = validate(dataset, dataset.ids, noisy, **settings)
    assert validate(dataset, dataset.ids, noisy, **settings) == first
    assert validate(dataset, dataset.ids[::-1], noisy, **settings) == first
    assert validate(dataset, dataset.ids, noisy, **settings | {"seed": 4}) != first


def test_one_class_and_images() -> None:
    dataset = PhantomDataset(cases=8, classes=1, size=20, difficulty=0)

    @each
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
    for result in full(dataset, each(lambda images, _: encode_mask(images[:, 0].to(torch.uint8), 1, spec.foreground))):
        assert torch.equal(result.labels, label)


@pytest.mark.long
def test_real_volumes_keep_their_grid(hippocampus_folder: Path) -> None:
    dataset = open_dataset("hippocampus", hippocampus_folder)

    @each
    def dark(images: Tensor, rng: torch.Generator) -> Tensor:
        return torch.cat([images, -images, torch.randn(images.shape, generator=rng) - 1], dim=1)

    cases = dataset.split(0).test[:3]
    for window in ("sliding", "whole"):
        for result in evaluate(dataset, cases, dark, votes=2, multiple=8, seed=0, device="cpu", window=window):
            assert result.labels.shape == dataset.case(result.case_id).label.shape
            assert all(math.isfinite(score.hd95) and math.isfinite(score.assd) for score in result.scores)


def test_samplers_get_normalised_images() -> None:
    """A case holds bytes; a sampler reads what the dataset says a model reads, in both kinds of evaluation."""
    image = torch.randint(0, 256, (3, 1, 12, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 12, 20, dtype=torch.uint8)
    spec = replace(TILES, image_size=16)
    dataset = dataset_of(spec, [Case(id=f"{number}", image=image, label=label) for number in range(4)])
    seen = []

    @each
    def watched(images: Tensor, _: torch.Generator) -> Tensor:
        seen.append(images)
        return images[:, :1].clamp(-1, 1)

    full(dataset, watched, ("0",), window="whole", votes=1)
    validate(dataset, ["0"], watched, votes=1, multiple=4, seed=0, device="cpu")
    full(dataset, watched, ("0",), window="whole", votes=1, multiple=16)
    expected = spec.normalise(image[None, :, 0])
    assert torch.equal(seen[0], expected)
    assert torch.equal(seen[1], expected)
    assert torch.equal(seen[2][:, :, 2:14, 6:26], expected)
    assert torch.equal(seen[2][:, :, 0], seen[2][:, :, 2])
    assert torch.equal(seen[2][..., 31], seen[2][..., 25])
