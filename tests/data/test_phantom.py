"""Generated images."""

import numpy as np
import pytest
import torch

from cdal.data import open_dataset
from cdal.data.phantom import PhantomDataset
from cdal.errors import InputError


def test_the_same_seed_gives_the_same_cases() -> None:
    first, second, other = PhantomDataset(cases=6), PhantomDataset(cases=9), PhantomDataset(cases=6, seed=1)
    for case_id in first.ids:
        assert torch.equal(first.case(case_id).image, second.case(case_id).image)
        assert torch.equal(first.case(case_id).label, second.case(case_id).label)
        assert not torch.equal(first.case(case_id).image, other.case(case_id).image)


@pytest.mark.parametrize("classes", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [16, 32, 96])
def test_every_case_shows_every_class(classes: int, size: int) -> None:
    dataset = PhantomDataset(size=size, cases=12, classes=classes)
    assert dataset.spec.mask_channels == (1 if classes == 1 else classes + 1)
    for case in map(dataset.case, dataset.ids):
        assert case.image.shape == (1, 1, size, size)
        assert case.label.shape == (1, size, size)
        assert case.label.unique().tolist() == list(range(classes + 1))
        assert case.image.dtype == torch.float32
        assert (case.image.min(), case.image.max()) == (-1, 1)


def test_difficulty_blurs_the_difference_between_organ_and_background() -> None:
    def contrast(difficulty: float) -> float:
        dataset = PhantomDataset(size=48, cases=16, classes=1, difficulty=difficulty)
        gaps = []
        for case in map(dataset.case, dataset.ids):
            inside, outside = case.image[0][case.label > 0], case.image[0][case.label == 0]
            gaps.append(float((inside.mean() - outside.mean()) / outside.std()))
        return float(np.mean(gaps))

    assert contrast(0.0) > 1.5 * contrast(0.5) > 2 * contrast(1.0) > 0


def threshold_dice(difficulty: float) -> float:
    """What the best single threshold on brightness reaches, over all cases."""
    dataset = PhantomDataset(difficulty=difficulty)
    image = torch.stack([dataset.case(case_id).image[0] for case_id in dataset.ids])
    bright = torch.stack([dataset.case(case_id).label for case_id in dataset.ids]) == 1
    scores = [2 * ((image > at) & bright).sum() / ((image > at).sum() + bright.sum()) for at in torch.linspace(-1, 1, 81)]
    return float(max(scores))


def test_brightness_alone_solves_only_the_easy_end() -> None:
    """A search needs room between a trivial predictor and a good network; the default leaves about a third."""
    easy, default, hard = (threshold_dice(difficulty) for difficulty in (0.0, 0.5, 1.0))
    assert easy > 0.95
    assert 0.5 < default < 0.8
    assert 0.2 < hard < default - 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 8}, "size of phantom is 8"),
        ({"size": 32.5}, "size of phantom is 32.5"),
        ({"cases": 3}, "cases of phantom is 3"),
        ({"classes": 0}, "classes of phantom is 0"),
        ({"classes": True}, "classes of phantom is True"),
        ({"difficulty": 1.5}, "difficulty of phantom is 1.5"),
        ({"difficulty": float("nan")}, "difficulty of phantom is nan"),
        ({"seed": -1}, "seed of phantom is -1"),
        ({"sise": 32}, "unknown option 'sise' of the dataset phantom; its options are size, cases, classes, difficulty, seed"),
    ],
)
def test_wrong_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        open_dataset("phantom", **options)


def test_opening_twice_gives_the_same_object() -> None:
    assert open_dataset("phantom", cases=5) is open_dataset("phantom", cases=5)
    assert open_dataset("phantom", cases=5) is not open_dataset("phantom", cases=6)


def test_doors_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="unknown dataset 'brain'; datasets are phantom, hippocampus"):
        open_dataset("brain")
    with pytest.raises(InputError, match="phantom is generated; leave out --data /tmp"):
        open_dataset("phantom", "/tmp")
    with pytest.raises(InputError, match="hippocampus is read from files; give its folder with --data"):
        open_dataset("hippocampus")
    with pytest.raises(InputError, match="unknown option 'size' of the dataset hippocampus; its options are none"):
        open_dataset("hippocampus", "/tmp", size=3)
