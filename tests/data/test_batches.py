"""Training batches: what they hold, and what they depend on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from datasets import dataset_of

from cdal.data import Augmentation, Case, DatasetSpec, Preparation, encode_mask, steps_per_pass, training_batch
from cdal.data.cases import CaseDataset
from cdal.data.folds import PARTITION_NAMES
from cdal.data.phantom import PhantomDataset
from cdal.errors import InputError

FULL = Augmentation(flips=True, rotation=22, scale=(0.75, 1.25), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def numbered_volumes(count: int = 6, shape: tuple[int, int, int] = (10, 12, 9), size: int = 8) -> CaseDataset:
    """Volumes whose voxels tell their case and place, so that a sample shows where it came from."""
    spec = DatasetSpec(
        name="numbered",
        image_channels=1,
        classes=("a", "b"),
        image_size=size,
        volumetric=True,
        sample_depth=size,
        folds=PARTITION_NAMES,
        protocol="",
        licence="",
    )
    cases = []
    for number in range(count):
        label = torch.zeros(shape, dtype=torch.uint8)
        label[4:6, 5:7, 3:5] = 1
        label[6, 5, 3] = 2
        places = torch.arange(label.numel(), dtype=torch.float32).reshape(1, *shape) + number * label.numel()
        cases.append(Case(id=f"case_{number}", image=places, label=label))
    return dataset_of(spec, cases)


def coloured_images(augmentation: Augmentation = FULL, size: int = 24) -> CaseDataset:
    """RGB bytes, which a model reads normalised."""
    spec = DatasetSpec(
        name="coloured",
        image_channels=3,
        classes=("a",),
        image_size=size,
        volumetric=False,
        folds=PARTITION_NAMES,
        protocol="",
        licence="",
        preparation=Preparation(scaling="bytes", mean=(100, 120, 140), std=(50, 60, 70)),
        augmentation=augmentation,
    )
    rng = torch.Generator().manual_seed(0)
    noise = [torch.randint(256, (4, 1, 40, 33), generator=rng).byte() for _ in range(6)]
    return dataset_of(spec, [Case(id=f"case_{number}", image=four[:3], label=four[3] // 128) for number, four in enumerate(noise)])


@pytest.mark.parametrize("make", [numbered_volumes, coloured_images])
@pytest.mark.parametrize("world", [2, 4, 8])
@pytest.mark.parametrize("samples_per_case", [1, 2, 4, 16])
def test_workers_share_the_batch_of_one_worker(make: Callable[[], CaseDataset], world: int, samples_per_case: int) -> None:
    dataset = make()
    for step in (0, 1, 7):
        channels = dataset.spec.mask_channels
        common = {"step": step, "batch_size": 16, "samples_per_case": samples_per_case, "mask_channels": channels, "seed": 5}
        whole = training_batch(dataset, dataset.ids, **common)
        for rank in range(world):
            share = training_batch(dataset, dataset.ids, **common, rank=rank, world=world)
            assert torch.equal(share.image, whole.image[rank::world])
            assert torch.equal(share.mask, whole.mask[rank::world])


@pytest.mark.parametrize("make", [PhantomDataset, coloured_images])
def test_batches_depend_on_step_and_seed_alone(make: Callable[[], CaseDataset]) -> None:
    dataset = make()

    def batch(step: int, seed: int) -> torch.Tensor:
        settings = {"batch_size": 4, "samples_per_case": 1, "mask_channels": dataset.spec.mask_channels}
        return training_batch(dataset, dataset.ids, step=step, seed=seed, **settings).image

    late = batch(50, 0)
    np.random.seed(3)
    torch.manual_seed(3)
    for step in range(3):
        batch(step, 0)
    assert torch.equal(batch(50, 0), late)
    assert not torch.equal(batch(50, 1), late)
    assert not torch.equal(batch(51, 0), late)


def test_every_pass_shows_every_case_once_in_a_new_order() -> None:
    dataset = numbered_volumes(6)
    voxels = 10 * 12 * 9
    seen = []
    for step in range(6):
        image, _, _ = training_batch(dataset, dataset.ids, step=step, batch_size=4, samples_per_case=2, mask_channels=3, seed=0)
        origin = (image.amin(dim=(1, 2, 3)) // voxels).int().tolist()
        assert origin[0::2] == origin[1::2]  # both samples of a group are of one case
        seen += origin[0::2]
    first, second = seen[:6], seen[6:]
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second


def test_samples_are_axial_slices_with_their_own_labels() -> None:
    dataset = numbered_volumes()
    image, mask, _ = training_batch(dataset, dataset.ids, step=0, batch_size=32, samples_per_case=16, mask_channels=3, seed=0)
    assert image.shape == (32, 1, 8, 8)
    for picture, one_hot in zip(image, mask, strict=True):
        case_number, place = divmod(int(picture[0, 0, 0]), 10 * 12 * 9)
        d, h, w = np.unravel_index(place, (10, 12, 9))
        case = dataset.case(f"case_{case_number}")
        assert torch.equal(picture[0], case.image[0, d, h : h + 8, w : w + 8])
        assert torch.equal(one_hot.argmax(0), case.label[d, h : h + 8, w : w + 8].long())


def test_few_samples_of_a_crop_are_different_slices_in_order() -> None:
    dataset = numbered_volumes(shape=(8, 8, 8))
    images, _ = dataset.draw("case_0", 3, np.random.default_rng(0))
    depths = [int(image.min()) // 64 for image in images]
    assert depths == sorted(set(depths))


def test_centres_are_foreground_as_often_as_background() -> None:
    """As MONAI's RandCropByPosNegLabel with pos = neg = 1, whose generator of centres is the judge."""
    from monai.transforms.utils import generate_pos_neg_label_crop_centers, map_binary_to_indices

    dataset = numbered_volumes(shape=(20, 24, 18))
    label = dataset.case("case_0").label.numpy()
    rng, theirs_rng = np.random.default_rng(0), np.random.RandomState(0)
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    draws = 4000
    foreground, background = map_binary_to_indices(label[None] > 0)
    centres = generate_pos_neg_label_crop_centers((8, 8, 8), draws, 0.5, label.shape, foreground, background, theirs_rng)
    for centre in centres:
        corner = int(np.ravel_multi_index([at - 4 for at in centre], label.shape))
        theirs[corner] = theirs.get(corner, 0) + 1
    for _ in range(draws):
        corner = int(dataset.draw("case_0", 8, rng)[0][0, 0, 0, 0])
        ours[corner] = ours.get(corner, 0) + 1
    in_theirs = {np.unravel_index(corner, label.shape) for corner in theirs}
    for axis in range(3):
        at = [np.unravel_index(corner, label.shape)[axis] for corner in ours]
        assert (min(at), max(at)) == (min(p[axis] for p in in_theirs), max(p[axis] for p in in_theirs))
    near = [corner for corner in set(ours) | set(theirs) if theirs.get(corner, 0) > draws * 0.02]
    assert near
    for corner in near:  # the few places of the foreground, each a twentieth of the draws
        assert ours.get(corner, 0) == pytest.approx(theirs[corner], rel=0.35)


def test_a_case_without_foreground_gives_background() -> None:
    dataset = numbered_volumes()
    empty = Case(id="empty", image=torch.zeros(1, 10, 10, 10), label=torch.zeros(10, 10, 10, dtype=torch.uint8))
    full = Case(id="full", image=torch.zeros(1, 10, 10, 10), label=torch.ones(10, 10, 10, dtype=torch.uint8))
    dataset = dataset_of(dataset.spec, [empty, full, *map(dataset.case, dataset.ids)])
    assert dataset.draw("empty", 40, np.random.default_rng(0))[1].max() == 0
    assert dataset.draw("full", 40, np.random.default_rng(0))[1].min() == 1


def test_cases_smaller_than_a_crop_repeat_their_edges() -> None:
    dataset = numbered_volumes(shape=(7, 12, 5))
    image, _ = dataset.draw("case_0", 8, np.random.default_rng(0))
    assert image.shape == (8, 1, 8, 8)
    assert np.array_equal(image[..., 0], image[..., 1])  # 5 wide: one column before, two after
    assert np.array_equal(image[..., 5], image[..., 6])
    assert np.array_equal(image[..., 5], image[..., 7])
    assert np.array_equal(image[7], image[6])  # 7 deep: none before, one after
    assert dataset.case("case_0").image.shape == (1, 7, 12, 5)


def test_bytes_are_normalised() -> None:
    dataset = coloured_images(Augmentation(), size=33)
    image, mask, _ = training_batch(dataset, dataset.ids[:1], step=0, batch_size=8, samples_per_case=8, mask_channels=1, seed=0)
    assert image.dtype == mask.dtype == torch.float32
    stored = image * torch.tensor([50, 60, 70])[:, None, None] + torch.tensor([100, 120, 140])[:, None, None]
    case = dataset.case("case_0")
    rows = case.image[:, 0].unfold(1, 33, 1).permute(1, 0, 3, 2).float()  # every crop there is
    for picture, one_mask in zip(stored, mask, strict=True):
        (place,) = [row for row in range(len(rows)) if torch.allclose(rows[row], picture, atol=1e-3)]
        assert torch.equal(one_mask[0], case.label[0, place : place + 33] * 2.0 - 1)


def test_augmentation_changes_samples_and_is_drawn_anew() -> None:
    settings = {"batch_size": 4, "samples_per_case": 1, "mask_channels": 1, "seed": 0}
    plain, changed = coloured_images(Augmentation(), size=40), coloured_images(FULL, size=40)  # as large as a case: one crop
    first, second, third = (training_batch(changed, changed.ids[:1], step=step, **settings).image for step in (0, 1, 0))
    assert torch.equal(first, third)
    samples = [*training_batch(plain, plain.ids[:1], step=0, **settings).image[:1], *first, *second]
    for number, sample in enumerate(samples):
        assert all((sample - other).abs().mean() > 0.05 for other in samples[:number])


def test_masks() -> None:
    label = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    one_hot = encode_mask(label, 3)
    assert one_hot.shape == (1, 3, 2, 2)
    assert one_hot.tolist() == [[[[1, -1], [-1, -1]], [[-1, 1], [-1, 1]], [[-1, -1], [1, -1]]]]
    assert encode_mask(label, 1).tolist() == [[[[-1, 1], [1, 1]]]]
    assert encode_mask(label, 1, foreground=-1).tolist() == [[[[1, -1], [-1, -1]]]]


@pytest.mark.parametrize(
    ("cases", "batch_size", "samples_per_case", "steps"),
    [(28, 4, 1, 7), (29, 4, 1, 8), (156, 16, 4, 39), (156, 128, 128, 156), (2, 8, 1, 1)],
)
def test_steps_per_pass(cases: int, batch_size: int, samples_per_case: int, steps: int) -> None:
    assert steps_per_pass(cases, batch_size, samples_per_case) == steps


@pytest.mark.parametrize(("samples_per_case", "world"), [(3, 1), (1, 3)])
def test_a_batch_that_does_not_divide(samples_per_case: int, world: int) -> None:
    dataset = numbered_volumes()
    settings = {"step": 0, "batch_size": 8, "mask_channels": 3, "seed": 0}
    with pytest.raises(InputError, match=rf"batch_size is 8; .*samples_per_case \({samples_per_case}\).*workers \({world}\)"):
        training_batch(dataset, dataset.ids, **settings, samples_per_case=samples_per_case, world=world)
